"""The command line: the only room that sees training and serving; imports lazily."""
