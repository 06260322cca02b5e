"""The ranker as served: score = linear part + mean of the boosters' trees, blended with the fusion.

Shapes: R rows, F features. Feature names, not positions, bind the model to its features: a matrix
is offered with the names of its columns and is refused when they differ from those of the fit.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.errors import RecsysError
from recsys.ranker.linear import LinearPart, Matrix
from recsys.ranker.tree_shares import TreeShares
from recsys.ranker.trees import FastTrees, score_each

LINEAR_FILE = "linear.json"
TREES_FILE = "ranker.txt"
BLEND_FILE = "blend.json"


def tree_name(feature: str) -> str:
    """A feature's name as LightGBM keeps it: letters, digits and `_.-~/=+`, all else as `%` and bytes.

    LightGBM refuses names with what JSON is written in (`size, cm`) and makes `_` of blanks, and an
    attribute is named by its owner.

    >>> tree_name("item.size, cm")
    'item.size%2C%20cm'
    """
    return quote(feature, safe="/=+")


def _tree_files(folder: Path) -> list[Path]:
    """ranker.txt, then ranker-1.txt … for further seeds."""
    return [p for p in [folder / TREES_FILE] if p.exists()] + sorted(folder.glob("ranker-*.txt"))


@dataclass(frozen=True)
class Blend:
    """score = own · (linear + trees) + fusion · fused + few / (1 + events).

    `fused` is recall's fused score (0 for an item in no list, which is what reciprocal ranks sum to
    then) and `events` the number of events that the item has at the moment.
    """

    own: float
    fusion: float
    fused_column: int
    """Place of the fused score among the features; -1 where it is none."""
    few: float
    """What an item without events gains."""
    events_column: int
    """Place of the number of events among the features; -1 where it is none."""

    def apply(self, score: npt.NDArray[np.float64], x: Matrix) -> npt.NDArray[np.float64]:
        """float64[R] of the ranker's own scores and the features."""
        return self.own * score + sum(term for _, term in self._terms(x))

    def contributions(self, shares: npt.NDArray[np.float64], x: Matrix) -> npt.NDArray[np.float64]:
        """float64[R,F]: the same for each feature's share of the score."""
        out = self.own * shares
        for column, term in self._terms(x):
            out[:, column] += term
        return out

    def _terms(self, x: Matrix) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
        """(column, what is added for it, float64[R])."""
        if self.fusion:
            fused = _known(x[:, self.fused_column])
            yield self.fused_column, self.fusion * fused
        if self.few:
            events = _known(x[:, self.events_column])
            yield self.events_column, self.few / (1.0 + np.maximum(events, 0.0))


def _known(values: Matrix) -> npt.NDArray[np.float64]:
    """float64[R] of float32[R], 0 where nothing is known."""
    out = values.astype(np.float64)
    out[np.isnan(out)] = 0.0
    return out


@dataclass
class Ranker:
    """Linear + trees; `boosters` may be empty, then the linear part ranks alone."""

    features: tuple[str, ...]
    linear: LinearPart | None
    boosters: list[Any] = field(default_factory=list)
    facts: Mapping[str, Any] = field(default_factory=dict)
    blend: Blend | None = None

    def score(self, x: Matrix) -> npt.NDArray[np.float64]:
        """float64[R] of float32[R,F] in the order of `features`."""
        total = self.linear.score(x) if self.linear else np.zeros(len(x))
        if self.boosters and len(x):
            by_bits = iter(score_each([t for t in self._trees if t is not None], x))
            trees = sum(
                np.asarray(booster.predict(x, raw_score=True, num_threads=1))
                if fast is None
                else next(by_bits)
                for fast, booster in zip(self._trees, self.boosters, strict=True)
            )
            total = total + trees / len(self.boosters)
        return total if self.blend is None else self.blend.apply(total, x)

    @cached_property
    def _trees(self) -> list[FastTrees | None]:
        """The boosters' trees as bits; None for those that LightGBM itself must score."""
        return [FastTrees.of(booster) for booster in self.boosters]

    @cached_property
    def _shares(self) -> list[TreeShares | None]:
        """The boosters' leaves and paths; None where LightGBM itself must explain."""
        pairs = zip(self.boosters, self._trees, strict=True)
        return [TreeShares.of(booster, trees) for booster, trees in pairs]

    def contributions(self, x: Matrix) -> npt.NDArray[np.float64]:
        """float64[R,F]: what each feature adds to the score (TreeSHAP of the trees + linear).

        The expectation of the trees is left out: it is the same for every item of a list.
        """
        shares = self.linear.contributions(x) if self.linear else np.zeros(x.shape)
        for booster, fast in zip(self.boosters, self._shares if len(x) else (), strict=False):
            if fast is None:
                added = np.asarray(booster.predict(x, pred_contrib=True, num_threads=1))[:, :-1]
            else:
                added = fast.contributions(x)
            shares = shares + added / len(self.boosters)
        return shares if self.blend is None else self.blend.contributions(shares, x)

    def gain(self) -> dict[str, float]:
        """Total gain of each feature in the trees, summed over boosters."""
        gains = np.zeros(len(self.features))
        for booster in self.boosters:
            gains += booster.feature_importance("gain")
        return dict(zip(self.features, map(float, gains), strict=True))

    def check_features(self, names: Sequence[str]) -> None:
        """Refuse a feature set whose names or order are not those of the fit."""
        if tuple(names) != self.features:
            missing = [n for n in self.features if n not in names]
            extra = [n for n in names if n not in self.features]
            raise RecsysError(
                "the ranker was trained on other features",
                where=f"{TREES_FILE}, {LINEAR_FILE}",
                found=f"missing {missing or 'none'}, unknown {extra or 'none'}, or another order",
                expected=f"{len(self.features)} features as trained",
                fix="use the feature set of the same bundle",
            )

    def save(self, folder: Path) -> None:
        """Write linear.json, blend.json where there is a blend, and ranker.txt (LightGBM's text format)
        into an existing folder."""
        if self.blend:
            (folder / BLEND_FILE).write_text(json.dumps(asdict(self.blend)), encoding="utf-8")
        if self.linear:
            self.linear.save(folder / LINEAR_FILE, self.features)
        for number, booster in enumerate(self.boosters):
            name = TREES_FILE if number == 0 else f"ranker-{number}.txt"
            booster.save_model(str(folder / name))

    @classmethod
    def load(cls, folder: Path) -> "Ranker":
        """Open what `save` wrote.

        Raises:
            RecsysError: neither part is there, or the two were trained on different features.
        """
        linear, features = None, None
        if (folder / LINEAR_FILE).exists():
            linear, features = LinearPart.load(folder / LINEAR_FILE)
        boosters = []
        for file in _tree_files(folder):
            import lightgbm

            booster = lightgbm.Booster(model_file=str(file))
            names = tuple(unquote(name) for name in booster.feature_name())
            if features is not None and names != features:
                raise RecsysError(
                    "the ranker's trees and its linear part name different features",
                    where=str(file),
                    found=f"{len(names)} features",
                    expected=f"the {len(features)} features of {LINEAR_FILE}, in their order",
                    fix="restore the bundle from the registry",
                )
            features = names
            boosters.append(booster)
        if features is None:
            raise RecsysError(
                "there is no ranker in this folder",
                where=str(folder),
                expected=f"{LINEAR_FILE} or {TREES_FILE}",
                fix="restore the bundle from the registry",
            )
        return cls(features, linear, boosters, blend=_blend(folder / BLEND_FILE, len(features)))


def _blend(file: Path, width: int) -> Blend | None:
    """What `save` wrote; None where there is none.

    Raises:
        RecsysError: it names no feature, or is no blend.
    """
    if not file.exists():
        return None
    try:
        blend = Blend(**json.loads(file.read_text(encoding="utf-8")))
        columns = (blend.fused_column, blend.events_column)
        if not all(-1 <= column < width for column in columns):
            raise ValueError(f"columns {columns}")
    except (OSError, ValueError, TypeError) as error:
        raise RecsysError(
            "the ranker's blend cannot be read",
            where=str(file),
            found=error,
            expected=f"two columns below {width}, and three factors",
            fix="restore the bundle from the registry",
        ) from None
    return blend
