"""BM25: items whose words match those of the history.

Robertson, Zaragoza, *The probabilistic relevance framework: BM25 and beyond*, 2009. An item's text
is both query and document; the table of the best matches per item is made once, so that serving
is a gather. Events are not read: items nobody has met are scored too.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Self

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
    Params,
    SourceInputs,
    few_events,
    last_time,
    resolve_params,
    weight_scale,
)

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
    PARAMS: ClassVar[Params] = {
        "decay": (0.8, (0.6, 0.8, 0.9)),
        "popularity": (0.3, (0.0, 0.15, 0.3, 0.5)),
        "k1": (1.2, (1.2,)),
        "b": (0.5, (0.5,)),
    }

    @classmethod
    def fit(
        cls,
        interactions: Interactions,
        inputs: SourceInputs,
        params: Mapping[str, float],
        *,
        seed: int,
        workers: int,
    ) -> Self:
        """Match every item's text with every other's; `popularity` is an exponent on support.

        Args:
            interactions: events to fit on, all before the cut.
            inputs: catalogue, texts and text vectors.
            params: by name, of `PARAMS`; those absent have their defaults.
            seed: of the draws; the same seed gives the same source.
            workers: threads.
        """
        chosen = resolve_params(cls.name, cls.PARAMS, params)
        n_items = interactions.n_items
        documents, queries = weighted_terms(inputs.texts[:n_items], chosen["k1"], chosen["b"])
        n_terms = int(documents[1].max()) + 1 if len(documents[1]) else 0
        events = np.bincount(interactions.item[interactions.weight > 0], minlength=n_items)
        lift = ((1.0 + events) ** chosen["popularity"]).astype(np.float32)
        postings = transposed(documents, n_terms)

        def matches(of: Csr, keep: int) -> Csr:
            of = bounded(of, of[2] * lift[of[1]])
            return product_rows(queries, of, lift, keep, workers)

        few = with_columns(postings, few_events(events))
        return cls(
            *united(matches(postings, KEPT_MATCHES), matches(few, KEPT_WITH_FEW)),
            known=(np.diff(documents[0]) > 0).astype(np.uint8),
            params=chosen,
            scale=weight_scale(interactions),
            fit_until=last_time(interactions),
        )


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
