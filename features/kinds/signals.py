"""Scores and ranks that the recall stage gives with each candidate.

Definitions: the stage's own values; an item that a source does not know, or does not list, has
NaN. The stage is fitted before the row's time in every window, which is what makes them as-of.
Units: the source's. Cost: one copy per candidate.
"""

from dataclasses import dataclass

import numpy as np

from recsys.features.interactions import Floats
from recsys.features.kinds.kind import Family, SignalFeature

_FAMILIES: dict[str, Family] = {"text": "text", "fused": "recall", "reserve": "recall"}
"""Family of a source's signals; one that is not declared is collaborative."""
_PAIRS: set[str] = set()
"""Sources that count pairs of items: those bought together, those acted on in a row."""


def declare_source(name: str, family: Family, pairs: bool = False) -> None:
    """Make known what the signals of a source are, as its class declares it.

    Args:
        name: of the source.
        family: of its signals.
        pairs: whether it counts pairs of items.
    """
    _FAMILIES[name] = family
    (_PAIRS.add if pairs else _PAIRS.discard)(name)


def family_of(source: str) -> Family:
    """The family of a source's signals."""
    return _FAMILIES.get(source, "collaborative")


@dataclass(frozen=True)
class _Signal(SignalFeature):
    elementwise = True

    source: str
    score: str
    """Column of the source."""

    @property
    def signal(self) -> str:
        return f"{self.source}.{self.score}"

    @property
    def column(self) -> str:
        return self.signal

    @property
    def group(self) -> str:
        return family_of(self.source)


@dataclass(frozen=True)
class InterestScore(_Signal):
    """The fine-tuned encoder's interest of the user in the candidate. NaN without history."""

    family = "text"


@dataclass(frozen=True)
class TextSimilarity(_Signal):
    """Cosine of the candidate's text and history items' (liked ones): the last, the best, their mean, the
    mean of those that speak for this candidate, or that of the latest three. NaN without."""

    family = "text"
    unit = "cosine"


@dataclass(frozen=True)
class CollaborativeScore(_Signal):
    """A collaborative source's score, folded in from the history at the moment."""

    family = "collaborative"


@dataclass(frozen=True)
class CoOccurrence(_Signal):
    """How often the candidate came with, or after, the user's last items, as a source that counts
    pairs (item-item neighbours, transitions) has it. NaN for an item it does not know."""

    family = "collaborative"


@dataclass(frozen=True)
class SourceScore(_Signal):
    """The score of a source that is neither the encoder nor collaborative: popularity, recent items,
    words, attributes, or the fusion of all ranks. NaN for an item it does not know."""

    family = "recall"


@dataclass(frozen=True)
class RecallRank(_Signal):
    """log(1 + rank) in a source's list; NaN when the source did not list the candidate."""

    family = "recall"
    unit = "log rank"

    @property
    def column(self) -> str:
        return f"{self.source}.log_{self.score}"

    def read(self, values: Floats) -> Floats:
        return np.log1p(values)


@dataclass(frozen=True)
class Share(_Signal):
    """Score divided by the best score of the source's list; NaN when not listed."""

    family = "recall"


def signal_feature(name: str) -> SignalFeature:
    """The feature of a signal, chosen by its name `source.column`."""
    source, _, score = name.partition(".")
    if score == "rank":
        return RecallRank(source, score)
    if score == "share":
        return Share(source, score)
    if source == "text":
        kind = InterestScore if score in ("score", "probability") else TextSimilarity
        return kind(source, score)
    if source in _PAIRS:
        return CoOccurrence(source, score)
    if family_of(source) == "collaborative":
        return CollaborativeScore(source, score)
    return SourceScore(source, score)
