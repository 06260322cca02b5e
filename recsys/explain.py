"""Why an item was shown: shares per feature family, the history items nearest in text, a sentence.

Shapes: n explained items, F features, h history items.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recsys.data_schemas import columns as c
from recsys.features.catalogue import Catalogue
from recsys.features.feature_set import FeatureSet
from recsys.features.interactions import Floats, History, Ints
from recsys.ranker import Ranker

NEAREST: Final = 3
"""History items named per explained item."""
REFERENCES: Final = 4
"""Rows spread over the list that the explained ones are compared with."""
BLOCK: Final = 16
"""Rows explained between two looks at the clock."""
ALIKE_FROM: Final = 0.3
"""Least cosine at which two items are called alike (assumed)."""
SENTENCES: Final[Mapping[str, Mapping[str, str]]] = {
    "en": {
        "text": "Its description fits what you have been looking at.",
        "text_of": "It is similar to “{title}”, which you chose before.",
        "collaborative": "People with a history like yours chose it.",
        "recall": "Several of our recommenders agree on it for you.",
        "counters": "It is popular at the moment.",
        "recency": "It fits how recently you and others acted.",
        "attributes": "It has properties you often choose.",
        "context": "It fits the current situation.",
        "user": "It fits how you use this service.",
        "nothing": "It fits about as well as the others in this list.",
    },
    "zh": {
        "text": "它的介绍与您最近浏览的内容相符。",
        "text_of": "它与您之前选择的“{title}”相似。",
        "collaborative": "与您有相似记录的人选择了它。",
        "recall": "我们的多个推荐来源都认为它适合您。",
        "counters": "它目前很受欢迎。",
        "recency": "它符合您和其他人最近的行为。",
        "attributes": "它具有您经常选择的特征。",
        "context": "它符合当前的情境。",
        "user": "它符合您的使用习惯。",
        "nothing": "它与此列表中的其他内容同样适合您。",
    },
}
"""Language → family → sentence; `text_of` where a history item is near."""


class Explainer:
    """Explanations of one released model."""

    def __init__(self, features: FeatureSet, ranker: Ranker) -> None:
        self._ranker = ranker
        families = [features.families[name] for name in features.columns]
        self._names = list(dict.fromkeys(families))
        self._family = np.array([self._names.index(f) for f in families])

    def shares(
        self, x: Floats, chosen: npt.NDArray[np.int64], deadline: float | None = None
    ) -> npt.NDArray[np.float64]:
        """float64[≤ n, families]: what each family adds to the chosen rows' scores, beyond a few rows
        spread over the list; each row's absolute values sum to 1.

        A share is a contrast: what lifts every item of the list equally explains none of them.
        TreeSHAP costs a millisecond or more per row, so rows go in blocks, and none is begun after
        `deadline` (`time.monotonic()`); fewer than n rows are given then.
        """
        if _is_late(deadline):
            return np.zeros((0, len(self._names)))
        spread = np.linspace(0, len(x) - 1, num=min(len(x), REFERENCES)).astype(int)
        rows = np.concatenate([np.unique(spread), chosen])
        apart = len(rows) - len(chosen)
        blocks = []
        for start in range(0, len(rows), BLOCK):
            if start > apart and _is_late(deadline):
                break
            blocks.append(self._ranker.contributions(np.ascontiguousarray(x[rows[start:][:BLOCK]])))
        added = np.concatenate(blocks)
        contrast = added[apart:] - added[:apart].mean(axis=0)
        out = np.zeros((len(contrast), len(self._names)))
        for column, family in enumerate(self._family):
            out[:, family] += contrast[:, column]
        scaled: npt.NDArray[np.float64] = out / np.maximum(
            np.abs(out).sum(axis=1, keepdims=True), 1e-12
        )
        return scaled

    def reasons(
        self,
        x: Floats,
        chosen: npt.NDArray[np.int64],
        items: Ints,
        history: History,
        vectors: Floats,
        past: tuple[Ints, Floats],
        catalogue: Catalogue,
        deadline: float | None = None,
    ) -> tuple[list[dict[str, Any]], bool]:
        """(one reason per chosen row, from the first; whether time ran out before the last).

        Args:
            x: float32[m, F] features of the whole list.
            chosen: int64[n] rows to explain.
            items: int32[n] the items of those rows.
            history: the user's history.
            vectors: float32[n, d] of the explained items.
            past: (int32[h], float32[h, d]) liked history items and their vectors.
            catalogue: for titles.
            deadline: `time.monotonic()` after which no further row is begun.
        """
        shares = self.shares(x, chosen, deadline)
        out = []
        for row in range(len(shares)):
            near = nearest(vectors[row], *past, catalogue)
            families = {
                name: round(float(share), 4)
                for name, share in sorted(
                    zip(self._names, shares[row], strict=True), key=lambda e: -abs(e[1])
                )
            }
            out.append(
                {"families": families, "similar": near, "sentence": sentence(families, near)}
            )
        return out, len(out) < len(chosen)


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


def sentence(families: Mapping[str, float], near: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The leading positive family in words, by language; `families` from the largest share."""
    leading = next((name for name, share in families.items() if share > 0), "nothing")
    key = "text_of" if leading == "text" and near else leading
    title = near[0][c.TITLE] if near else ""
    return {
        language: texts.get(key, texts["nothing"]).format(title=title)
        for language, texts in SENTENCES.items()
    }
