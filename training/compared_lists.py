"""What a model is held against, whoever evaluates it: the simplest baselines, and single sources.

Item-item, ALS and BM25 are always among the sources; where a recipe does without one it is fitted with
its default params. One that cannot be had is named with its reason, and the evaluation goes on.

Shapes: G moments, N items, K places of a list.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np

from recsys.evaluation import baselines
from recsys.evaluation.lists import PastItems, RankedLists
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import Interactions, Ints, Longs
from recsys.features.protocols import RecallSource
from recsys.retrieval.fitted_source import SourceInputs
from recsys.rules import ListCaps
from recsys.storage.engines.engine import EngineFailed
from recsys.training.groups import HistoryOf, source_lists
from recsys.training.sources.fit_source import applicable_sources

REFERENCES = ("item_item", "als", "bm25")
"""Sources that are always compared with."""
FROZEN = "frozen text"
"""The encoder before fine-tuning, over a plain decayed mean of the history."""
TEXT, TEXT_ONLY = "text", "text alone"
"""The encoder as a source, and as the page names its lists."""
LIST_LENGTH = 100

T = TypeVar("T")


@dataclass
class Compared:
    """Sources and lists to compare with, and those that could not be had."""

    sources: dict[str, RecallSource] = field(default_factory=dict)
    lists: list[RankedLists] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    """Does not apply to this data → why."""
    failed: dict[str, str] = field(default_factory=dict)
    """Should have been there → what went wrong."""

    def attempt(self, name: str, make: Callable[[], T]) -> T | None:
        """What `make` gives; whatever stops it is written down, for the page must say it. An engine that is
        lost stops everything: it is no fault of what was to be made."""
        try:
            return make()
        except EngineFailed:
            raise
        except Exception as error:
            self.failed[name] = f"{type(error).__name__}: {error}".strip()[:300]
            return None

    def add_source(self, name: str, make: Callable[[], RecallSource]) -> None:
        """A source, if it can be made."""
        if (source := self.attempt(name, make)) is not None:
            self.sources[name] = source

    def add_references(
        self,
        events: Interactions,
        extra: SourceInputs,
        fit: Callable[[str], RecallSource],
        have: Mapping[str, RecallSource],
    ) -> None:
        """Those of `REFERENCES` that are not at hand, fitted with their default params.

        Args:
            events: what they may know.
            extra: catalogue, texts and vectors.
            fit: makes one by its name.
            have: sources at hand by name.
        """
        missing = [name for name in REFERENCES if name not in have]
        applicable = applicable_sources(events, extra, None, np.inf, np.inf) if missing else ()
        for name, applies, reason in applicable:
            if name not in missing:
                continue
            if applies:
                self.add_source(name, partial(fit, name))
            else:
                self.absent[name] = reason

    def add_lists(
        self, known: "KnownAtMoments", alone: Iterable[RankedLists], caps: ListCaps
    ) -> None:
        """Lists of the simplest baselines and of each source alone, cut as they would be served.

        A source alone that has nothing to say, for a new user say, is filled up with popular items:
        comparing with an empty list would flatter the model.

        Args:
            known: the moments and what may be known at them.
            alone: what each source alone listed, named by its label, as long as the caps need.
            caps: of every list.
        """
        popular = self.add_simple(known, caps)
        for made in alone:
            filled = baselines.filled_up(made.items, popular)
            listed = caps.cut(filled, made.scores, LIST_LENGTH)
            self.lists.append(RankedLists(made.name, *listed))

    def each_alone(
        self,
        known: "KnownAtMoments",
        sources: Mapping[str, RecallSource],
        depth: int,
        workers: int,
    ) -> Iterator[RankedLists]:
        """What each source alone lists, one at a time as they are asked for.

        Args:
            known: the moments and what may be known at them.
            sources: by label, fitted before the moments.
            depth: places of a list.
            workers: threads.
        """
        unavailable = known.catalogue.blocked.copy()
        for label, source in sources.items():
            make = partial(
                source_lists,
                source,
                known.now,
                known.history_of,
                unavailable,
                k=depth,
                workers=workers,
            )
            if (made := self.attempt(label, make)) is not None:
                yield RankedLists(label, *made)

    def add_simple(self, known: "KnownAtMoments", caps: ListCaps) -> Ints:
        """Lists of the simplest baselines; int32[G, depth] of popular items to fill others up with.

        Args:
            known: the moments and what may be known at them.
            caps: of every list.
        """
        simple, absent = baselines.simple_baselines(
            known.events,
            known.past,
            caps.depth(LIST_LENGTH),
            now=int(known.now.min()),
            catalogue=known.catalogue,
            ordinal=known.ordinal,
        )
        self.absent |= absent
        for made in simple:
            listed = caps.cut(made.items, made.scores, LIST_LENGTH)
            self.lists.append(RankedLists(made.name, *listed))
        return simple[0].items


def label_of(source: str) -> str:
    """What the page calls the lists of a source alone."""
    return TEXT_ONLY if source == TEXT else source


@dataclass(frozen=True)
class KnownAtMoments:
    """G moments, and what may be known at them."""

    events: Interactions
    """Before the first of them: what the simplest baselines see."""
    past: PastItems
    """Items each moment's user had acted on before it."""
    now: Longs
    """int64[G], µs UTC."""
    history_of: HistoryOf
    """Moment → all that its user had done before."""
    catalogue: Catalogue
    ordinal: bool
    """Whether times only order, so that nothing is recent."""
