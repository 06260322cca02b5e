"""An item's words: terms for BM25, and brand-like phrases as attributes.

Plain text in, integer codes in CSR out. Shapes: N items, T terms.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recsys.features.interactions import Bools, Floats, Ints, Longs
from recsys.features.ragged import offsets_of, owners_of

TOKEN: Final = re.compile(r"[^\W_]+(?:['’.][^\W_]+)*")
BREAK: Final = re.compile(r"\s[-–—|/]\s|[:;,()\[\]]|\s{2,}|\.\s")
"""Where a title falls into segments: `Game - Platform`, `Series: Part`, `Name (Edition)`."""
MAX_TEXT: Final = 4000
"""Characters of a text that are read; a title of 100 kB must not stall a fit."""
MAX_GRAM: Final = 3
"""Words of the longest phrase that counts as an attribute."""
TABLE_VISITS: Final = 1_000_000_000
"""Pairs of items that a product may meet, about (a million items: 20 to 80 ns each, by the caches at hand)."""
LEAST_OF_ONE: Final = 200
"""Items that one word or attribute leads to in however large a catalogue (assumed)."""

Csr = tuple[Longs, Ints, Floats]
Doubles = npt.NDArray[np.float64]


def tokens(text: str) -> list[str]:
    """Lower-case words and numbers."""
    return TOKEN.findall(text[:MAX_TEXT].lower())


def phrases(title: str) -> set[str]:
    """Whole segments of a title, and n-grams of at most `MAX_GRAM` words within one."""
    found: set[str] = set()
    for segment in BREAK.split(title[:MAX_TEXT]):
        words = tokens(segment)
        if words:
            found.add(" ".join(words[:12]))
        for size in range(1, MAX_GRAM + 1):
            for first in range(len(words) - size + 1):
                found.add(" ".join(words[first : first + size]))
    return found


def coded(
    bags: Sequence[Iterable[tuple[str, float]]], least: int, most: int
) -> tuple[Csr, list[str]]:
    """Rows of (code, value) for the terms that occur in `least` to `most` bags.

    Codes follow the alphabet, so they do not depend on the order of the items.
    """
    listed = [list(bag) for bag in bags]
    frequency: Counter[str] = Counter()
    for bag in listed:
        frequency.update({term for term, _ in bag})
    vocabulary = sorted(term for term, n in frequency.items() if least <= n <= most)
    code = {term: c for c, term in enumerate(vocabulary)}
    rows = [sorted((code[term], value) for term, value in bag if term in code) for bag in listed]
    offsets = offsets_of([len(row) for row in rows])
    flat = [pair for row in rows for pair in row]
    column = np.array([c for c, _ in flat], np.int32)
    value = np.array([v for _, v in flat], np.float32)
    return (offsets, column, value), vocabulary


def transposed(rows: Csr, n_columns: int) -> Csr:
    """The same matrix by column."""
    from scipy.sparse import csr_matrix

    offsets, column, value = rows
    matrix: Any = csr_matrix((value, column, offsets), shape=(len(offsets) - 1, n_columns)).tocsc()
    return (
        matrix.indptr.astype(np.int64),
        matrix.indices.astype(np.int32),
        matrix.data.astype(np.float32),
    )


def with_columns(rows: Csr, chosen: npt.NDArray[np.uint8]) -> Csr:
    """The entries in the chosen columns (uint8[columns], 1 where kept)."""
    return _keeping(rows, chosen[rows[1]] == 1)


def _keeping(rows: Csr, keep: Bools) -> Csr:
    offsets, column, value = rows
    return offsets_of(keep)[offsets], column[keep], value[keep]


def largest(rows: Csr, weight: Floats | Doubles, most: int) -> Csr:
    """Each row's `most` entries of the largest weight [nnz], ties by column, in their old order."""
    offsets, column, _ = rows
    row = owners_of(offsets)
    long = np.flatnonzero(np.diff(offsets)[row] > most)
    order = long[np.lexsort((column[long], -weight[long], row[long]))]
    rank = np.arange(len(order)) - np.searchsorted(row[order], row[order])
    keep = np.ones(len(column), bool)
    keep[order[rank >= most]] = False
    return _keeping(rows, keep)


def bounded(postings: Csr, weight: Floats | Doubles) -> Csr:
    """Words or attributes with the items they lead to, the heaviest of those where they are very many.

    A table of matches over a large catalogue costs its square: what a share of the items has leads
    from each of them to each. What is left keeps the cost near `TABLE_VISITS`; smaller catalogues
    lose nothing.
    """
    return largest(postings, weight, max(LEAST_OF_ONE, TABLE_VISITS // max(1, len(weight))))
