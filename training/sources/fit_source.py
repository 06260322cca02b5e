"""Which sources suit the data, and fitting them.

Every fit sees only the interactions it is given: the caller cuts them at the moment it needs.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Final, NamedTuple

import numpy as np

from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.features.interactions import Interactions
from recsys.features.protocols import RecallSource
from recsys.retrieval.collaborative.als import Als
from recsys.retrieval.collaborative.ease import BYTES_PER_CELL
from recsys.retrieval.fitted_source import SourceInputs
from recsys.retrieval.sequence.source import SequenceSource
from recsys.retrieval.source_kinds import FITTABLE, source_class
from recsys.storage.files import is_disk_full

log = logging.getLogger(__name__)

EASE_LEAST_ITEMS: Final = 1000
EASE_MOST_ITEMS: Final = 12_000
EASE_CELL_SECONDS: Final = 1.2e-11
"""Seconds of an EASE fit per M³ on one core (measured: 8,000 items in 6 s)."""
SEQUENCE_LEAST_PAIRS: Final = 2000
"""Consecutive events below which a sequence model learns nothing (assumed)."""


class SourceFailed(RecsysError):
    """One source could not be fitted; the others can go on without it.

    Args:
        name: of the source.
        error: what stopped it.
    """

    def __init__(self, name: str, error: Exception) -> None:
        self.name = name
        self.why = " ".join(f"{type(error).__name__}: {error}".split())[:300].strip(" :")
        super().__init__(
            f"the source “{name}” could not be fitted",
            where="sources",
            found=self.why,
            fix="correct what stops it, or leave it out of sources.use",
        )


@contextmanager
def failing_as(name: str) -> Iterator[None]:
    """Whatever stops a source inside becomes `SourceFailed`; not what is wrong with the config (a
    `UsageError`), and not a full disk, which stops everything."""
    try:
        yield
    except (SourceFailed, UsageError):
        raise
    except Exception as error:
        if is_disk_full(error):
            raise
        raise SourceFailed(name, error) from error


class Applicable(NamedTuple):
    """Whether a source is tried on this data."""

    name: str
    kept: bool
    reason: str


def applicable_sources(
    interactions: Interactions,
    inputs: SourceInputs,
    use: tuple[str, ...] | None,
    memory_bytes: float,
    budget_seconds: float,
) -> list[Applicable]:
    """Each source with the reason why it is tried or not, cheapest first.

    `popular` is always kept: it is what people without a history get.

    Args:
        interactions: events to fit on.
        inputs: catalogue, texts and vectors.
        use: configured names; None for all that fit.
        memory_bytes: that a fit may take.
        budget_seconds: that one fit may take.
    """
    return [
        _applicable(name, interactions, inputs, use, memory_bytes, budget_seconds)
        for name in FITTABLE
    ]


def _applicable(
    name: str,
    interactions: Interactions,
    inputs: SourceInputs,
    use: tuple[str, ...] | None,
    memory_bytes: float,
    budget_seconds: float,
) -> Applicable:
    if name == "popular":
        return Applicable(name, True, "always there, for people without a history")
    if use is not None and name not in use:
        return Applicable(name, False, "not in sources.use")
    problem = {
        "recent": lambda: _no_clock(interactions, inputs),
        "item_item": lambda: _no_pairs(interactions),
        "transitions": lambda: _no_pairs(interactions),
        "als": lambda: _no_pairs(interactions),
        "ease": lambda: (
            _no_pairs(interactions) or _no_room_for_ease(interactions, memory_bytes, budget_seconds)
        ),
        "sequence": lambda: _no_sequences(interactions),
        "bm25": lambda: _no_texts(inputs),
        "attributes": lambda: _no_texts(inputs),
    }[name]()
    return Applicable(name, problem is None, problem or "fits the data and the budget")


def _no_clock(interactions: Interactions, inputs: SourceInputs) -> str | None:
    if not len(interactions) or interactions.time.min() == interactions.time.max():
        return "all events have the same time: recent would equal popular"
    return None


def _no_pairs(interactions: Interactions) -> str | None:
    liked = interactions.weight > 0
    users = interactions.user[liked]
    counts = np.bincount(users) if len(users) else np.zeros(1, np.int64)
    if counts.max(initial=0) < 2:
        return "no user has two positive events: nothing goes together"
    if np.count_nonzero(np.bincount(interactions.item[liked])) < 2:
        return "all positive events are of one item"
    return None


def ease_items(n_items: int, memory_bytes: float, budget_seconds: float) -> int:
    """How many items EASE can take within memory and time."""
    by_memory = (memory_bytes / BYTES_PER_CELL) ** 0.5
    by_time = (budget_seconds / EASE_CELL_SECONDS) ** (1 / 3)
    return int(min(n_items, EASE_MOST_ITEMS, by_memory, by_time))


def _no_room_for_ease(
    interactions: Interactions, memory_bytes: float, budget_seconds: float
) -> str | None:
    room = ease_items(interactions.n_items, memory_bytes, budget_seconds)
    if room < min(EASE_LEAST_ITEMS, interactions.n_items):
        return f"its matrix has room for {room} items only in the given memory and time"
    return None


def _no_sequences(interactions: Interactions) -> str | None:
    liked = interactions.weight > 0
    pairs = int(liked.sum()) - np.count_nonzero(np.bincount(interactions.user[liked]))
    if pairs < SEQUENCE_LEAST_PAIRS:
        return f"{pairs} consecutive events are too few, at least {SEQUENCE_LEAST_PAIRS} needed"
    return None


def _no_texts(inputs: SourceInputs) -> str | None:
    if not any(len(text.strip()) > 0 for text in inputs.texts):
        return "the items have no text"
    return None


def fit_sources(
    interactions: Interactions,
    inputs: SourceInputs,
    plan: Mapping[str, Mapping[str, float]],
    *,
    seed: int,
    workers: int,
    previous: Mapping[str, RecallSource] | None = None,
) -> dict[str, RecallSource]:
    """Fit the planned sources (name → params) on all given interactions, cheapest first.

    Args:
        interactions: events to fit on, all before the cut.
        inputs: catalogue, texts and vectors.
        plan: source → its params.
        seed: of the draws.
        workers: threads.
        previous: sources of an earlier cut: those that can continue from their earlier weights do,
            the others start afresh.

    Raises:
        UsageError: a name or a param that does not exist.
    """
    fitted: dict[str, RecallSource] = {}
    for name in sorted(plan, key=lambda name: (*FITTABLE, name).index(name)):
        started = perf_counter()
        fitted[name] = fit_one(
            name, interactions, inputs, plan[name], seed=seed, workers=workers,
            previous=(previous or {}).get(name),
        )  # fmt: skip
        log.info("source %s fitted in %.1f s", name, perf_counter() - started)
    return fitted


def fit_one(
    name: str,
    interactions: Interactions,
    inputs: SourceInputs,
    params: Mapping[str, float],
    *,
    seed: int,
    workers: int,
    previous: RecallSource | None = None,
) -> RecallSource:
    """Fit one source by name.

    Args:
        name: of the source.
        interactions: events to fit on, all before the cut.
        inputs: catalogue, texts and text vectors.
        params: by name, of `PARAMS`; those absent have their defaults.
        seed: of the draws; the same seed gives the same source.
        workers: threads.
        previous: the fit of an earlier cut to go on from, where the source can.
    """
    if name == SequenceSource.name:
        from recsys.training.sources.sequence import fit_sequence

        earlier = previous if isinstance(previous, SequenceSource) else None
        return fit_sequence(
            interactions, inputs, params, seed=seed, workers=workers, previous=earlier
        )
    if name == Als.name:
        start = previous if isinstance(previous, Als) else None
        return Als.fit(interactions, inputs, params, seed=seed, workers=workers, previous=start)
    return source_class(name).fit(interactions, inputs, params, seed=seed, workers=workers)
