"""Every check of the tables, in order."""

from collections.abc import Callable
from typing import Final

from recsys.evaluation.data_leaks.dates import made_of_events
from recsys.evaluation.data_leaks.findings import Finding
from recsys.evaluation.data_leaks.known_futures import columns_that_know
from recsys.evaluation.data_leaks.logged_data import LoggedData
from recsys.evaluation.data_leaks.mixed_grades import mixed_up_grades
from recsys.evaluation.data_leaks.named_people import words_that_name
from recsys.evaluation.data_leaks.repeats import repeated_events
from recsys.evaluation.data_leaks.row_codes import marks_of_events
from recsys.evaluation.data_leaks.shifted import shifted_positives
from recsys.evaluation.data_leaks.shown_order import order_of_lists
from recsys.evaluation.data_leaks.shuffled import mixed_up_items
from recsys.evaluation.data_leaks.twins import copied_accounts

CHECKS: Final[tuple[Callable[[LoggedData], list[Finding]], ...]] = (
    made_of_events,
    columns_that_know,
    words_that_name,
    copied_accounts,
    repeated_events,
    shifted_positives,
    mixed_up_items,
    mixed_up_grades,
    order_of_lists,
    marks_of_events,
)


LEAST_USERS: Final = 100
"""Users from which on a finding may refuse a model: of fewer, a check by statistics warns only (assumed;
measured on a sound slice of 60 users, where one was wrong)."""


def examine(log: LoggedData) -> list[Finding]:
    """What every check found, failed or passed; of the findings on one column, the first."""
    if not len(log.events):
        return []
    found: list[Finding] = []
    left_out: set[tuple[str, str]] = set()
    for check in CHECKS:
        for finding in check(log):
            place = finding.table, finding.column
            if finding.leaves_out and place in left_out:
                continue
            left_out.add(place)
            found.append(finding if log.events.n_users >= LEAST_USERS else finding.as_warning())
    return found
