"""Offline evaluation: metrics on ranked lists, honest intervals, and the report page.

Nothing here trains a model. Lists and truth come in as arrays (`lists`), metrics are per group
(`metrics`), uncertainty is by user (`uncertainty`), and `report` turns both into a page.
"""
