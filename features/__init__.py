"""What a feature is: each declared once, its batch and online readings side by side."""
