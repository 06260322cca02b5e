"""Words of items as a table.

Shapes: N items, W words.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numpy as np
import scipy.sparse as sp

from recsys.features.interactions import Ints, Longs

MOST_LETTERS: Final = 200
"""Of a text, from either end, that are read: names stand where it begins or ends, and what it is about is
said at once (assumed)."""


class Words(NamedTuple):
    """The words of N texts."""

    table: Any
    """N × W, 1 where a text holds a word."""
    names: list[str]
    """The W words, in small letters."""


def words_of(texts: Iterable[str]) -> Words:
    """The words of texts, in any case."""
    numbers: dict[str, int] = {}
    found: list[int] = []
    offsets = [0]
    for text in texts:
        ends = text if len(text) <= 2 * MOST_LETTERS else _ends(text)
        found.extend({numbers.setdefault(word, len(numbers)) for word in ends.lower().split()})
        offsets.append(len(found))
    table = table_of(np.array(offsets, np.int64), np.array(found, np.int32), len(numbers))
    return Words(table, list(numbers))


def _ends(text: str) -> str:
    return f"{text[:MOST_LETTERS]} {text[-MOST_LETTERS:]}"


def table_of(offsets: Longs, codes: Ints, width: int) -> Any:
    """N × width, 1 at the codes of each item: item i has codes[offsets[i]:offsets[i + 1]]."""
    ones = np.ones(len(codes), np.float32)
    return sp.csr_matrix((ones, codes, offsets), shape=(len(offsets) - 1, max(width, 1)))


def weighted(table: Any) -> Any:
    """The same with rare words heavier (inverse document frequency), every item of length 1; words of a
    single item, or of more than half of them, are left out."""
    n = table.shape[0]
    times = np.bincount(table.indices, minlength=table.shape[1])
    heavy = np.where((times > 1) & (times <= n / 2), np.log(n / np.maximum(times, 1)), 0.0)
    scaled = (table @ sp.diags_array(heavy.astype(np.float32))).tocsr()
    scaled.eliminate_zeros()
    length = np.sqrt(np.asarray(scaled.multiply(scaled).sum(axis=1)).ravel())
    return (sp.diags_array(1 / np.maximum(length, 1e-9).astype(np.float32)) @ scaled).tocsr()
