"""What people do with a workspace: evaluate, compare, backtest, lists, forget, notify; `cli` parses and prints."""
