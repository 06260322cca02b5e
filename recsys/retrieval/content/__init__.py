"""Content sources: what an item's own words and attributes say."""
