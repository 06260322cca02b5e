"""The rooms of a night: one module per stage, called in order by training/nightly.py."""
