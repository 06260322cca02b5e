"""Where the head starts: linear maps under which items acted on together lie together.

Take the frozen vectors x, y of two items that the same user acted on shortly one after the other, in
either order. Two targets in the space of behaviour, each regressed on text in closed form:

- **pairs**: if such pairs were Gaussian, their pointwise mutual information would be bilinear in x and y,
  with a matrix that the covariances give in closed form (the canonical correlations of H. Hotelling,
  *Relations Between Two Sets of Variates*, 1936);
- **information**: the positive pointwise mutual information of each pair as counted, which is what
  factors of co-action approximate (O. Levy, Y. Goldberg, *Neural Word Embedding as Implicit Matrix
  Factorization*, NIPS 2014), by a ridge regression on x and y, every item alike.

A root of the map is the head, and of the sum of both maps a third one: seconds of work for what takes
gradient descent hundreds of steps. Which of them serves is decided on validation.

Shapes: n items, m of them with an event, H units.
"""

from collections.abc import Iterator

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

LEAST_STRENGTH = 1e-6
"""Strength of a direction in which the target says nothing, as a share of the strongest."""
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


def linear_starts(
    vectors: Floats, items: Longs, histories: Histories
) -> Iterator[tuple[str, Floats]]:
    """(name of the target, head weight float32 [H, H]) for frozen unit vectors [m, H] of `items` [m],
    ascending, among which all items of the histories are; nothing without any pair."""
    pairs = co_actions(histories, int(items[-1]) + 1)[items][:, items]
    if not pairs.nnz:
        return
    by_pairs = _head(vectors, *_damped(pairs))
    yield "pairs", by_pairs
    told = _information(pairs)
    if not told.nnz:
        return
    paired = np.diff(pairs.indptr) > 0
    by_information = _head(vectors, paired / paired.sum(), told)
    yield "information", by_information
    yield "both", _root(by_pairs.T @ by_pairs + by_information.T @ by_information)


def _root(similarity: Floats) -> Floats:
    """float32 [H, H]: a head under which inner products are those of `similarity` [H, H], symmetric, at the
    length that heads have here."""
    values, basis = np.linalg.eigh(similarity.astype(np.float64))
    head = (basis * np.sqrt(np.maximum(values, 0.0))) @ basis.T
    return _at_length(head)


def _at_length(head: Matrix) -> Floats:
    """The scale is free, since vectors are normalised behind the head; keep lengths near one."""
    scaled: Floats = (head / np.sqrt((head**2).sum() / len(head))).astype(np.float32)
    return scaled


def _damped(pairs: sparse.csr_matrix) -> tuple[Matrix, sparse.csr_matrix]:
    """The share [m] of each item in all pairs, and the shares [m, m] of these, frequent items held down."""
    degree = np.asarray(pairs.sum(axis=1)).ravel()
    damp = np.where(degree > 0, np.maximum(degree, 1e-12) ** -POPULARITY, 0.0)
    pairs = sparse.diags(damp) @ pairs @ sparse.diags(damp)
    pairs = pairs / pairs.sum()
    return np.asarray(pairs.sum(axis=1)).ravel(), pairs.tocsr()


def _information(pairs: sparse.csr_matrix) -> sparse.csr_matrix:
    """Positive pointwise mutual information [m, m] of pairs."""
    degree = np.asarray(pairs.sum(axis=1)).ravel()
    share = (1.0 / np.maximum(degree, 1e-12)).astype(np.float32)
    row = np.diff(pairs.indptr)
    # In place and in single precision: millions of events make a hundred million pairs.
    value = pairs.data.astype(np.float32) * np.float32(degree.sum())
    value *= share[pairs.indices]
    value *= np.repeat(share, row)
    np.log(value, out=value)
    more = value > 0
    ends = np.concatenate([[0], np.cumsum(more)])[pairs.indptr]
    return sparse.csr_matrix((value[more], pairs.indices[more], ends), shape=pairs.shape)


def _head(vectors: Floats, share: Matrix, target: sparse.csr_matrix) -> Floats:
    """float32 [H, H]: the root of the bilinear map from x and y to a target [m, m], items weighing by
    share [m]."""
    own, cross = _covariances(vectors, share, target.astype(np.float32))
    width = len(own)
    values, basis = np.linalg.eigh(own + RIDGE * np.trace(own) / width * np.eye(width))
    whiten = (basis / np.sqrt(np.maximum(values, 1e-12))) @ basis.T
    strength, turn = np.linalg.eigh(whiten @ ((cross + cross.T) / 2) @ whiten)
    # As a share of the largest: the target's own scale must not decide what counts as nothing.
    strength = np.maximum(strength / max(float(strength[-1]), 1e-30), LEAST_STRENGTH)
    return _at_length((turn * strength**POWER) @ turn.T @ whiten)


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
