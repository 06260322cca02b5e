"""Which version answers whom, and lists that mix versions or explore, each with what was chosen.

Assignment is by a hash of the unit, so it is sticky without being stored.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

from recsys.data_schemas.api import SESSION
from recsys.query import RankingQuery
from recsys.storage.experiment_records import DeclaredExperiment

T = TypeVar("T")


class Experiments(Protocol):
    """Where the service learns which experiment runs."""

    def running(self) -> DeclaredExperiment | None:
        """The one that runs now."""
        ...


class Assignment(NamedTuple):
    """The part that one list takes in an experiment."""

    experiment: DeclaredExperiment
    arm: str
    unit: str | None
    """Pseudonym of the visit, where visits are dealt to the arms."""


class OfTheCommandLine:
    """What `--ab` or `--interleave` says, as an experiment that never ends."""

    def __init__(self, ab: tuple[str, float] | None, interleave: str | None) -> None:
        self._experiment: DeclaredExperiment | None = None
        if ab is not None:
            version, share = ab
            self._experiment = DeclaredExperiment("ab", "ab", version, None, share, f"ab:{version}")
        elif interleave:
            self._experiment = DeclaredExperiment(
                "interleave", "interleave", interleave, None, 1.0, f"interleave:{interleave}"
            )

    def running(self) -> DeclaredExperiment | None:
        """The one of the command line; None without one."""
        return self._experiment


def assigned(experiment: DeclaredExperiment, ask: RankingQuery) -> Assignment | None:
    """The part of a list in an experiment; None where its unit is none.

    A visit is the unit of a list that names one, whether its person is known or not; a person who is
    named without a visit has none.
    """
    if experiment.unit == "user":
        arm = experiment.arm_of(ask.user_id)
        return None if arm is None else Assignment(experiment, arm, None)
    visit = ask.session or (ask.user_id if ask.user_id.startswith(SESSION) else "")
    arm = experiment.arm_of(visit) if visit else None
    return None if arm is None else Assignment(experiment, arm, experiment.pseudonym(visit))


def team_draft(
    first: Sequence[str], second: Sequence[str], length: int, rng: random.Random
) -> list[tuple[str, int]]:
    """Interleave two lists (Radlinski, Kurup and Joachims 2008): (item, team 0 or 1).

    In each round a coin says which team picks first; each picks its best item not yet taken.
    """
    lists, places = (first, second), [0, 0]
    taken: set[str] = set()
    result: list[tuple[str, int]] = []
    while len(result) < length:
        before = len(result)
        for team in (0, 1) if rng.random() < 0.5 else (1, 0):
            while places[team] < len(lists[team]) and lists[team][places[team]] in taken:
                places[team] += 1
            if places[team] < len(lists[team]) and len(result) < length:
                item = lists[team][places[team]]
                taken.add(item)
                result.append((item, team))
        if len(result) == before:
            break
    return result


def explore(order: list[T], share: float, rng: random.Random) -> tuple[list[T], list[float]]:
    """Swap one neighbouring pair in a `share` of lists.

    Gives the list as shown and, for each place, the probability that this item was shown there:
    an item that stayed moves with the pairs it is part of, a swapped one had share/(pairs).
    """
    n = len(order)
    if share <= 0.0 or n < 2:
        return order, [1.0] * n
    one_pair = share / (n - 1)
    propensities = [1.0 - one_pair * (2 if 0 < place < n - 1 else 1) for place in range(n)]
    if rng.random() >= share:
        return order, propensities
    place = rng.randrange(n - 1)
    shown = order.copy()
    shown[place], shown[place + 1] = shown[place + 1], shown[place]
    propensities[place] = propensities[place + 1] = one_pair
    return shown, propensities
