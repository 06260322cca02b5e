"""The text encoder: item texts, their vectors, and the interest of a user in an item."""
