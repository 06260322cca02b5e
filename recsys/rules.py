"""Rules around the ranking: how alike the shown items may be, and how many of a kind.

Shapes: N items of the catalogue, n candidates, d dimensions of an item vector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import UsageError
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import Floats, Ints
from recsys.features.protocols import Mask

DIVERSE_HEAD = 200
"""Best candidates that compete for a diversified list (assumed: far beyond what is shown)."""


class Caps:
    """At most so many items of one value in a list: `{"category": 2}` for two of each category.

    Args:
        catalogue: for the values.
        limits: column → items of one value at most; `category` or a text attribute.
        items: int32[n] the candidates.

    Items without a value are never too many.

    Raises:
        UsageError: a column cannot be capped.
    """

    def __init__(
        self, catalogue: Catalogue, limits: Mapping[str, int], items: npt.NDArray[np.int32]
    ) -> None:
        self._codes = [_codes_to_cap(catalogue, column)[items] for column in limits]
        self._limits = list(limits.values())
        self._taken: list[dict[int, int]] = [{} for _ in limits]
        self.open = np.ones(len(items), bool)
        """bool[n]: candidates that may still be taken."""

    def take(self, row: int) -> None:
        """Candidate `row` enters the list."""
        for codes, limit, taken in zip(self._codes, self._limits, self._taken, strict=True):
            code = int(codes[row])
            if code < 0:
                continue
            taken[code] = taken.get(code, 0) + 1
            if taken[code] >= limit:
                self.open &= codes != code

    def first(self, order: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
        """The first k candidates of an order, int64[≤ k], that the caps leave room for."""
        chosen: list[int] = []
        for row in order.tolist():
            if len(chosen) == k:
                break
            if self.open[row]:
                chosen.append(row)
                self.take(row)
        return np.array(chosen, np.int64)


@dataclass(frozen=True)
class ListCaps:
    """A shop's own caps on lists made in bulk, as its service puts them on each answer."""

    catalogue: Catalogue
    limits: Mapping[str, int]
    """As `Caps` takes them; empty where nothing is capped."""
    candidates: int
    """Items that stand to choice for an answer."""

    def depth(self, k: int) -> int:
        """How long lists must be for `cut` to find k items in them."""
        return max(k, self.candidates) if self.limits else k

    def cut(self, items: npt.NDArray[np.int32], scores: Floats, k: int) -> tuple[Ints, Floats]:
        """The first k of each list that the caps leave room for.

        Args:
            items: int32[M, depth(k)], best first, -1 where a list has ended.
            scores: float32[M, depth(k)].

        Returns:
            (int32[M, k], float32[M, k]), padded with -1 and -inf.
        """
        if not self.limits:
            return items[:, :k], scores[:, :k]
        kept = np.full((len(items), k), -1, np.int32)
        of_kept = np.full((len(items), k), -np.inf, np.float32)
        for row, listed in enumerate(items):
            held = np.flatnonzero(listed >= 0)
            caps = Caps(self.catalogue, self.limits, listed[held])
            chosen = held[caps.first(np.arange(len(held)), k)]
            kept[row, : len(chosen)] = listed[chosen]
            of_kept[row, : len(chosen)] = scores[row, chosen]
        return kept, of_kept

    def in_words(self) -> str:
        """`at most 3 of one category`; of no cap, that there is none."""
        said = [f"at most {most} of one {column}" for column, most in self.limits.items()]
        return ", ".join(said) or "none"


def _codes_to_cap(catalogue: Catalogue, column: str) -> npt.NDArray[np.int32]:
    if column == c.CATEGORY or column in catalogue.categorical_names:
        return catalogue.categorical(column)
    raise UsageError(
        "the cap names a column that items cannot be counted by",
        where=f"caps.{column}",
        found=column,
        expected="one of " + ", ".join((c.CATEGORY, *catalogue.categorical_names)),
    )


def diversify(
    score: npt.NDArray[np.float64],
    vectors: Floats,
    k: int,
    diversity: float,
    caps: Caps | None = None,
) -> npt.NDArray[np.int64]:
    """Order of the first k candidates, int64[≤ k], likeness to those above held against each.

    Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): (1 - diversity) ×
    standardised score - diversity × largest cosine to an item above. 0 is the plain order.

    Args:
        score: float64[n].
        vectors: float32[n, d] unit vectors; a row of NaN is like nothing.
        k: items wanted.
        diversity: 0 … 1.
        caps: over the same candidates; fresh.
    """
    order = np.argsort(-score, kind="stable")
    if diversity <= 0 or len(order) < 2:
        return order[:k] if caps is None else caps.first(order, k)
    head = order[: max(DIVERSE_HEAD, k)] if caps is None else order
    relevance = score[head] - score[head].mean()
    relevance = relevance / max(float(relevance.std()), 1e-9)
    directions = np.nan_to_num(vectors[head])
    likeness = np.zeros(len(head))
    left = np.ones(len(head), bool)
    chosen: list[int] = []
    for _ in range(min(k, len(head))):
        free = left if caps is None else left & caps.open[head]
        if not free.any():
            break
        value = np.where(free, (1.0 - diversity) * relevance - diversity * likeness, -np.inf)
        best = int(np.argmax(value))
        chosen.append(best)
        left[best] = False
        if caps is not None:
            caps.take(int(head[best]))
        likeness = np.maximum(likeness, directions @ directions[best])
    return head[np.array(chosen, np.int64)]


def block(mask: Mask, indices: Sequence[int] | npt.NDArray[np.integer]) -> None:
    """Set the mask at the known ones of some indices."""
    known = np.asarray(indices, np.int64)
    mask[known[known >= 0]] = 1
