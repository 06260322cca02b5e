"""Compiled inner loops of the user tower: one user at a time, without the interpreter's lock.

Each sum runs in one fixed order whatever is scored beside it, so that a score does not depend on
the list it is in. Shapes: h history items, d dimensions, n items, r rank of the attention.
"""

import numpy as np

from recsys.features.compiled import finite
from recsys.features.interactions import Floats, Ints
from recsys.retrieval.history_kernels import Marks, push, unheap

SHORT = 3
"""Latest liked items of the history that are the short term (assumed)."""
SHARPNESS = 8.0
"""Factor of the cosines by which the history's items speak for a candidate (assumed: at 0 all of them speak
alike, which is their mean; without bound the nearest alone does)."""


@finite
def dot(a: Floats, b: Floats) -> np.float32:
    """Inner product of two float32 [d]."""
    total = np.float32(0.0)
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@finite
def dots_of_pair(a: Floats, b: Floats, rows: Floats, out: Floats) -> None:
    """Inner products of two float32 [d] with the four rows of float32 [4, d], into out float32[2, 4].

    Eight sums at once, so that each number is read for several. Each is the same sum whatever is
    computed beside it.
    """
    a0, a1, a2, a3 = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
    b0, b1, b2, b3 = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for i in range(a.shape[0]):
        a0 += a[i] * rows[0, i]
        a1 += a[i] * rows[1, i]
        a2 += a[i] * rows[2, i]
        a3 += a[i] * rows[3, i]
        b0 += b[i] * rows[0, i]
        b1 += b[i] * rows[1, i]
        b2 += b[i] * rows[2, i]
        b3 += b[i] * rows[3, i]
    out[0, 0], out[0, 1], out[0, 2], out[0, 3] = a0, a1, a2, a3
    out[1, 0], out[1, 1], out[1, 2], out[1, 3] = b0, b1, b2, b3


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
def add_company(
    rows: Floats,
    items: Ints,
    base: Floats,
    offsets: np.ndarray,
    beside: Ints,
    weights: Floats,
    share: np.float32,
) -> None:
    """Turn vectors towards the mean direction of the items beside theirs, in place; unit again behind.

    Args:
        rows: float32[h, d], vectors of the items.
        items: int32[h].
        base: float32[m, d], vectors of the release's items.
        offsets: int64[n + 1], bounds of each item's own in `beside` and `weights`.
        beside: int32[p], items.
        weights: float32[p].
        share: of the mean direction.
    """
    m, d = base.shape
    mean = np.zeros(d, np.float32)
    for j in range(items.shape[0]):
        item = items[j]
        if not 0 <= item < offsets.shape[0] - 1:
            continue
        for i in range(d):
            mean[i] = np.float32(0.0)
        for at in range(offsets[item], offsets[item + 1]):
            other, weight = beside[at], weights[at]
            if other < m:
                for i in range(d):
                    mean[i] += weight * base[other, i]
        length = np.sqrt(dot(mean, mean))
        if length <= np.float32(1e-12):
            continue
        for i in range(d):
            rows[j, i] += share * mean[i] / length
        length = np.sqrt(dot(rows[j], rows[j]))
        if length > np.float32(1e-12):
            for i in range(d):
                rows[j, i] /= length


@finite
def spoken_for(near: Floats, r: int, out: Floats, row: int) -> None:
    """Fill out[row, 1:] with what the cosines near[:, r] of a candidate with h history items, oldest first,
    come to: the last, the best, the mean, the attended mean, the mean of the latest."""
    h = near.shape[0]
    if h == 0:
        for column in range(1, 6):
            out[row, column] = np.nan
        return
    best, total, late = near[0, r], np.float32(0.0), np.float32(0.0)
    short = min(SHORT, h)
    for j in range(h):
        best = max(best, near[j, r])
        total += near[j, r]
    for j in range(h - short, h):
        late += near[j, r]
    weight, spoken = np.float32(0.0), np.float32(0.0)
    for j in range(h):
        share = np.exp(np.float32(SHARPNESS) * (near[j, r] - best))
        weight += share
        spoken += share * near[j, r]
    out[row, 1] = near[h - 1, r]
    out[row, 2] = best
    out[row, 3] = total / h
    out[row, 4] = spoken / weight
    out[row, 5] = late / short


@finite
def score_items(
    user: Floats, past: Floats, base: Floats, extra: Floats, items: Ints, out: Floats
) -> None:
    """Fill out [n, 6] with (user·v, last·v, best past·v, mean past·v, attended past·v, mean of the latest
    past·v); NaN for unknown items.

    `attended` is the mean of past·v in which each history item weighs by the exponential of its own
    nearness: which of them speak for a candidate is another question for each candidate.

    Args:
        user, past: float32[d], what `attend` gave, and float32[h, d], the history, oldest first.
        base, extra: vectors of items, float32[m, d] of the release's, then float32[e, d] of newer ones.
        items, out: int32[n], candidates, and float32[n, 6], filled in place.
    """
    # Number by number: slices take 3 s of the first call to compile (measured).
    m, h, d = base.shape[0], past.shape[0], past.shape[1]
    known = m + extra.shape[0]
    four, pair = np.zeros((4, d), np.float32), np.zeros((2, 4), np.float32)
    near = np.zeros((h, 4), np.float32)
    for start in range(0, items.shape[0], 4):
        few = min(4, items.shape[0] - start)
        for r in range(few):
            item = items[start + r]
            if 0 <= item < m:
                for i in range(d):
                    four[r, i] = base[item, i]
            elif 0 <= item < known:
                for i in range(d):
                    four[r, i] = extra[item - m, i]
        for j in range(0, h, 2):
            both = min(2, h - j)
            dots_of_pair(past[j], past[j + both - 1], four, pair)
            for one in range(both):
                for r in range(4):
                    near[j + one, r] = pair[one, r]
        for r in range(few):
            item = items[start + r]
            if not 0 <= item < known:
                for column in range(6):
                    out[start + r, column] = np.nan
                continue
            out[start + r, 0] = dot(user, four[r])
            spoken_for(near, r, out, start + r)


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
def worth_a_look(near: Floats, blocked: Marks, limit: int, margin: float) -> Ints:
    """int32[k]: unblocked items that may be among the `limit` best once looked at exactly, ascending.

    Args:
        near: float32[n], about the score of each item.
        blocked: uint8[>= n], 1 for items that are left out.
        limit: at least 1.
        margin: by which an item may lie below the limit-th best and still be among them.
    """
    n = near.shape[0]
    heap, order = np.empty(limit, np.float32), np.empty(limit, np.int32)
    few = np.empty(n, np.int32)
    size, count = 0, 0
    edge = np.float32(-np.finfo(np.float32).max)
    for item in range(n):
        # The edge only rises: what lies below it now is not wanted later.
        if near[item] < edge or blocked[item] != 0:
            continue
        few[count] = item
        count += 1
        if size < limit or near[item] > heap[0]:
            size = push(heap, order, size, near[item], item)
            if size == limit:
                edge = heap[0] - np.float32(margin)
    kept = 0
    for place in range(count):
        if near[few[place]] >= edge:
            few[kept] = few[place]
            kept += 1
    return few[:kept].copy()


@finite
def best_of_few(
    user: Floats, base: Floats, extra: Floats, items: Ints, out_items: Ints, out_scores: Floats
) -> None:
    """The items with the largest user·v, best first, ties by index; the same sum as in `score_items`.

    Args:
        user: float32[d], what `attend` gave.
        base: float32[m, d], vectors of the release's items.
        extra: float32[e, d], vectors of newer items: item i is row i - m.
        items: int32[n], candidates, all known.
        out_items: int32[k], filled with items, k ≤ n.
        out_scores: float32[k], filled with their scores.
    """
    m, k = base.shape[0], out_items.shape[0]
    size = 0
    for place in range(items.shape[0]):
        item = items[place]
        score = dot(user, base[item] if item < m else extra[item - m])
        if size < k or score >= out_scores[0]:
            size = push(out_scores, out_items, size, float(score), item)
    unheap(out_scores, out_items, size)
