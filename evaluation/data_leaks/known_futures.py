"""Columns that know what comes: each column of the tables once, by the sign that shows it best."""

from typing import Final

from recsys.data_schemas.columns import CREATED_AT
from recsys.evaluation.data_leaks.dates import dates_of_last_events
from recsys.evaluation.data_leaks.findings import Finding
from recsys.evaluation.data_leaks.later_counts import counts_of, what_it_knows
from recsys.evaluation.data_leaks.later_favourites import foretold_favourites
from recsys.evaluation.data_leaks.later_means import knows_means, means_of
from recsys.evaluation.data_leaks.later_tastes import shifts
from recsys.evaluation.data_leaks.leaky_columns import (
    ITEMS,
    USERS,
    SuspectColumn,
    item_columns,
    user_columns,
)
from recsys.evaluation.data_leaks.logged_data import LoggedData
from recsys.evaluation.report_context import DROP, REFUSE, Check

SHOWN: Final = 12
"""Names of columns listed."""
CONSEQUENCE: Final = {
    DROP: "it is left out tonight; give it as it was known at the time, or leave it out for good",
    REFUSE: "an item cannot do without it",
}


def columns_that_know(log: LoggedData) -> list[Finding]:
    """One finding per column that knows later counts or choices, and a word on what was looked at."""
    items, users = item_columns(log), user_columns(log)
    found: dict[tuple[str, str], Finding] = {}
    for table, columns in ((ITEMS, items), (USERS, users)):
        entities, counts = counts_of(log, table)
        means = means_of(log, table)
        for column, how in dates_of_last_events(log, columns, table):
            _add(found, column, how)
        for column in columns:
            known = what_it_knows(column, entities, counts)
            said = known.how if known else knows_means(column, means) if means else None
            if said is not None:
                _add(found, column, said)
    for shift in shifts(log, users, items):
        _add(found, shift.column, shift.in_words)
    for column, how in foretold_favourites(log, users, items):
        _add(found, column, how)
    return [*found.values(), *_looked_at(items, users, bool(found))]


def _add(found: dict[tuple[str, str], Finding], column: SuspectColumn, how: str) -> None:
    """Keep the first finding of a column; several things read off one column are one."""
    key = column.table, column.source or column.name
    consequence = CONSEQUENCE.get(column.outcome, "no feature reads it")
    check = Check(
        f"{column.name} of {column.table} does not know what comes",
        False,
        f"{how}; {consequence}",
        column.outcome,
    )
    drops = column.outcome == DROP
    finding = Finding(check, column.table if drops else "", column.source if drops else "")
    found.setdefault(key, finding)


def _looked_at(
    items: list[SuspectColumn], users: list[SuspectColumn], any_found: bool
) -> list[Finding]:
    """What was looked at, and what nobody can check: when an undated attribute became known."""
    columns = [*items, *users]
    undated = [f"{c.table}.{c.name}" for c in columns if c.own and c.name != CREATED_AT]
    found = []
    if not any_found:
        found.append(
            Finding.passed(
                "no column knows what comes", f"{len(columns)} columns of items and users"
            )
        )
    if undated:
        more = f" and {len(undated) - SHOWN} more" if len(undated) > SHOWN else ""
        found.append(
            Finding.passed(
                "what cannot be checked is said",
                "these attributes have no date, so that they were known at each moment is taken on "
                f"trust, as far as nothing above speaks against it: {', '.join(undated[:SHOWN])}{more}",
            )
        )
    return found
