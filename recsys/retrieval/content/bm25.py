"""BM25: items whose words match those of the history.

Robertson, Zaragoza, *The probabilistic relevance framework: BM25 and beyond*, 2009. An item's text
is both query and document; the table of the best matches per item is made once, so that serving
is a gather. Events are not read: items nobody has met are scored too.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import numpy as np

from recsys.features.interactions import Interactions
from recsys.features.ragged import owners_of
from recsys.retrieval.collaborative.neighbours import (
    KEPT_WITH_FEW,
    NeighbourSource,
    product_rows,
    united,
)
from recsys.retrieval.content.words import (
    Csr,
    bounded,
    coded,
    largest,
    tokens,
    transposed,
    with_columns,
)
from recsys.retrieval.fitted_source import (
    Cost,
    Room,
    SourceFit,
    SourceInputs,
    few_events,
    no_texts,
    support,
)
from recsys.retrieval.source_params import SourceParams, param

KEPT_MATCHES: Final = 200
FREQUENT_SHARE: Final = 0.1
"""Terms in more of the items than this are left out: they cost most and say least."""
FREQUENT_LEAST: Final = 50
"""Items below which no term counts as frequent."""
QUERY_TERMS: Final = 40
"""Rarest terms of a text used as query: bounds the work for long descriptions."""


class Bm25(NeighbourSource):
    """Text matches with the history's items."""

    name: ClassVar[str] = "bm25"  # type: ignore[misc]
    family = "text"
    reads = frozenset({"events", "texts"})
    cost = Cost.TEXTS
    content = True
    tells = ("words",)

    class Params(SourceParams):
        """Of the match."""

        decay: float = param(0.8, 0.6, 0.8, 0.9, unit="factor", most=1, free=True)
        """Weight of an event of the history relative to the one after it."""
        popularity: float = param(0.3, 0, 0.15, 0.3, 0.5, unit="exponent")
        """How far an item's events lift its matches."""
        k1: float = param(1.2, 1.2, unit="1")
        """How soon a term that is repeated adds nothing more."""
        b: float = param(0.5, 0.5, unit="share", most=1)
        """How far a long text is held against its terms."""

    @classmethod
    def applies(cls, interactions: Interactions, inputs: SourceInputs, room: Room) -> str | None:
        return no_texts(inputs)

    @classmethod
    def learned(cls, fit: SourceFit) -> dict[str, Any]:
        """Every item's text matched with every other's."""
        params, n_items = fit.params, fit.interactions.n_items
        documents, queries = weighted_terms(fit.inputs.texts[:n_items], params["k1"], params["b"])
        n_terms = int(documents[1].max()) + 1 if len(documents[1]) else 0
        events = support(fit.interactions)
        lift = ((1.0 + events) ** params["popularity"]).astype(np.float32)
        postings = transposed(documents, n_terms)

        def matches(of: Csr, keep: int) -> Csr:
            of = bounded(of, of[2] * lift[of[1]])
            return product_rows(queries, of, lift, keep, fit.workers)

        few = with_columns(postings, few_events(events))
        rows = united(matches(postings, KEPT_MATCHES), matches(few, KEPT_WITH_FEW))
        return cls.table(fit, rows, (np.diff(documents[0]) > 0).astype(np.uint8))


def weighted_terms(texts: Sequence[str], k1: float, b: float) -> tuple[Csr, Csr]:
    """BM25 weights of the terms of documents, and idf of the terms of queries, both N×T in CSR."""
    bags = [Counter(tokens(text)) for text in texts]
    n_items = len(bags)
    most = max(FREQUENT_LEAST, int(FREQUENT_SHARE * n_items))
    (offsets, column, count), vocabulary = coded([bag.items() for bag in bags], 2, most)
    frequency = np.bincount(column, minlength=len(vocabulary))
    idf = np.log1p((n_items - frequency + 0.5) / (frequency + 0.5)).astype(np.float32)
    length = np.array([sum(bag.values()) for bag in bags], np.float32)
    norm = k1 * (1.0 - b + b * length / max(1.0, float(length.mean() if n_items else 1.0)))
    row = owners_of(offsets)
    weight = (count * (k1 + 1.0) / (count + norm[row])).astype(np.float32)
    queries = largest((offsets, column, idf[column]), idf[column], QUERY_TERMS)
    return (offsets, column, weight), queries
