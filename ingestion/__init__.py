"""How data comes in: tables, importers, the generator, bundled data."""
