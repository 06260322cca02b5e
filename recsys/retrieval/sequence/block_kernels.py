"""The compiled block of the sequence model: one user at a time, without the interpreter's lock.

Matrices this small gain nothing from a threaded BLAS, whose waiting threads cost twenty times the
work where processors are shared (measured: 6 ms instead of 0.3 ms a history). Sums run in one order.
Shapes: h events of a history, d model width, H heads, m inner width, n rows asked for.
"""

from typing import Final

import numpy as np

from recsys.features.compiled import compiled
from recsys.features.interactions import Floats
from recsys.retrieval.history_kernels import dot

NORM_EPSILON: Final = 1e-5


@compiled
def normalise(rows: Floats, norm: Floats) -> Floats:
    """Layer norm of each row of float32[n, d]; norm is float32[2, d]: gain and bias."""
    width = rows.shape[1]
    out = np.empty_like(rows)
    for r in range(len(rows)):
        mean = np.float32(0.0)
        for f in range(width):
            mean += rows[r, f]
        mean /= np.float32(width)
        variance = np.float32(0.0)
        for f in range(width):
            out[r, f] = rows[r, f] - mean
            variance += out[r, f] * out[r, f]
        scale = np.float32(1.0) / np.sqrt(variance / np.float32(width) + np.float32(NORM_EPSILON))
        for f in range(width):
            out[r, f] = out[r, f] * scale * norm[0, f] + norm[1, f]
    return out


@compiled
def project(rows: Floats, weights: Floats, low: int, high: int) -> Floats:
    """rows @ weights[:, low:high], float32[n, high - low]."""
    out = np.zeros((len(rows), high - low), np.float32)
    for k in range(rows.shape[1]):  # outside, so that a row of weights is read once
        weight = weights[k, low:high]
        for r in range(len(rows)):
            factor, total = rows[r, k], out[r]
            for f in range(len(total)):
                total[f] += factor * weight[f]
    return out


@compiled
def attend(query: Floats, key: Floats, value: Floats, distance: Floats) -> Floats:
    """Causal attention of the last n of h rows, float32[n, d]; distance is float32[H, length]."""
    asked, past = len(query), len(key)
    size = query.shape[1] // len(distance)
    root = np.float32(1.0 / np.sqrt(size))
    out = np.zeros_like(query)
    share = np.empty(past, np.float32)
    for q in range(asked):
        place = past - asked + q
        for head in range(len(distance)):
            first, last = head * size, (head + 1) * size
            highest = np.float32(-np.inf)
            for j in range(place + 1):
                near = np.float32(dot(query[q, first:last], key[j, first:last])) * root
                share[j] = near + distance[head, place - j]
                highest = max(highest, share[j])
            total = np.float32(0.0)
            for j in range(place + 1):
                share[j] = np.exp(share[j] - highest)
                total += share[j]
            for j in range(place + 1):
                part, mixed, told = share[j] / total, out[q, first:last], value[j, first:last]
                for f in range(size):
                    mixed[f] += part * told[f]
    return out


@compiled
def block(
    state: Floats,
    asked: int,
    distance: Floats,
    norm1: Floats,
    attend_weights: Floats,
    mix: Floats,
    norm2: Floats,
    widen: Floats,
    widen_bias: Floats,
    narrow: Floats,
    narrow_bias: Floats,
) -> Floats:
    """One pre-norm block over float32[h, d]; the last `asked` rows of what it makes of them.

    Args:
        state: float32[h, d], the rows that go in, oldest first.
        asked: last rows that are wanted.
        distance: float32[heads, length], bias of each distance between two rows.
        norm1: float32[2, d], scale and shift before attention.
        attend_weights: float32[d, 3d], to queries, keys and values.
        mix: float32[d, d], from the heads back.
        norm2: float32[2, d], scale and shift before the wide layer.
        widen: float32[d, m].
        widen_bias: float32[m].
        narrow: float32[m, d].
        narrow_bias: float32[d].
    """
    width = state.shape[1]
    rows = normalise(state, norm1)
    query = project(rows[len(rows) - asked :], attend_weights, 0, width)
    key = project(rows, attend_weights, width, 2 * width)
    value = project(rows, attend_weights, 2 * width, 3 * width)
    mixed = project(attend(query, key, value, distance), mix, 0, width)
    out = state[len(state) - asked :] + mixed
    inner = project(normalise(out, norm2), widen, 0, widen.shape[1])
    for r in range(asked):
        for f in range(inner.shape[1]):
            inner[r, f] = max(inner[r, f] + widen_bias[f], np.float32(0.0))
    added = project(inner, narrow, 0, width)
    for r in range(asked):
        for f in range(width):
            out[r, f] += added[r, f] + narrow_bias[f]
    return out
