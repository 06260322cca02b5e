"""What each feature adds to the trees' score: the values of TreeSHAP, by an integral over one variable.

A leaf is reached where the splits on its path hold. For one leaf, feature j "is satisfied" (o_j = 1) where
the row meets all of the path's splits on j, and z_j is the share of the training rows that met them, split
by split. Lundberg et al., *From local explanations to global understanding with explainable AI for trees*,
Nature Machine Intelligence 2020, give j the Shapley value of the game whose coalition T is worth
value · Π_{i in T} o_i · Π_{i not in T} z_i. By the multilinear extension of a game (Owen, *Multilinear
extensions of games*, Management Science 1972) that is

    (o_j - z_j) · value · ∫₀¹ Π_{i ≠ j} (x·o_i + (1 - x)·z_i) dx

over the d features of the path: a polynomial of degree d - 1, which Gauss and Legendre's rule of ⌈d/2⌉
points integrates exactly. Nothing is divided and no sign changes within a product, so the rounding is that of
the sums; the rows lie in the lanes of the vector instructions.

Shapes: R rows, F features, T trees, L leaves of all trees, P entries (features of the leaves' paths).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recsys.features.compiled import reassociating
from recsys.features.draws import Doubles
from recsys.features.interactions import Floats, Ints
from recsys.ranker.trees import LANES, MOST_LEAVES, FastTrees, Words, tree_blocks

MOST_POINTS: Final = (MOST_LEAVES + 1) // 2


def _rules() -> tuple[Doubles, Doubles]:
    """Points and weights on 0..1 of the rule of n points in row n, float64[MOST_POINTS + 1, MOST_POINTS]."""
    points, weights = (np.zeros((MOST_POINTS + 1, MOST_POINTS)) for _ in range(2))
    for count in range(1, MOST_POINTS + 1):
        at, weight = np.polynomial.legendre.leggauss(count)
        points[count, :count], weights[count, :count] = (at + 1.0) / 2.0, weight / 2.0
    return points, weights


POINTS, WEIGHTS = _rules()


@dataclass(frozen=True)
class TreeShares:
    """The leaves of one booster with their paths, feature by feature, as flat arrays."""

    trees: FastTrees
    value: Doubles
    """float64[L], leaves tree by tree."""
    leaf_start: Ints
    """int32[T+1]"""
    entry_start: Ints
    """int32[L+1]"""
    feature: Ints
    """int32[P]"""
    involved: Words
    """uint32[P]: the nodes of the tree that ask the feature on the leaf's path."""
    right: Words
    """uint32[P]: those of them that the path leaves to the right."""
    share: Doubles
    """float64[P]: z, the share of the training rows that went along at all of these nodes."""

    @classmethod
    def of(cls, booster: Any, trees: FastTrees | None) -> "TreeShares | None":
        """None where the trees are not scored by bits, or do not say how many rows went where."""
        paths = [] if trees is None else [_paths(tree) for tree in tree_blocks(booster)]
        if trees is None or any(one is None for one in paths):
            return None
        leaves = [one for one in paths if one is not None]
        entries = [entry for tree in leaves for _, path in tree for entry in path]
        return cls(
            trees,
            np.array([value for tree in leaves for value, _ in tree], np.float64),
            np.cumsum([0, *map(len, leaves)]).astype(np.int32),
            np.cumsum([0, *(len(path) for tree in leaves for _, path in tree)]).astype(np.int32),
            np.array([entry[0] for entry in entries], np.int32),
            np.array([entry[1] for entry in entries], np.uint32),
            np.array([entry[2] for entry in entries], np.uint32),
            np.array([entry[3] for entry in entries], np.float64),
        )

    def contributions(self, x: Floats) -> Doubles:
        """float64[R,F] of float32[R,F], as `predict(pred_contrib=True)` gives it without its last column."""
        out = np.empty(x.shape)
        for low in range(0, len(x), LANES):
            part = x[low : low + LANES]
            columns = np.zeros((x.shape[1], LANES), np.float32)
            columns[:, : len(part)] = part.T
            added = np.zeros((x.shape[1], LANES))
            add_shares(
                columns, self.trees.feature, self.trees.threshold, self.trees.missing_left,
                self.trees.node_start, self.value, self.leaf_start, self.entry_start, self.feature,
                self.involved, self.right, self.share, POINTS, WEIGHTS, added,
            )  # fmt: skip
            out[low : low + LANES] = added[:, : len(part)].T
        return out


_Entry = tuple[int, int, int, float]
"""(feature, nodes involved, those left to the right, share of the rows)."""


def _paths(tree: dict[str, list[str]]) -> list[tuple[float, list[_Entry]]] | None:
    """(value, entries of its path) of each leaf of a tree, from left to right; nodes are numbered as
    `FastTrees` numbers them, which is from left to right too."""
    values = [float(v) for v in tree["leaf_value"]]
    if len(values) == 1:
        return []
    if "leaf_count" not in tree or "internal_count" not in tree:
        return None
    features = [int(v) for v in tree["split_feature"]]
    left, right = ([int(v) for v in tree[side]] for side in ("left_child", "right_child"))
    leaf_rows = [int(v) for v in tree["leaf_count"]]
    node_rows = [int(v) for v in tree["internal_count"]]
    if min(leaf_rows) < 1:
        return None
    place: dict[int, int] = {}
    leaves: list[tuple[float, list[_Entry]]] = []

    def number(node: int) -> None:
        if node >= 0:
            number(left[node])
            place[node] = len(place)
            number(right[node])

    def walk(node: int, path: dict[int, tuple[int, int, float]]) -> None:
        """Path: feature → (nodes involved, those left to the right, share of the rows)."""
        if node < 0:
            leaves.append((values[~node], [(f, *entry) for f, entry in path.items()]))
            return
        involved, gone_right, share = path.get(features[node], (0, 0, 1.0))
        bit = 1 << place[node]
        for child, turned in ((left[node], 0), (right[node], bit)):
            rows = node_rows[child] if child >= 0 else leaf_rows[~child]
            entry = (involved | bit, gone_right | turned, share * rows / node_rows[node])
            walk(child, {**path, features[node]: entry})

    number(0)
    walk(0, {})
    return leaves


@reassociating
def _turn(
    columns: Floats,
    node_feature: Ints,
    threshold: Floats,
    missing_left: npt.NDArray[np.uint8],
    first: int,
    last: int,
    turned: Words,
) -> None:
    """A bit for each node first..last of a tree at which a row goes to the right, for LANES rows."""
    lanes = columns.shape[1]
    turned[:] = np.uint32(0)
    for node in range(first, last):
        column, limit = columns[node_feature[node]], threshold[node]
        bit = np.uint32(1) << np.uint32(node - first)
        # A comparison with what is missing is false, whichever it is.
        if missing_left[node]:
            for r in range(lanes):
                turned[r] |= bit if column[r] > limit else np.uint32(0)
        else:
            for r in range(lanes):
                turned[r] |= np.uint32(0) if column[r] <= limit else bit


@reassociating
def _meet(
    turned: Words,
    involved: Words,
    right: Words,
    first: int,
    size: int,
    met: Doubles,
    total: Doubles,
) -> None:
    """Which of a leaf's features each row satisfies (1.0 or 0.0), with nothing added for them yet."""
    lanes = len(turned)
    for j in range(size):
        asked, wanted = involved[first + j], right[first + j]
        for r in range(lanes):
            met[j, r] = 1.0 if (turned[r] & asked) == wanted else 0.0
            total[j, r] = 0.0


@reassociating
def add_shares(
    columns: Floats,
    node_feature: Ints,
    threshold: Floats,
    missing_left: npt.NDArray[np.uint8],
    node_start: Ints,
    value: Doubles,
    leaf_start: Ints,
    entry_start: Ints,
    feature: Ints,
    involved: Words,
    right: Words,
    share: Doubles,
    points: Doubles,
    weights: Doubles,
    out: Doubles,
) -> None:
    """Add each feature's share of the trees' score, for LANES rows, to out float64[F, LANES].

    `columns` are the features, float32[F, LANES], NaN where missing. The arrays of the nodes are those of
    `FastTrees`, those of leaves and entries those of `TreeShares`, then `POINTS` and `WEIGHTS`.
    """
    # A number that the compiler does not know: loops of a known length are unrolled, not put in vectors.
    lanes = columns.shape[1]
    turned = np.empty(lanes, np.uint32)
    met = np.empty((MOST_LEAVES, lanes), np.float64)
    before = np.empty((MOST_LEAVES, lanes), np.float64)
    behind = np.empty(lanes, np.float64)
    total = np.empty((MOST_LEAVES, lanes), np.float64)
    for tree in range(len(node_start) - 1):
        first, last = node_start[tree], node_start[tree + 1]
        _turn(columns, node_feature, threshold, missing_left, first, last, turned)
        for leaf in range(leaf_start[tree], leaf_start[tree + 1]):
            first = entry_start[leaf]
            size = entry_start[leaf + 1] - first
            count = (size + 1) // 2
            _meet(turned, involved, right, first, size, met, total)
            for q in range(count):
                x = points[count, q]
                weight = weights[count, q] * value[leaf]
                for r in range(lanes):
                    behind[r] = weight
                for j in range(size):
                    z = (1.0 - x) * share[first + j]
                    for r in range(lanes):
                        before[j, r] = behind[r]
                        behind[r] *= x * met[j, r] + z
                for r in range(lanes):
                    behind[r] = 1.0
                for j in range(size - 1, -1, -1):
                    z = (1.0 - x) * share[first + j]
                    for r in range(lanes):
                        total[j, r] += before[j, r] * behind[r]
                        behind[r] *= x * met[j, r] + z
            for j in range(size):
                z = share[first + j]
                row = out[feature[first + j]]
                for r in range(lanes):
                    row[r] += (met[j, r] - z) * total[j, r]
