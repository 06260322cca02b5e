"""Why an item was shown: shares per feature family, the history items nearest in text, a sentence.

Shapes: n explained items, F features, h history items.
"""

import time
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recsys.data_schemas import columns as c
from recsys.features.catalogue import Catalogue
from recsys.features.feature_set import FeatureSet
from recsys.features.interactions import Floats, Ints
from recsys.ranker import Ranker
from recsys.reasons import Facts, ListAsked, ReasonEvidence, TellingWords
from recsys.sentences import Sentences

NEAREST: Final = 3
"""History items named per explained item."""
REFERENCES: Final = 4
"""Rows spread over the list that the explained ones are compared with."""
BLOCK: Final = 16
"""Rows explained between two looks at the clock."""
ALIKE_FROM: Final = 0.3
"""Least cosine at which two items are called alike (assumed)."""


class Explainer:
    """Explanations of one released model."""

    def __init__(
        self, features: FeatureSet, ranker: Ranker, sentences: Sentences | None = None
    ) -> None:
        self._ranker = ranker
        self.sentences = sentences or Sentences.default()
        self._evidence = ReasonEvidence(features.columns)
        self._words: tuple[int, TellingWords] | None = None
        families = [features.families[name] for name in features.columns]
        self._names = list(dict.fromkeys(families))
        self._family = np.array([self._names.index(f) for f in families])

    def lifts(
        self, x: Floats, chosen: npt.NDArray[np.int64], deadline: float | None = None
    ) -> npt.NDArray[np.float64]:
        """float64[≤ n, F]: what each feature adds to the chosen rows' scores, beyond a few rows spread
        over the list.

        It is a contrast: what lifts every item of the list equally explains none of them.
        Shares of trees cost a fifth of a millisecond per row, and two where LightGBM must explain them
        (measured), so rows go in blocks, and none is begun after `deadline` (`time.monotonic()`); fewer
        than n rows are given then.
        """
        if _is_late(deadline):
            return np.zeros((0, len(self._family)))
        spread = np.linspace(0, len(x) - 1, num=min(len(x), REFERENCES)).astype(int)
        rows = np.concatenate([np.unique(spread), chosen])
        apart = len(rows) - len(chosen)
        blocks = []
        for start in range(0, len(rows), BLOCK):
            if start > apart and _is_late(deadline):
                break
            blocks.append(self._ranker.contributions(np.ascontiguousarray(x[rows[start:][:BLOCK]])))
        added = np.concatenate(blocks)
        contrast: npt.NDArray[np.float64] = added[apart:] - added[:apart].mean(axis=0)
        return contrast

    def shares(self, lifts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """float64[n, families] of what each feature adds; each row's absolute values sum to 1."""
        out = np.zeros((len(lifts), len(self._names)))
        for column, family in enumerate(self._family):
            out[:, family] += lifts[:, column]
        scaled: npt.NDArray[np.float64] = out / np.maximum(
            np.abs(out).sum(axis=1, keepdims=True), 1e-12
        )
        return scaled

    def reasons(
        self,
        x: Floats,
        chosen: npt.NDArray[np.int64],
        items: Ints,
        vectors: Floats,
        past: tuple[Ints, Floats],
        asked: ListAsked,
        deadline: float | None = None,
    ) -> tuple[list[dict[str, Any]], bool]:
        """(one reason per chosen row, from the first; whether time ran out before the last).

        Args:
            x: float32[m, F] features of the whole list.
            chosen: int64[n] rows to explain.
            items: int32[n] the items of those rows.
            vectors: float32[n, d] of the explained items.
            past: (int32[h], float32[h, d]) liked history items and their vectors.
            asked: the answer that is explained.
            deadline: `time.monotonic()` after which no further row is begun.
        """
        lifts = self.lifts(x, chosen, deadline)
        shares = self.shares(lifts)
        facts = Facts(asked, self._evidence, self._telling(asked.catalogue), chosen, items)
        out = []
        for row in range(len(shares)):
            near = nearest(vectors[row], *past, asked.catalogue)
            families = {
                name: round(float(share), 4)
                for name, share in sorted(
                    zip(self._names, shares[row], strict=True), key=lambda e: -abs(e[1])
                )
            }
            fact = facts.best(row, families, lifts[row], x[chosen[row]], near)
            out.append(
                {
                    "families": families,
                    "similar": near,
                    "fact": fact.kind,
                    "sentence": self.sentences.of(fact),
                }
            )
        return out, len(out) < len(chosen)

    def _telling(self, catalogue: Catalogue) -> TellingWords:
        """The catalogue's words, counted once."""
        if self._words is None or self._words[0] != catalogue.serial:
            self._words = catalogue.serial, TellingWords(catalogue)
        return self._words[1]


def _is_late(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline


def nearest(
    vector: Floats, items: Ints, vectors: Floats, catalogue: Catalogue
) -> list[dict[str, Any]]:
    """The history items closest in text, at most NEAREST, nearest first."""
    if not len(items) or np.isnan(vector).any():
        return []
    cosine = vectors @ vector
    found: list[dict[str, Any]] = []
    for place in np.argsort(-cosine, kind="stable"):
        if len(found) == NEAREST or not cosine[place] >= ALIKE_FROM:
            break
        item = int(items[place])
        item_id = catalogue.id_of(item)
        if all(item_id != other[c.ITEM_ID] for other in found):
            found.append(
                {
                    c.ITEM_ID: item_id,
                    c.TITLE: catalogue.title(item),
                    "similarity": round(float(cosine[place]), 4),
                }
            )
    return found
