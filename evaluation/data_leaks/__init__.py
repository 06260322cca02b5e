"""What the tables themselves tell of the future, or of a hand that mixed them up: found before anything is
learned from them. One file per subject; `examine.py` asks them all."""
