"""From the caller's files and the service's log to the tables that every later stage reads."""
