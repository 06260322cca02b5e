"""The sequence source: a small transformer over a history, served without torch."""
