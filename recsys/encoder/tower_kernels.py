"""Compiled inner loops of the user tower: one user at a time, without the interpreter's lock.

Each sum runs in one fixed order whatever is scored beside it, so that a score does not depend on
the list it is in. Shapes: h history items, d dimensions, n items, r rank of the attention.
"""

import numpy as np

from recsys.features.compiled import finite
from recsys.features.interactions import Floats, Ints


@finite
def dot(a: Floats, b: Floats) -> np.float32:
    """Inner product of two float32 [d]."""
    total = np.float32(0.0)
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@finite
def attend(
    past: Floats,
    query: Floats,
    key: Floats,
    bias: Floats,
    gate: Floats,
    project: Floats,
) -> tuple[Floats, Floats]:
    """User vector float32 [d] and attention float32 [h] of a history.

    Args:
        past: float32[h, d], vectors of the history, oldest first.
        query: float32[d, r], through which the last item asks.
        key: float32[d, r], through which all items answer.
        bias: float32[h], from kind, grade, weight, position and age.
        gate: float32[h], how far a kind of event counts for (or against) its item.
        project: float32[d, d], from history space to candidate space.
    """
    h, d = past.shape
    r = query.shape[1]
    asked = np.zeros(r, np.float32)
    for i in range(d):
        for j in range(r):
            asked[j] += past[h - 1, i] * query[i, j]
    wanted = np.empty(d, np.float32)
    for i in range(d):
        wanted[i] = dot(key[i], asked)
    attention = np.empty(h, np.float32)
    root = np.float32(1.0 / np.sqrt(r))
    highest = np.float32(-np.inf)
    for j in range(h):
        attention[j] = dot(past[j], wanted) * root + bias[j]
        highest = max(highest, attention[j])
    total = np.float32(0.0)
    for j in range(h):
        attention[j] = np.exp(attention[j] - highest)
        total += attention[j]
    mixed = np.zeros(d, np.float32)
    for j in range(h):
        attention[j] /= total
        share = attention[j] * gate[j]
        for i in range(d):
            mixed[i] += share * past[j, i]
    user = np.empty(d, np.float32)
    for i in range(d):
        user[i] = dot(project[i], mixed)
    length = np.sqrt(dot(user, user))
    if length > np.float32(1e-12):
        for i in range(d):
            user[i] /= length
    return user, attention


@finite
def score_items(
    user: Floats, past: Floats, base: Floats, extra: Floats, items: Ints, out: Floats
) -> None:
    """Fill out [n, 4] with (user·v, last·v, best past·v, mean past·v); NaN for unknown items.

    Args:
        user: float32[d], what `attend` gave.
        past: float32[h, d], vectors of the history, oldest first.
        base: float32[m, d], vectors of the release's items.
        extra: float32[e, d], vectors of newer items: item i is row i - m.
        items: int32[n], candidates.
        out: float32[n, 4], filled in place.
    """
    m, h = base.shape[0], past.shape[0]
    known = m + extra.shape[0]
    for place in range(items.shape[0]):
        item = items[place]
        if item < 0 or item >= known:
            out[place, :] = np.nan
            continue
        vector = base[item] if item < m else extra[item - m]
        out[place, 0] = dot(user, vector)
        best, total = np.float32(-np.inf), np.float32(0.0)
        near = np.float32(0.0)
        for j in range(h):
            near = dot(past[j], vector)
            best = max(best, near)
            total += near
        out[place, 1] = near if h else np.nan
        out[place, 2] = best if h else np.nan
        out[place, 3] = total / h if h else np.nan


@finite
def scan(user: Floats, codes: np.ndarray, scale: Floats, out: Floats) -> None:
    """Approximate user·v for every item: codes int8 [n, d], scale [n] → out [n]."""
    n, d = codes.shape
    for item in range(n):
        total = np.float32(0.0)
        for i in range(d):
            total += user[i] * np.float32(codes[item, i])
        out[item] = total * scale[item]


@finite
def dots(user: Floats, base: Floats, extra: Floats, items: Ints, out: Floats) -> None:
    """user·v of each item, the same sum as in `score_items`.

    Args:
        user: float32[d], what `attend` gave.
        base: float32[m, d], vectors of the release's items.
        extra: float32[e, d], vectors of newer items: item i is row i - m.
        items: int32[n], candidates, all known.
        out: float32[n], filled in place.
    """
    m = base.shape[0]
    for place in range(items.shape[0]):
        item = items[place]
        out[place] = dot(user, base[item] if item < m else extra[item - m])
