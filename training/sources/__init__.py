"""How the sources are fitted, tuned and chosen."""
