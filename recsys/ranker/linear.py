"""The linear part of the ranker: a regularised conditional logit over the same features.

Shapes: R rows (candidates of all groups), F features, D = F + M design columns, where M features
that are sometimes missing carry an indicator of their own. Groups are CSR: rows
offsets[g]:offsets[g+1] belong to group g.

Conditional (multinomial) logit: D. McFadden, "Conditional logit analysis of qualitative choice
behavior", 1974. A group's probability mass is split over its candidates by softmax; the positives
of a group share its weight. A constant added to a whole group changes nothing, so features that
only describe the user or the moment do not matter here; the trees use them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.features.compiled import compiled

Matrix = npt.NDArray[np.float32]
Offsets = npt.NDArray[np.int64]

SCORED_ROWS = 65_536
CLIP = 6.0
"""Standardised values are clipped here (measured: keeps one wild counter from ruling a list)."""

TWINS_FROM = 0.98
"""Correlation from which two columns are one (assumed)."""


@dataclass(frozen=True)
class Design:
    """How F raw features become D design columns: log where skewed, standardised, 0 if missing."""

    logged: npt.NDArray[np.bool_]
    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    indicated: npt.NDArray[np.int32]
    """Features with an indicator column "is missing"."""

    @classmethod
    def fit(cls, x: Matrix) -> "Design":
        """Read transforms off a sample of rows, float32[R,F]."""
        missing = np.isnan(x)
        known = np.where(missing, 0.0, x).astype(np.float64)
        count = np.maximum((~missing).sum(0), 1)
        mean = known.sum(0) / count
        spread = np.sqrt(np.where(missing, 0.0, (known - mean) ** 2).sum(0) / count)
        skew = np.where(missing, 0.0, (known - mean) ** 3).sum(0) / count
        skew = skew / np.maximum(spread, 1e-12) ** 3
        logged = skew > 3.0
        shaped = np.where(logged, np.sign(known) * np.log1p(np.abs(known)), known)
        mean = np.where(missing, 0.0, shaped).sum(0) / count
        spread = np.sqrt(np.where(missing, 0.0, (shaped - mean) ** 2).sum(0) / count)
        share = missing.mean(0)
        indicated = np.flatnonzero((share > 0.001) & (share < 0.999)).astype(np.int32)
        constant = spread < 1e-9
        scale = np.where(constant, 0.0, 1.0 / np.maximum(spread, 1e-9))
        whole = cls(logged, mean, scale, indicated)
        spare = _twins(whole.apply(x)[:, : len(mean)])
        return cls(logged, mean, np.where(spare, 0.0, scale), indicated)

    @property
    def width(self) -> int:
        return len(self.mean) + len(self.indicated)

    def apply(self, x: Matrix) -> Matrix:
        """float32[R,F] → float32[R,D]."""
        out: Matrix = _design(x, self.logged, self.mean, self.scale, self.indicated)
        return out


def _twins(columns: Matrix) -> npt.NDArray[np.bool_]:
    """bool[F]: standardised columns (float32[R,F]) that say what one before them says already.

    Two such columns share a large positive and a large negative weight, and where only one of them
    moves (a counter an hour later, beside the same count as of a fit), the score runs away.
    """
    gram = (columns.T @ columns).astype(np.float64)
    length = np.sqrt(np.maximum(np.diag(gram), 1e-12))
    alike = np.abs(gram / length[:, None] / length[None, :]) > TWINS_FROM
    spare = np.zeros(len(gram), bool)
    for place in range(1, len(gram)):
        spare[place] = bool((alike[place, :place] & ~spare[:place]).any())
    return spare


@compiled
def _design(
    x: Matrix,
    logged: npt.NDArray[np.bool_],
    mean: npt.NDArray[np.float64],
    scale: npt.NDArray[np.float64],
    indicated: npt.NDArray[np.int32],
) -> Matrix:
    rows, width = x.shape
    out = np.empty((rows, width + len(indicated)), np.float32)
    for r in range(rows):
        for f in range(width):
            value = np.float64(x[r, f])
            if np.isnan(value):
                out[r, f] = 0.0
                continue
            if logged[f]:
                value = np.log1p(abs(value)) * (1.0 if value >= 0 else -1.0)
            value = (value - mean[f]) * scale[f]
            out[r, f] = min(max(value, -CLIP), CLIP)
        for m in range(len(indicated)):
            out[r, width + m] = 1.0 if np.isnan(x[r, indicated[m]]) else 0.0
    return out


@compiled
def _softmax_loss(
    score: npt.NDArray[np.float64],
    target: Matrix,
    offsets: Offsets,
    gradient: npt.NDArray[np.float64],
) -> float:
    """Sum over groups of the cross-entropy of `target` (weights, any sum); fills its gradient."""
    loss = 0.0
    for g in range(len(offsets) - 1):
        low, high = offsets[g], offsets[g + 1]
        total = 0.0
        for r in range(low, high):
            total += target[r]
        if total <= 0.0:
            for r in range(low, high):
                gradient[r] = 0.0
            continue
        top = score[low]
        for r in range(low, high):
            top = max(top, score[r])
        norm = 0.0
        for r in range(low, high):
            norm += np.exp(score[r] - top)
        log_norm = top + np.log(norm)
        for r in range(low, high):
            loss += target[r] * (log_norm - score[r])
            gradient[r] = total * np.exp(score[r] - log_norm) - target[r]
    return loss


@dataclass(frozen=True)
class LinearPart:
    """score = design(x) · weights."""

    design: Design
    weights: npt.NDArray[np.float64]

    @classmethod
    def fit(
        cls,
        x: Matrix,
        target: Matrix,
        offsets: Offsets,
        *,
        penalty: float,
        start: "LinearPart | None" = None,
        iterations: int = 150,
    ) -> "LinearPart":
        """Fit the weights to the targets of G groups with R rows of F features.

        Args:
            x: float32[R, F], features; NaN is missing.
            target: float32[R], at least 0: what each row is worth in its group.
            offsets: int64[G+1], bounds of the groups.
            penalty: L2 weight per group (0.01 … 10).
            start: an earlier fit, for its design and first weights; None to begin at zero.
            iterations: of L-BFGS at most.
        """
        from scipy.optimize import minimize

        design = start.design if start else Design.fit(x[:: max(1, len(x) // 500_000)])
        matrix = design.apply(x)
        groups = max(1, len(offsets) - 1)
        gradient = np.empty(len(x))

        def objective(weights: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
            score = (matrix @ weights.astype(np.float32)).astype(np.float64)
            loss = _softmax_loss(score, target, offsets, gradient)
            slope = (gradient.astype(np.float32) @ matrix).astype(np.float64)
            return (
                loss / groups + 0.5 * penalty * float(weights @ weights) / groups,
                slope / groups + penalty * weights / groups,
            )

        first = start.weights if start else np.zeros(design.width)
        found = minimize(
            objective, first, jac=True, method="L-BFGS-B", options={"maxiter": iterations}
        )
        return cls(design, np.asarray(found.x, np.float64))

    def score(self, x: Matrix) -> npt.NDArray[np.float64]:
        """float64[R] of float32[R,F]; `SCORED_ROWS` at a time, so that memory is that of the result."""
        out = np.empty(len(x))
        for low in range(0, len(x), SCORED_ROWS):
            rows = slice(low, low + SCORED_ROWS)
            out[rows] = self.design.apply(x[rows]).astype(np.float64) @ self.weights
        return out

    def contributions(self, x: Matrix) -> npt.NDArray[np.float64]:
        """float64[R,F]: each feature's share of the score, its missing indicator included."""
        parts = self.design.apply(x) * self.weights
        width = len(self.design.mean)
        shares = parts[:, :width].astype(np.float64)
        for place, feature in enumerate(self.design.indicated):
            shares[:, feature] += parts[:, width + place]
        return shares

    def save(self, path: Path, names: tuple[str, ...]) -> None:
        record: dict[str, Any] = {
            "features": list(names),
            "logged": self.design.logged.tolist(),
            "mean": self.design.mean.tolist(),
            "scale": self.design.scale.tolist(),
            "indicated": self.design.indicated.tolist(),
            "weights": self.weights.tolist(),
        }
        path.write_text(json.dumps(record), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> tuple["LinearPart", tuple[str, ...]]:
        record = json.loads(path.read_text(encoding="utf-8"))
        design = Design(
            np.array(record["logged"], bool),
            np.array(record["mean"], np.float64),
            np.array(record["scale"], np.float64),
            np.array(record["indicated"], np.int32),
        )
        return cls(design, np.array(record["weights"], np.float64)), tuple(record["features"])
