"""LightGBM's trees scored by bits: the same numbers as its `predict`, to the last one, several times faster.

Every node that a row goes right at takes the leaves of its left side out of the row's set; the lowest
leaf that is left is the one the row reaches (Lucchese et al., *QuickScorer*, SIGIR 2015). A node is
asked for many rows at once, which compilers turn into vector instructions (the same, *Exploiting CPU
SIMD Extensions to Speed-up Document Scoring with Tree Ensembles*, SIGIR 2016).

Shapes: R rows, F features, T trees, N nodes and L leaves of all trees together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.features.compiled import compiled
from recsys.features.draws import Doubles
from recsys.features.interactions import Floats, Ints

MOST_LEAVES = 32
"""Leaves of a tree that one word's bits can stand for."""
ROWS_AT_ONCE = 1024
LANES = 16
"""Rows of the widest vectors of processors."""
CATEGORICAL, DEFAULT_LEFT = 1, 2
"""Bits of LightGBM's `decision_type`; the two above them say what counts as missing."""
MISSING_NONE, MISSING_NAN = 0, 2
TINY = np.float32(1e-35)
DE_BRUIJN = 0x077CB531
"""A number whose 32 shifts begin with 32 different five bits: finds the place of a lone bit."""

Words = npt.NDArray[np.uint32]


def _places() -> npt.NDArray[np.uint8]:
    """Place of a bit by the five top bits of it times DE_BRUIJN."""
    out = np.zeros(32, np.uint8)
    for place in range(32):
        out[((1 << place) * DE_BRUIJN & 0xFFFFFFFF) >> 27] = place
    return out


PLACES = _places()


@dataclass(frozen=True)
class FastTrees:
    """The trees of one booster as flat arrays."""

    feature: Ints
    """int32[N], nodes tree by tree."""
    threshold: Floats
    """float32[N]: a row with a value up to it goes left."""
    without_left: Words
    """uint32[N]: all bits but those of the leaves on the node's left side."""
    missing_left: npt.NDArray[np.uint8]
    """uint8[N]: whether a row without a value goes left."""
    node_start: Ints
    """int32[T+1]"""
    value: Doubles
    """float64[L], leaves of a tree from left to right."""
    leaf_start: Ints
    """int32[T+1]"""

    @classmethod
    def of(cls, booster: Any) -> "FastTrees | None":
        """None for trees of more than 32 leaves, categorical splits, or zeros that count as missing."""
        parsed = [_ordered(tree) for tree in tree_blocks(booster)]
        if not parsed or any(one is None for one in parsed):
            return None
        nodes, leaves = zip(*(one for one in parsed if one is not None), strict=True)
        flat = [node for tree in nodes for node in tree]
        return cls(
            np.array([n[0] for n in flat], np.int32),
            np.array([n[1] for n in flat], np.float32),
            np.array([n[2] for n in flat], np.uint32),
            np.array([n[3] for n in flat], np.uint8),
            np.cumsum([0, *map(len, nodes)]).astype(np.int32),
            np.array([value for tree in leaves for value in tree], np.float64),
            np.cumsum([0, *map(len, leaves)]).astype(np.int32),
        )

    def score(self, x: npt.NDArray[np.floating]) -> Doubles:
        """float64[R] of float[R,F]: the sum of the trees, as `predict(raw_score=True)` gives it.

        Values are read as float32, which is what features are.
        """
        total: Doubles = score_each([self], x)[0]
        return total


def score_each(models: Sequence[FastTrees], x: npt.NDArray[np.floating]) -> Doubles:
    """float64[models, R] of float[R,F]: `FastTrees.score` of each, the rows turned once."""
    out = np.empty((len(models), len(x)))
    for low in range(0, len(x), ROWS_AT_ONCE):
        part = x[low : low + ROWS_AT_ONCE]
        # Whole vectors: rows that fill none up are taken one by one.
        columns = np.zeros((x.shape[1], -(-len(part) // LANES) * LANES), np.float32)
        columns[:, : len(part)] = part.T
        total = np.empty(columns.shape[1])
        for place, trees in enumerate(models):
            score_trees(
                columns, trees.feature, trees.threshold, trees.without_left, trees.missing_left,
                trees.node_start, trees.value, trees.leaf_start, PLACES, total,
            )  # fmt: skip
            out[place, low : low + len(part)] = total[: len(part)]
    return out


def tree_blocks(booster: Any) -> list[dict[str, list[str]]]:
    """The arrays of each tree of a booster, by their names in LightGBM's text format."""
    return [_tree(block) for block in booster.model_to_string().split("\nTree=")[1:]]


def _tree(block: str) -> dict[str, list[str]]:
    """Arrays of one tree of LightGBM's text format, by name."""
    lines = (line.partition("=") for line in block.split("\n\n")[0].splitlines())
    return {name: values.split() for name, _, values in lines if values}


def _ordered(
    tree: dict[str, list[str]],
) -> tuple[list[tuple[int, np.float32, int, bool]], list[float]] | None:
    """(nodes as (feature, threshold, mask, missing goes left), leaf values from left to right)."""
    values = [float(v) for v in tree["leaf_value"]]
    if len(values) > MOST_LEAVES or "leaf_const" in tree:
        return None
    if len(values) == 1:
        return [], values
    kinds = [int(v) for v in tree["decision_type"]]
    if any(k & CATEGORICAL or k >> 2 not in (MISSING_NONE, MISSING_NAN) for k in kinds):
        return None
    features = [int(v) for v in tree["split_feature"]]
    thresholds = [float(v) for v in tree["threshold"]]
    left, right = ([int(v) for v in tree[side]] for side in ("left_child", "right_child"))
    nodes: list[tuple[int, np.float32, int, bool]] = []
    leaves: list[float] = []

    def walk(node: int) -> int:
        """Leaves at or under a node (a leaf is ~its number), which are put behind those before."""
        if node < 0:
            leaves.append(values[~node])
            return 1
        first = len(leaves)
        count = walk(left[node])
        kind, threshold = kinds[node], thresholds[node]
        # Where nothing counts as missing, LightGBM reads a missing value as zero.
        missing = kind & DEFAULT_LEFT != 0 if kind >> 2 == MISSING_NAN else threshold >= 0.0
        mask = ~(((1 << count) - 1) << first) & 0xFFFFFFFF
        nodes.append((features[node], _no_larger(threshold), mask, missing))
        return count + walk(right[node])

    walk(0)
    return nodes, leaves


def _no_larger(threshold: float) -> np.float32:
    """The largest float32 that is no larger: the same float32 values lie up to it.

    LightGBM reads values as near to zero as TINY as zero itself, so that a threshold among them moves
    to the end of theirs.
    """
    with np.errstate(over="ignore"):
        near = np.float32(threshold)
    if float(near) > threshold:
        near = np.nextafter(near, np.float32(-np.inf))
    if 0 <= near < TINY:
        return TINY
    return np.nextafter(-TINY, np.float32(-np.inf)) if -TINY <= near < 0 else near


@compiled
def score_trees(
    columns: Floats,
    feature: Ints,
    threshold: Floats,
    without_left: Words,
    missing_left: npt.NDArray[np.uint8],
    node_start: Ints,
    value: Doubles,
    leaf_start: Ints,
    places: npt.NDArray[np.uint8],
    out: Doubles,
) -> None:
    """Sum of the trees for columns float32[F,R], into out float64[R].

    Args:
        columns: float32[F, R], features; NaN is missing.
        feature, threshold, without_left, missing_left: arrays of the nodes, as in `FastTrees`.
        node_start: int32[T+1], bounds of the nodes of each tree.
        value: float64[L], leaves of a tree from left to right.
        leaf_start: int32[T], first leaf of each tree.
        places: uint8[32], `PLACES`.
        out: float64[R], filled in place.
    """
    rows = columns.shape[1]
    whole = np.uint32(0xFFFFFFFF)
    left = np.empty(rows, np.uint32)
    out[:] = 0.0
    for tree in range(len(node_start) - 1):
        left[:] = whole
        for node in range(node_start[tree], node_start[tree + 1]):
            column, limit, mask = columns[feature[node]], threshold[node], without_left[node]
            # A comparison with what is missing is false, whichever it is.
            if missing_left[node]:
                for r in range(rows):
                    left[r] &= mask if column[r] > limit else whole
            else:
                for r in range(rows):
                    left[r] &= whole if column[r] <= limit else mask
        first = leaf_start[tree]
        for r in range(rows):
            lowest = left[r] & (~left[r] + np.uint32(1))
            place = np.uint32(lowest * np.uint32(DE_BRUIJN)) >> np.uint32(27)
            out[r] += value[first + places[place]]
