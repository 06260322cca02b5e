"""Grades that were mixed up: what was liked no longer goes with how the item was liked at other times.

Shapes: E events.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from recsys.evaluation.data_leaks.findings import Finding
from recsys.evaluation.data_leaks.logged_data import LoggedData
from recsys.evaluation.data_leaks.numbers import Doubles, owners_of, separation, slices_of
from recsys.evaluation.data_leaks.shuffled import ENOUGH, PEOPLE, SLICES, Verdict, fallen
from recsys.evaluation.report_context import WARN
from recsys.features.interactions import Bools

NAME: Final = "events are graded as their like are"
NOTHING: Final = 0.015
"""AUC above one half under which grades go with nothing (sound logs: from 0.05; measured)."""
PRIOR: Final = 2.0
"""Events of the usual grade that are added to an item's."""
LEAST: Final = 5_000
"""Events from which that is said."""
CLUSTERED: Final = 2.0
"""How much wider than by independent events the error is taken (assumed)."""


def mixed_up_grades(log: LoggedData) -> list[Finding]:
    """Whether the grades of all events, or of those of a time, were mixed up or turned round."""
    log = log.of_some_users
    if not log.graded:
        return [Finding.passed(NAME, "all events are graded alike")]
    label, part = log.positive, slices_of(log.events.time, SLICES)
    users = owners_of(log.events.user, part, SLICES)
    score = _grade_at_other_times(log, part)
    by_slice = [
        (s, separation(score[part == s], label[part == s]) - 0.5, _error(label[part == s]))
        for s in range(SLICES)
        if min(label[part == s].sum(), (~label[part == s]).sum()) >= ENOUGH and users[s] >= PEOPLE
    ]
    whole = separation(score, label) - 0.5
    verdict = Verdict(
        "an item's grades at other times", whole, _error(label), 1.0, len(label), by_slice
    )
    lost = fallen(
        verdict, NAME, "tell how an event is graded", "were grades mixed up or turned round there?"
    )
    if lost:
        return lost
    if len(label) >= LEAST and whole + _error(label) < NOTHING:
        detail = (
            f"AUC {0.5 + whole:.2f} on {len(label):,} events; 0.5 is chance: were grades mixed up?"
        )
        return [Finding.failed(NAME, detail, WARN)]
    return [Finding.passed(NAME, f"AUC {0.5 + whole:.2f}; 0.5 is chance")]


def _grade_at_other_times(log: LoggedData, part: npt.NDArray[np.integer]) -> Doubles:
    """float64[E]: mean grade of the event's item in the other slices, drawn towards that of all."""
    item, grade = log.events.item.astype(np.int64), log.positive.astype(np.float64)
    here = np.unique(item * SLICES + part, return_inverse=True)[1]
    rest, times = (
        np.bincount(item, weights)[item] - np.bincount(here, weights)[here]
        for weights in (grade, np.ones(len(grade)))
    )
    return np.asarray((rest + PRIOR * grade.mean()) / (times + PRIOR))


def _error(label: Bools) -> float:
    """Standard error of an AUC under chance, widened for events that are not independent."""
    ones = int(label.sum())
    others = len(label) - ones
    return CLUSTERED * float(np.sqrt((len(label) + 1) / 12 / max(ones * others, 1)))
