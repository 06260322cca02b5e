"""Collaborative models: who acted on what, and in which order."""
