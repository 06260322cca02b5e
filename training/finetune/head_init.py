"""Where the head starts: the linear map under which items acted on together lie together.

Take the frozen vectors x, y of two items that the same user acted on shortly one after the other. If
such pairs were Gaussian, their pointwise mutual information would be bilinear in x and y, with a
matrix that the covariances give in closed form (the canonical correlations of H. Hotelling,
*Relations Between Two Sets of Variates*, 1936). Its square root is the head: seconds of work for
what takes gradient descent hundreds of steps.

Shapes: n items, m of them with an event, H units.
"""

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recsys.features.interactions import Floats, Histories, Longs

WINDOW = 7
"""Events between the two of a pair, at most (assumed)."""
DECAY = 0.8
"""Weight of a pair for each event between (the plain tower's decay)."""
POPULARITY = 0.5
"""Exponent by which an item's frequency is divided out of its pairs (measured on `games`)."""
RIDGE = 0.02
"""Share of the mean variance added to every direction (measured on `games`)."""
POWER = 0.4
"""Exponent of the correlations: a half would be the model's own; less is better (measured)."""

CHUNK = 65_536
"""Items whose covariances are added up together."""

Matrix = npt.NDArray[np.float64]


def co_actions(histories: Histories, n_items: int) -> sparse.csr_matrix:
    """Symmetric weights [n, n] of pairs of items acted on positively within the window."""
    events, owner = histories.events, histories.owner
    liked = np.flatnonzero(events.grade > 0)
    item, owner = events.item[liked], owner[liked]
    total = sparse.csr_matrix((n_items, n_items))
    for lag in range(1, WINDOW + 1):
        same = (owner[lag:] == owner[:-lag]) & (item[lag:] != item[:-lag])
        weight = np.full(int(same.sum()), DECAY ** (lag - 1))
        pairs = (item[:-lag][same], item[lag:][same])
        total = total + sparse.coo_matrix((weight, pairs), shape=total.shape).tocsr()
    return total + total.T


def linear_start(vectors: Floats, items: Longs, histories: Histories) -> Floats | None:
    """Head weight float32 [H, H] for frozen unit vectors [m, H] of `items` [m], ascending, among which
    all items of the histories are; None without any pair."""
    pairs = co_actions(histories, int(items[-1]) + 1)[items][:, items]
    degree = np.asarray(pairs.sum(axis=1)).ravel()
    if not degree.any():
        return None
    damp = np.where(degree > 0, np.maximum(degree, 1e-12) ** -POPULARITY, 0.0)
    pairs = sparse.diags(damp) @ pairs @ sparse.diags(damp)
    pairs = pairs / pairs.sum()
    share = np.asarray(pairs.sum(axis=1)).ravel()
    own, cross = _covariances(vectors, share, pairs.astype(np.float32))
    width = len(own)
    values, basis = np.linalg.eigh(own + RIDGE * np.trace(own) / width * np.eye(width))
    whiten = (basis / np.sqrt(np.maximum(values, 1e-12))) @ basis.T
    strength, turn = np.linalg.eigh(whiten @ ((cross + cross.T) / 2) @ whiten)
    head = (turn * np.maximum(strength, 1e-6) ** POWER) @ turn.T @ whiten
    # The scale is free, since vectors are normalised behind the head; keep lengths near one.
    scaled: Floats = (head / np.sqrt((head**2).sum() / width)).astype(np.float32)
    return scaled


def _covariances(vectors: Floats, share: Matrix, pairs: sparse.csr_matrix) -> tuple[Matrix, Matrix]:
    """(of items with themselves, of pairs), each [H, H]. A chunk of items at a time: a million items
    in double precision, thrice, would be more memory than the rest of a night."""
    width = vectors.shape[1]
    own, cross = np.zeros((width, width)), np.zeros((width, width))
    for start in range(0, len(vectors), CHUNK):
        chunk = slice(start, start + CHUNK)
        x = vectors[chunk].astype(np.float64)
        own += (x * share[chunk, None]).T @ x
        cross += x.T @ (pairs[chunk] @ vectors)
    return own, cross
