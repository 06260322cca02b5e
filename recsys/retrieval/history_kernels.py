"""The compiled inner loops of every source: one user at a time, offline and online alike.

Shapes: N items of a source, h events of a history, K neighbours of an item, f factors, n candidates.
Every kernel releases the interpreter lock, adds in a fixed order and depends on nothing but its
arguments, so that a batch of users gives the bits that single calls give. Scratch arrays are the
caller's, one set per thread; a kernel leaves `mark` all zero.
"""

import numpy as np
import numpy.typing as npt

from recsys.features.compiled import compiled, reassociating
from recsys.features.interactions import Floats, Ints, Longs

Marks = npt.NDArray[np.uint8]


@compiled
def weigh(
    item: Ints,
    weight: Floats,
    known: Marks,
    decay: float,
    scale: float,
    out_item: Ints,
    out_weight: Floats,
) -> int:
    """The latest positive events on known items, newest first; returns how many.

    Event r steps from the end weighs decay**r times its own weight / `scale`. Dislikes and items
    the fit has not met are skipped and take no step. At most len(out_item) events are read.

    Args:
        item: int32[e], items of a history, oldest first.
        weight: float32[e], event weights; dislikes are not positive.
        known: uint8[N], 1 for items that the source knows.
        decay: factor for each further step into the past.
        scale: event weight that counts as 1.
        out_item: int32[h], filled with the items kept.
        out_weight: float32[h], filled with their weights.
    """
    count = 0
    step = 1.0
    for e in range(len(item) - 1, -1, -1):
        if count == len(out_item):
            break
        i = item[e]
        if weight[e] > 0 and 0 <= i < len(known) and known[i] == 1:
            out_item[count] = i
            out_weight[count] = step * weight[e] / scale
            count += 1
            step *= decay
    return count


@compiled
def push(scores: Floats, items: Ints, size: int, score: float, item: int) -> int:
    """Offer an item to a heap of the best `len(items)`; the worst is on top. Returns the new size.

    Better is a higher score, and at equal scores the lower item index.

    Args:
        scores: float32[K], the heap.
        items: int32[K], its items.
        size: entries in use.
        score: of the item offered.
        item: its index.
    """
    if size < len(items):
        place = size
        while place > 0:
            parent = (place - 1) >> 1
            if scores[parent] < score or (scores[parent] == score and items[parent] > item):
                break
            scores[place] = scores[parent]
            items[place] = items[parent]
            place = parent
        scores[place] = score
        items[place] = item
        return size + 1
    if score < scores[0] or (score == scores[0] and item > items[0]):
        return size
    sift(scores, items, size, score, item)
    return size


@compiled
def sift(scores: Floats, items: Ints, size: int, score: float, item: int) -> None:
    """Replace the top of the heap of `size` by an item and restore the order.

    Args:
        scores: float32[K], the heap.
        items: int32[K], its items.
        size: entries in use.
        score: of the item that takes the top.
        item: its index.
    """
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        other = child + 1
        if other < size and (
            scores[other] < scores[child]
            or (scores[other] == scores[child] and items[other] > items[child])
        ):
            child = other
        if scores[child] > score or (scores[child] == score and items[child] < item):
            break
        scores[place] = scores[child]
        items[place] = items[child]
        place = child
    scores[place] = score
    items[place] = item


@compiled
def unheap(scores: Floats, items: Ints, size: int) -> None:
    """Turn the heap into a list, best first, in place."""
    for last in range(size - 1, 0, -1):
        score, item = scores[last], items[last]
        scores[last], items[last] = scores[0], items[0]
        sift(scores, items, last, score, item)


@compiled
def sum_rows(
    offsets: Longs,
    neighbour: Ints,
    value: Floats,
    item: Ints,
    weight: Floats,
    count: int,
    total: Floats,
    mark: Marks,
    touched: Ints,
) -> int:
    """Sum the weighted rows of `count` history items, entry by entry in the order of the rows; returns
    how many items have a positive sum.

    Args:
        offsets: int64[N+1], bounds of the rows.
        neighbour: int32[nnz], neighbours of each item.
        value: float32[nnz], their weights.
        item: int32[h], items of the history.
        weight: float32[h], their weights.
        count: rows of them that are used.
        total: float32[N], the sum for items that a row holds; of others whatever was there.
        mark: uint8[N], scratch, all zero before and after.
        touched: int32[N+1], filled with the items of a positive sum.
    """
    met = 0
    # Passes without a branch: asking at each entry whether it is its item's first costs twice as much.
    for r in range(count):
        for p in range(offsets[item[r]], offsets[item[r] + 1]):
            j = np.uint32(neighbour[p])
            touched[met] = j
            met += 1 - mark[j]
            mark[j] = 1
            total[j] = 0.0
    for r in range(count):
        for p in range(offsets[item[r]], offsets[item[r] + 1]):
            total[np.uint32(neighbour[p])] += weight[r] * value[p]
    kept = 0
    for t in range(met):
        j = touched[t]
        mark[j] = 0
        touched[kept] = j
        kept += total[j] > 0
    return kept


@compiled
def best_of(
    total: Floats, touched: Ints, met: int, blocked: Marks, out_items: Ints, out_scores: Floats
) -> int:
    """The best len(out_items) of the summed items; returns how many.

    Args:
        total: float32[N], the sums that `sum_rows` left.
        touched: int32[N+1], the items that it met.
        met: how many.
        blocked: uint8[N], 1 for items that may not be listed.
        out_items: int32[K], filled with items, best first.
        out_scores: float32[K], filled with their scores.
    """
    size = 0
    for t in range(met):
        j = touched[t]
        # What is below the worst of a full heap is turned away here: a call for each costs more.
        if size == len(out_items) and total[j] < out_scores[0]:
            continue
        if blocked[j] == 0:
            size = push(out_scores, out_items, size, total[j], j)
    unheap(out_scores, out_items, size)
    return size


@compiled
def gather_at(
    offsets: Longs,
    neighbour: Ints,
    value: Floats,
    item: Ints,
    weight: Floats,
    count: int,
    known: Marks,
    mark: Marks,
    place: Ints,
    items: Ints,
    out: Floats,
) -> None:
    """Sum, largest part and the newest item's part for given candidates: out is float32[n, 3].

    NaN for candidates the source does not know; 0 for known ones that no history item reaches. Parts
    are added in the order of `sum_rows`, so the sums are the same to the last bit.

    Args:
        offsets, neighbour, value: neighbours of each item: int64[N+1], int32[nnz], float32[nnz].
        item, weight: int32[h] and float32[h], the history.
        count: rows of it that are used.
        known: uint8[N], 1 for items that the source knows.
        mark, place: uint8[N] and int32[N], scratch, all zero before and after.
        items: int32[n], candidates.
        out: float32[n, 3], filled in place.
    """
    # Marks beside the places: small enough to stay near.
    met = np.zeros(len(items), np.uint8)
    for c in range(len(items)):
        j = items[c]
        if j < 0 or j >= len(known) or known[j] == 0:
            out[c, 0] = out[c, 1] = out[c, 2] = np.nan
            continue
        out[c, 0] = out[c, 1] = out[c, 2] = 0.0
        if mark[j] == 0:
            mark[j], place[j] = 1, c + 1
    for r in range(count):
        for p in range(offsets[item[r]], offsets[item[r] + 1]):
            j = np.uint32(neighbour[p])
            if mark[j] == 0:
                continue
            c = place[j] - 1
            part = weight[r] * value[p]
            out[c, 0] += part
            if met[c] == 0 or part > out[c, 1]:
                met[c] = 1
                out[c, 1] = part
            if r == 0:
                out[c, 2] = part
    for c in range(len(items)):  # an item that is given again
        j = items[c]
        if 0 <= j < len(known) and place[j] > 0 and place[j] != c + 1:
            for column in range(3):  # a slice takes 2 s of the first call to compile (measured)
                out[c, column] = out[place[j] - 1, column]
    for c in range(len(items)):
        if 0 <= items[c] < len(known):
            mark[items[c]], place[items[c]] = 0, 0


@compiled
def parts_at(
    offsets: Longs,
    neighbour: Ints,
    value: Floats,
    item: Ints,
    weight: Floats,
    place: Ints,
    items: Ints,
    out: Floats,
) -> None:
    """What each of some history items alone says of given candidates: out is float32[h, n].

    Args:
        offsets: int64[N+1], bounds of the rows.
        neighbour: int32[nnz], neighbours of each item.
        value: float32[nnz], their weights.
        item: int32[h], history items that the source knows.
        weight: float32[h], their weights.
        place: int32[N], scratch, all zero before and after.
        items: int32[n], candidates, each once.
        out: float32[h, n], filled in place.
    """
    out[:] = 0.0
    for c in range(len(items)):
        if 0 <= items[c] < len(place):
            place[items[c]] = c + 1
    for r in range(len(item)):
        for p in range(offsets[item[r]], offsets[item[r] + 1]):
            c = place[neighbour[p]] - 1
            if c >= 0:
                out[r, c] = weight[r] * value[p]
    for c in range(len(items)):
        if 0 <= items[c] < len(place):
            place[items[c]] = 0


@compiled
def rows_at(rows: Floats, items: Ints, out: Floats) -> None:
    """Rows float32[N, w] of given items int32[n], into out float32[n, w]; NaN for unknown ones."""
    for c in range(len(items)):
        known = 0 <= items[c] < len(rows)
        for w in range(rows.shape[1]):
            out[c, w] = rows[items[c], w] if known else np.nan


@compiled
def listed_top(
    order: Ints, score: Floats, blocked: Marks, out_items: Ints, out_scores: Floats
) -> int:
    """The first unblocked items of a fixed order; returns how many.

    Args:
        order: int32[m], items, best first.
        score: float32[N], score of each item.
        blocked: uint8[N], 1 for items that may not be listed.
        out_items: int32[K], filled with items, best first.
        out_scores: float32[K], filled with their scores.
    """
    size = 0
    for p in range(len(order)):
        if size == len(out_items):
            break
        j = order[p]
        if blocked[j] == 0:
            out_items[size] = j
            out_scores[size] = score[j]
            size += 1
    return size


@reassociating
def dot(row: Floats, query: Floats) -> float:
    """Inner product in float32; every dense score comes through here."""
    total = np.float32(0.0)
    for f in range(len(query)):
        total += row[f] * query[f]
    return float(total)


@compiled
def largest_dots_at(rows: Floats, queries: Floats, known: Marks, items: Ints, out: Floats) -> None:
    """The largest inner product with one of several queries: out is float32[n]; NaN for unknown items.

    Args:
        rows: float32[N, f].
        queries: float32[h, f], one at least.
        known: uint8[N], 1 for items that the source knows.
        items: int32[n], candidates.
        out: float32[n], filled in place.
    """
    for c in range(len(items)):
        j = items[c]
        if j < 0 or j >= len(known) or known[j] == 0:
            out[c] = np.nan
            continue
        best = dot(rows[j], queries[0])
        for r in range(1, len(queries)):
            best = max(best, dot(rows[j], queries[r]))
        out[c] = best


@compiled
def dots_top(
    rows: Floats,
    query: Floats,
    known: Marks,
    blocked: Marks,
    total: Floats,
    out_items: Ints,
    out_scores: Floats,
) -> int:
    """The items with the highest inner product, over all N; returns how many.

    All products come first: a loop of nothing else is twice as fast as one with the heap in it.

    Args:
        rows: float32[N, f].
        query: float32[f].
        known: uint8[N], 1 for items that the source knows.
        blocked: uint8[N], 1 for items that may not be listed.
        total: float32[N], scratch.
        out_items: int32[K], filled with items, best first.
        out_scores: float32[K], filled with their scores.
    """
    for j in range(len(rows)):
        total[j] = dot(rows[j], query)
    size = 0
    for j in range(len(rows)):
        if size == len(out_items) and total[j] <= out_scores[0]:
            continue  # at the same score the item before it stands
        if known[j] == 1 and blocked[j] == 0:
            size = push(out_scores, out_items, size, total[j], j)
    unheap(out_scores, out_items, size)
    return size


@reassociating
def dot_of_codes(row: npt.NDArray[np.int8], query: Floats) -> float:
    """Inner product of a row in 8 bits, before its scale."""
    total = np.float32(0.0)
    for f in range(len(query)):
        total += np.float32(row[f]) * query[f]
    return float(total)


@compiled
def dots_top_of_lists(
    rows: Floats,
    query: Floats,
    known: Marks,
    blocked: Marks,
    offsets: Longs,
    member: Ints,
    codes: npt.NDArray[np.int8],
    scale: Floats,
    error: Floats,
    probe: Ints,
    out_items: Ints,
    out_scores: Floats,
) -> int:
    """As `dots_top`, over the members of the probed inverted lists only.

    Members are looked at in 8 bits; those that may be among the best, by the stated error, exactly.

    Args:
        rows: float32[N, f].
        query: float32[f].
        known: uint8[N], 1 for items that the source knows.
        blocked: uint8[N], 1 for items that may not be listed.
        offsets: int64[lists+1], bounds of the inverted lists.
        member: int32[m], items of the lists.
        codes: int8[m, f], vectors of `member`, in its order.
        scale: float32[m], what a code counts.
        error: float32[m], by how much the product with a query of length 1 may be off.
        probe: int32[p], lists to search.
        out_items: int32[K], filled with items, best first.
        out_scores: float32[K], filled with their scores.
    """
    length = np.float32(np.sqrt(dot(query, query)))
    members = 0
    for q in range(len(probe)):
        members += offsets[probe[q] + 1] - offsets[probe[q]]
    few, highest = np.empty(members, np.int32), np.empty(members, np.float32)
    size, count = 0, 0
    # The K best lower bounds so far: whose upper bound lies below the least of them is out.
    for q in range(len(probe)):
        for p in range(offsets[probe[q]], offsets[probe[q] + 1]):
            j = member[p]
            if known[j] == 1 and blocked[j] == 0:
                near = np.float32(dot_of_codes(codes[p], query)) * scale[p]
                slack = error[p] * length
                if size == len(out_items) and near + slack < out_scores[0]:
                    continue
                few[count], highest[count] = j, near + slack
                count += 1
                if size < len(out_items) or near - slack >= out_scores[0]:
                    size = push(out_scores, out_items, size, near - slack, j)
    edge = out_scores[0] if size == len(out_items) else np.float32(-np.inf)
    size = 0
    for place in range(count):
        if highest[place] >= edge:
            score = dot(rows[few[place]], query)
            if size < len(out_items) or score >= out_scores[0]:
                size = push(out_scores, out_items, size, score, few[place])
    unheap(out_scores, out_items, size)
    return size


@compiled
def fold_in(
    white: Floats, item: Ints, weight: Floats, count: int, alpha: float, out: Floats
) -> None:
    """Whitened user factor (float32[f]) of a weighted history, by an h×h solve.

    `white` = Y L with L Lᵀ = (YᵀY + λI)⁻¹. With confidences W = alpha·weight above the unseen
    ones' and targets c = W + weight, Woodbury gives scores Y A⁻¹ Yₕᵀc = white (whiteₕᵀ b) with
    (I + W G) b = c and G = whiteₕ whiteₕᵀ; solved in its symmetric form √W⁻¹ b.

    Args:
        white: float32[N, f], whitened item factors.
        item: int32[h], items of the history.
        weight: float32[h], their weights.
        count: rows of them that are used.
        alpha: confidence of an event of weight 1 above that of none.
        out: float32[f], filled in place.
    """
    system = np.empty((count, count), np.float64)
    target = np.empty(count, np.float64)
    for r in range(count):
        root = np.sqrt(alpha * weight[r])
        target[r] = (alpha * weight[r] + weight[r]) / root
        for s in range(r + 1):
            product = dot(white[item[r]], white[item[s]])
            system[r, s] = root * np.sqrt(alpha * weight[s]) * product
        system[r, r] += 1.0
    solve_in_place(system, target)
    out[:] = 0.0
    for r in range(count):
        b = np.float32(target[r] * np.sqrt(alpha * weight[r]))
        row = white[item[r]]
        for f in range(len(out)):
            out[f] += b * row[f]


@compiled
def solve_in_place(system: npt.NDArray[np.float64], target: npt.NDArray[np.float64]) -> None:
    """Cholesky solve of a positive definite system given by its lower triangle."""
    size = len(target)
    for c in range(size):
        for r in range(c, size):
            value = system[r, c]
            for k in range(c):
                value -= system[r, k] * system[c, k]
            system[r, c] = np.sqrt(value) if r == c else value / system[c, c]
    for r in range(size):
        for k in range(r):
            target[r] -= system[r, k] * target[k]
        target[r] /= system[r, r]
    for r in range(size - 1, -1, -1):
        for k in range(r + 1, size):
            target[r] -= system[k, r] * target[k]
        target[r] /= system[r, r]


# ---------------------------------------------------------------------------- fitting


@compiled
def co_occurrence(
    first: int,
    until: int,
    occurrence_offsets: Longs,
    occurrence: Longs,
    user: Ints,
    bounds: Longs,
    item: Ints,
    weight: Floats,
    before: int,
    after: int,
    decay: float,
    row_scale: Floats,
    column_scale: Floats,
    out_items: Ints,
    out_values: Floats,
    out_count: Ints,
) -> None:
    """The K strongest companions of items first..until, into rows of out (float32[rows, K]).

    Events lie in user order: event e of user u, whose events are bounds[u]:bounds[u+1], meets those
    at most `before` places earlier and `after` later; a pair weighs the product of both weights
    times decay**(gap - 1), times row_scale[row] * column_scale[j]. An item is no companion of itself.

    Args:
        first, until: range of the row items.
        occurrence_offsets, occurrence: int64[rows+1] and the events of each of these items.
        user, bounds: int32[E] of each event, and int64[U+1] of each user among the events.
        item, weight: int32[E] and float32[E], of each event.
        before, after, decay: places on either side that pair; factor for each further place between.
        row_scale, column_scale: float32[rows] and float32[N], factors of the row's and the column's item.
        out_items, out_values, out_count: int32 and float32[rows, K], int64[rows]; best first.
    """
    n_items = len(column_scale)
    total = np.zeros(n_items, np.float32)
    touched = np.empty(n_items, np.int32)
    mark = np.zeros(n_items, np.uint8)
    for i in range(first, until):
        met = 0
        for o in range(occurrence_offsets[i - first], occurrence_offsets[i - first + 1]):
            e = occurrence[o]
            low, high = bounds[user[e]], bounds[user[e] + 1]
            for q in range(max(low, e - before), min(high, e + after + 1)):
                j = item[q]
                if j == i:
                    continue
                part = weight[e] * weight[q]
                if decay < 1.0:
                    part *= decay ** (abs(q - e) - 1)
                if mark[j] == 0:
                    mark[j] = 1
                    touched[met] = j
                    met += 1
                    total[j] = part
                else:
                    total[j] += part
        keep_row(
            i - first, met, touched, total, mark, row_scale[i - first], column_scale,
            out_items, out_values, out_count,
        )  # fmt: skip


@compiled
def product_rows(
    first: int,
    until: int,
    left_offsets: Longs,
    left_column: Ints,
    left_value: Floats,
    right_offsets: Longs,
    right_column: Ints,
    right_value: Floats,
    column_scale: Floats,
    out_items: Ints,
    out_values: Floats,
    out_count: Ints,
) -> None:
    """The K largest entries of rows first..until of a product of CSR matrices, off the diagonal.

    Args:
        first, until: range of the rows.
        left_offsets, left_column, left_value: CSR of the left matrix: int64[N+1], int32[nnz],
            float32[nnz].
        right_offsets, right_column, right_value: CSR of the right matrix.
        column_scale: float32[N], factor of each column.
        out_items: int32[rows, K], filled with columns, best first.
        out_values: float32[rows, K], filled with their values.
        out_count: int64[rows], filled with how many there are.
    """
    n_items = len(column_scale)
    total = np.zeros(n_items, np.float32)
    touched = np.empty(n_items, np.int32)
    mark = np.zeros(n_items, np.uint8)
    for i in range(first, until):
        met = 0
        for o in range(left_offsets[i], left_offsets[i + 1]):
            a = left_column[o]
            for p in range(right_offsets[a], right_offsets[a + 1]):
                j = right_column[p]
                if j == i:
                    continue
                if mark[j] == 0:
                    mark[j] = 1
                    touched[met] = j
                    met += 1
                    total[j] = 0.0
                total[j] += left_value[o] * right_value[p]
        keep_row(
            i - first, met, touched, total, mark, 1.0, column_scale,
            out_items, out_values, out_count,
        )  # fmt: skip


@compiled
def keep_row(
    row: int,
    met: int,
    touched: Ints,
    total: Floats,
    mark: Marks,
    row_scale: float,
    column_scale: Floats,
    out_items: Ints,
    out_values: Floats,
    out_count: Ints,
) -> None:
    """Keep the K best of the touched entries of a row, best first; `mark` is cleared.

    Args:
        row: index of the row in the outputs.
        met: how many entries were touched.
        touched: int32[N], their columns.
        total: float32[N], their sums.
        mark: uint8[N], set for touched columns; all zero after.
        row_scale: the row's factor.
        column_scale: float32[N], factor of each column.
        out_items: int32[rows, K].
        out_values: float32[rows, K].
        out_count: int64[rows].
    """
    size = 0
    for t in range(met):
        j = touched[t]
        mark[j] = 0
        value = total[j] * row_scale * column_scale[j]
        if value > 0:
            size = push(out_values[row], out_items[row], size, value, j)
    unheap(out_values[row], out_items[row], size)
    out_count[row] = size


@compiled
def not_in(
    first_offsets: Longs,
    first_column: Ints,
    second_offsets: Longs,
    second_column: Ints,
    mark: Marks,
    out: Marks,
    out_count: Longs,
) -> None:
    """Which entries of the second table's rows (CSR) the first's lack: out uint8[nnz], and how many
    of each row int64[rows]. `mark` uint8[columns] is left all zero."""
    for row in range(len(out_count)):
        low, high = first_offsets[row], first_offsets[row + 1]
        for p in range(low, high):
            mark[first_column[p]] = 1
        for p in range(second_offsets[row], second_offsets[row + 1]):
            new = mark[second_column[p]] == 0
            out[p] = new
            out_count[row] += new
        for p in range(low, high):
            mark[first_column[p]] = 0


# ---------------------------------------------------------------------------- fusion


@compiled
def fuse(
    offsets: Longs,
    item: Ints,
    weight: Floats,
    constant: float,
    total: Floats,
    mark: Marks,
    touched: Ints,
) -> int:
    """Weighted reciprocal-rank fusion of lists (CSR); returns how many items they hold.

    Args:
        offsets: int64[S+1], bounds of each source's list.
        item: int32[n], items of the lists, best first.
        weight: float32[S], weight of each source.
        constant: added to each rank, so that the first places do not decide alone.
        total: float32[N], filled with the fused score of the items that a list holds.
        mark: uint8[N], scratch, all zero before and after.
        touched: int32[N], filled with those items.
    """
    met = 0
    for s in range(len(weight)):
        for p in range(offsets[s], offsets[s + 1]):
            j = item[p]
            part = np.float32(weight[s] / (constant + (p - offsets[s]) + 1.0))
            if mark[j] == 0:
                mark[j] = 1
                touched[met] = j
                met += 1
                total[j] = part
            else:
                total[j] += part
    for t in range(met):
        mark[touched[t]] = 0
    return met


@compiled
def kept(ranked: Ints, reserved: Ints, mark: Marks, out: Ints) -> int:
    """The reserved items and the best of the ranked, at most len(out); in the ranked order, what has no
    rank last, in the order given. Returns how many.

    Args:
        ranked: int32[n], items, best first, each once.
        reserved: int32[r], items that are kept first; some may stand twice.
        mark: uint8[N], scratch, all zero before and after.
        out: int32[limit], filled in place.
    """
    for j in reserved:
        mark[j] = 1  # reserved
    chosen = 0
    for j in ranked:
        if mark[j] == 1:
            mark[j] = 2  # and ranked
            chosen += 1
    alone = 0
    for j in reserved:
        if mark[j] == 1:
            mark[j] = 3  # without a rank, met once
            alone += 1
    room = len(out) - chosen - alone
    size = 0
    for j in ranked:
        if size == len(out):
            break
        if mark[j] == 2 or room > 0:
            room -= mark[j] != 2
            out[size] = j
            size += 1
    for j in reserved:
        if mark[j] == 3 and size < len(out):
            mark[j] = 0
            out[size] = j
            size += 1
    for j in reserved:
        mark[j] = 0
    return size


@compiled
def places_in_lists(
    offsets: Longs, listed: Ints, share: Floats, items: Ints, place: Ints, out: Floats
) -> None:
    """1-based place of each item in each of S lists, and its share there; NaN where it is not in it.

    Args:
        offsets: int64[S+1], bounds of the lists.
        listed: int32[l], items of the lists, best first.
        share: float32[l], what stands beside them.
        items: int32[n], items asked about.
        place: int32[N], scratch, all zero before and after.
        out: float32[2 S, n], filled in place: the places and the shares of each list in turn.
    """
    for s in range(len(offsets) - 1):
        low, high = offsets[s], offsets[s + 1]
        for p in range(low, high):
            place[listed[p]] = p - low + 1
        for c in range(len(items)):
            j = items[c]
            at = place[j] if 0 <= j < len(place) else 0
            if at > 0:
                out[2 * s, c] = at
                out[2 * s + 1, c] = share[low + at - 1]
            else:
                out[2 * s, c] = np.nan
                out[2 * s + 1, c] = np.nan
        for p in range(low, high):
            place[listed[p]] = 0
