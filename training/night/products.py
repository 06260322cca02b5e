"""What the steps of a night hand on: the encoder in use, the recipe, fitted sources, ranking data, the
champion's side.

Shapes: M moments, R candidate rows, F features, N items, d components of a vector.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from recsys.encoder.index import FOLDER as INDEX
from recsys.encoder.tower import InterestSource
from recsys.evaluation.lists import RankedLists, Truth
from recsys.features.feature_set import FeatureSet
from recsys.features.interactions import Floats
from recsys.features.protocols import RecallSource
from recsys.storage.files import hash_json
from recsys.storage.stages import StageResult
from recsys.training.groups import CandidateTable
from recsys.training.night.inputs import Inputs
from recsys.training.ranking_groups import Groups
from recsys.training.source_files import VECTORS, SourceFiles

FOLDER: Final = "encoder"
"""Of the encoder, in its stage's output and in a bundle."""
FULL: Final = "full"
"""Folder of the ranker with all features."""
LEARNABLE: Final = "groups with a positive"
"""A fact of ranking groups: how many hold something to learn."""
TEXT: Final = "text"
"""The encoder as a source."""


@dataclass(frozen=True)
class Encoded:
    """The encoder in use and the vectors of all items."""

    stage: StageResult[Path]
    vectors_stage: StageResult[Path]
    encoder_until: int
    """The encoder has seen events strictly before this."""
    encode: Callable[[Inputs], StageResult[Path]]
    """Makes the vectors of the items of some inputs."""
    bundled: Path | None = None
    """Its folder, where it came out of a bundle."""

    @property
    def folder(self) -> Path:
        """The encoder's folder, with the tower of the latest fit that was better."""
        if self.bundled is not None:
            return self.bundled
        refitted = self.vectors_stage.product / FOLDER
        return refitted if refitted.is_dir() else self.stage.product

    @property
    def fit_until(self) -> int:
        """Encoder and tower have seen events strictly before this."""
        return int(self.vectors_stage.facts.get("tower", {}).get("until", self.encoder_until))

    def vectors(self) -> Floats:
        """float32[N,d], memory-mapped."""
        vectors: Floats = np.load(self.vectors_stage.product / VECTORS, mmap_mode="r")
        return vectors

    def source(self) -> InterestSource:
        """The fine-tuned encoder with its user tower, as a source."""
        return cast(InterestSource, self.files().open())

    def files(self) -> SourceFiles:
        """Where that source lies."""
        # a source names the last event it may have seen, which lies before `fit_until`
        return SourceFiles(self.vectors_stage.product, self.folder, self.fit_until - 1)

    def over(self, inputs: Inputs) -> "Encoded":
        """The same encoder over the items of other inputs."""
        return replace(self, vectors_stage=self.encode(inputs))

    @property
    def index(self) -> Path | None:
        """Folder of the search index over the vectors, where they are many."""
        folder = self.vectors_stage.product / INDEX
        return folder if folder.is_dir() else None


@dataclass(frozen=True)
class Recipe:
    """How sources are made: which, with which params, and how their lists are fused."""

    params: Mapping[str, Mapping[str, float]]
    weights: Mapping[str, float]
    """Weight of each source in the fusion of ranks; a source of weight 0 is not recalled from."""
    facts: Mapping[str, Any]

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> "Recipe":
        return cls(record["dials"], record["weights"], record["facts"])

    def as_json(self) -> dict[str, Any]:
        return {"dials": self.params, "weights": self.weights, "facts": self.facts}

    def identity(self) -> dict[str, Any]:
        """What decides the lists: everything but the facts."""
        return {"dials": self.params, "weights": self.weights}

    @property
    def failed(self) -> Mapping[str, str]:
        """Sources that should be there and could not be fitted → why."""
        found: Mapping[str, str] = self.facts.get("failed", {})
        return found

    def without(self, name: str, why: str) -> "Recipe":
        """The same less a source that could not be fitted."""
        params = {n: v for n, v in self.params.items() if n != name}
        weights = {n: v for n, v in self.weights.items() if n != name}
        outcomes = [
            {**o, "kept": False, "reason": f"could not be fitted: {why}"}
            if o["name"] == name
            else o
            for o in self.facts.get("sources", [])
        ]
        facts = {**self.facts, "sources": outcomes, "failed": {**self.failed, name: why}}
        return replace(self, params=params, weights=weights, facts=facts)


@dataclass(frozen=True)
class Fitted:
    """Sources of one recipe as of one cut."""

    stages: Mapping[str, StageResult[RecallSource]]

    @property
    def key(self) -> str:
        """What decided all of them."""
        return hash_json({name: stage.key for name, stage in self.stages.items()})

    def load(self, encoded: Encoded) -> dict[str, RecallSource]:
        """All sources, the encoder's `text` among them."""
        sources = {name: stage.open() for name, stage in self.stages.items()}
        sources[TEXT] = cast(RecallSource, encoded.source())
        return sources

    def files(self, encoded: Encoded) -> dict[str, SourceFiles]:
        """Where all of these lie, in the order of `load`."""
        files = {name: SourceFiles(stage.folder / name) for name, stage in self.stages.items()}
        return files | {TEXT: encoded.files()}


@dataclass(frozen=True)
class CutSources:
    """Sources as of a cut: opened in this process where they are asked here, named by their files where
    they are asked elsewhere."""

    fitted: Fitted
    encoded: Encoded

    @cached_property
    def opened(self) -> dict[str, RecallSource]:
        """All of them by name, opened once."""
        return self.fitted.load(self.encoded)

    @property
    def files(self) -> dict[str, SourceFiles]:
        """Where they lie."""
        return self.fitted.files(self.encoded)


@dataclass(frozen=True)
class RankingData:
    """Moments of one role, their candidates and features."""

    moments: Truth
    user_hash: npt.NDArray[np.uint64]
    """uint64[M]: of the users' ids."""
    table: CandidateTable
    x: Floats
    """float32[R,F], memory-mapped."""
    features: FeatureSet
    shown: npt.NDArray[np.bool_]
    """bool[M]: moments at which a list was shown, whose items are the candidates; the others are at
    a cut, with recall's. They come last."""

    def groups(self) -> Groups:
        """For fitting or scoring a ranker."""
        relevant = self.moments.lengths.astype(np.int32)
        shown = self.shown if self.shown.any() else None
        return Groups(
            self.x, self.table.grade, self.table.offsets, self.user_hash, relevant, shown=shown
        )

    def write(self, folder: Path) -> None:
        """For `read`."""
        moments, table = self.moments, self.table
        np.save(folder / "x.npy", self.x)
        np.savez(
            folder / "moments.npz",
            user=moments.user,
            user_hash=self.user_hash,
            now=moments.time,
            offsets=moments.offsets,
            relevant=moments.items,
            moment_grade=moments.grades,
            row_offsets=table.offsets,
            items=table.items,
            row_grade=table.grade,
            shown=self.shown,
        )
        np.savez(folder / "signals.npz", **dict[str, Any](table.signals))
        written = json.dumps(self.features.to_json())
        (folder / "features.json").write_text(written, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "RankingData":
        """What `write` left."""
        held = np.load(folder / "moments.npz")
        moments = Truth(
            held["offsets"], held["relevant"], held["moment_grade"], held["user"], held["now"]
        )
        table = CandidateTable(
            held["row_offsets"],
            held["items"],
            np.load(folder / "signals.npz"),  # read one by one, as they are asked for
            held["row_grade"],
        )
        features = FeatureSet.from_json(
            json.loads((folder / "features.json").read_text(encoding="utf-8"))
        )
        x = np.load(folder / "x.npy", mmap_mode="r")
        return cls(moments, held["user_hash"], table, x, features, held["shown"])


@dataclass(frozen=True)
class ReleasedLists:
    """What the champion's release answers at some of tonight's test moments."""

    rows: npt.NDArray[np.intp]
    """int[n]: which."""
    lists: RankedLists


@dataclass(frozen=True)
class ChampionResult:
    """The champion's side of the comparison."""

    version: int
    lists: RankedLists | None
    """Its lists on tonight's test moments; None where it cannot be compared."""
    how: str
    """How it was made comparable, or why it cannot be compared."""
    lost: bool = False
    """Whether its files are gone, so that nothing can serve it."""
    same_recipe: bool = False
    """Whether its settings are tonight's."""
    same_labels: bool = False
    """Whether events meant the same to it: labels recorded by its night can be used."""
    released: ReleasedLists | None = None
    """Its release at moments after all that any part of it has seen."""
    unasked: str = ""
    """Why the release was not asked."""
    masked: StageResult[Any] | None = None
    """The lists of its recipe over masked cold items."""
