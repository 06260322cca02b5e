"""What a table, a config and a request look like. Imports nothing of ours."""
