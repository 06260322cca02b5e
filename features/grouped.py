"""Rows grouped in CSR form: group g is rows offsets[g]:offsets[g+1].

Shapes: G groups, R rows; k chosen groups with r rows together.
"""

import numpy as np
import numpy.typing as npt

from recsys.features.interactions import Longs


def chosen_groups(offsets: Longs, chosen: npt.NDArray[np.integer]) -> tuple[Longs, Longs]:
    """(offsets int64[k+1], rows int64[r]) of some groups of a table, in the order given.

    >>> chosen_groups(np.array([0, 2, 2, 5]), np.array([2, 0]))
    (array([0, 3, 5]), array([2, 3, 4, 0, 1]))
    """
    sizes = np.diff(offsets)[chosen]
    edges = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    first = np.asarray(offsets)[:-1][chosen]
    rows = np.arange(edges[-1], dtype=np.int64) + np.repeat(first - edges[:-1], sizes)
    return edges, rows.astype(np.int64)
