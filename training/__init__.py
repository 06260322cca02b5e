"""How each part is fitted, and the nightly job."""
