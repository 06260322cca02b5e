"""Tuning and fitting the recall sources, as of each cut and for the release.

One recipe (which sources, with which dials, fused how) is used for every fit of a night, so that
what is evaluated and what is released differ only in how far their data reaches.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from features.interactions import DAY, Interactions
from features.protocols import RecallSource
from recsys.files import atomic_write, hash_json
from recsys.recall.candidates import RecallStage
from recsys.stages import StageResult
from training.groups import history_reader
from training.night.context import Night
from training.night.encoder import Encoded
from training.night.inputs import Inputs
from recsys.collaborative.base import SourceInputs
from recsys.recall.registry import load_source
from training.sources.fit import applicable_sources, fit_sources
from training.sources.tune import Label, tune_sources
from training.windows import moments_at

CODE = (
    "recsys.collaborative",
    "recsys.content",
    "recsys.sequence",
    "recsys.recall",
    "training.sources",
)
TEXT = "text"
TUNING_MOMENTS = 1500
"""Moments whose labels choose the dials (assumed: enough to tell dials a tenth apart)."""
RETUNE_DAYS = 7.0
"""Days of data after which remembered dials are tried again (assumed: the encoder's cadence)."""
POINTER = "recipe.json"


@dataclass(frozen=True)
class Recipe:
    """How sources are made: which, with which dials, and how their lists are fused."""

    dials: Mapping[str, Mapping[str, float]]
    weights: Mapping[str, float]
    """Weight of each source in the fusion of ranks; a source of weight 0 is not recalled from."""
    facts: Mapping[str, Any]

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> "Recipe":
        return cls(record["dials"], record["weights"], record["facts"])

    def as_json(self) -> dict[str, Any]:
        return {"dials": self.dials, "weights": self.weights, "facts": self.facts}

    def identity(self) -> dict[str, Any]:
        """What decides the fits: everything but the facts."""
        return {"dials": self.dials, "weights": self.weights}


def source_inputs(inputs: Inputs, encoded: Encoded) -> SourceInputs:
    """What sources may use besides events: the catalogue, its texts and their vectors."""
    return SourceInputs(inputs.tables.catalogue, inputs.texts, encoded.vectors())


def tune(night: Night, inputs: Inputs, encoded: Encoded) -> Recipe:
    """Choose sources and dials on the ranker's windows, or keep those of an earlier night.

    The labels used lie before the first tested cut; the test window takes no part.
    """
    pointer = night.workspace.cache / POINTER
    identity = _identity(night, inputs, encoded, pointer)
    stage = night.runner.run(
        "recipe",
        identity,
        lambda out: {"recipe": _choose(night, inputs, encoded).as_json()},
        code=CODE,
    )
    if not night.runner.dry_run:
        atomic_write(pointer, json.dumps(identity))
    return Recipe.parse(stage.facts["recipe"]) if stage.facts else Recipe({}, {}, {})


def _identity(night: Night, inputs: Inputs, encoded: Encoded, pointer: Path) -> dict[str, Any]:
    """What decides the recipe; the identity at hand while it is younger than RETUNE_DAYS."""
    new = {
        "end": inputs.windows.end,
        "encoder": encoded.stage.key,
        "sources": night.section("sources"),
        "budget_minutes": night.config.budget_minutes,
        "seed": night.config.seed,
    }
    try:
        kept: dict[str, Any] = json.loads(pointer.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return new
    rest = {k: v for k, v in new.items() if k != "end"}
    same = hash_json(rest) == hash_json({k: v for k, v in kept.items() if k != "end"})
    age = (new["end"] - kept["end"]) / DAY
    return kept if same and 0 <= age < RETUNE_DAYS else new


def _choose(night: Night, inputs: Inputs, encoded: Encoded) -> Recipe:
    """Tune on labels of the ranker's windows, with sources fitted before the first of them."""
    config, windows = night.config.sources, inputs.windows
    cut = windows.ranker[0] if windows.ranker else windows.cuts[0]
    end = windows.test[0] if windows.ranker else windows.end
    events = inputs.interactions.before(cut)
    extra = source_inputs(inputs, encoded)
    judged = applicable_sources(
        events,
        extra,
        config.use,
        memory_bytes=psutil.virtual_memory().available / 2,
        budget_seconds=night.budget("sources") / (len(windows.cuts) + 1),
    )
    plan = tune_sources(
        events,
        _labels(inputs, cut, end, night.config.seed),
        extra,
        [source.name for source in judged if source.kept],
        fixed={TEXT: encoded.source()},
        dials=config.dials,
        depth=config.depth,
        limit=config.candidates,
        budget_seconds=night.budget("tuning") if config.tune else 0.0,
        seed=night.config.seed,
        workers=night.workers,
    )
    facts = {"applicable": [list(source) for source in judged], **plan.facts()}
    return Recipe(plan.dials, plan.weights, facts)


def _labels(inputs: Inputs, cut: int, end: int, seed: int) -> list[Label]:
    """Moments at the first cut with what their users did until `end`."""
    moments = moments_at(inputs.interactions, cut, end).sample(TUNING_MOMENTS, seed)
    read = history_reader(inputs.interactions.histories(), moments)
    return [
        Label(read(m), cut, moments.relevant[moments.offsets[m] : moments.offsets[m + 1]])
        for m in range(len(moments))
    ]


@dataclass(frozen=True)
class Fitted:
    """Sources of one recipe fitted as of one cut."""

    stage: StageResult

    def load(self, encoded: Encoded) -> dict[str, RecallSource]:
        """All sources, the encoder's `text` among them."""
        sources = {
            folder.name: load_source(folder)
            for folder in sorted(self.stage.path.iterdir())
            if folder.is_dir()
        }
        order = [name for name in self.stage.facts["sources"] if name in sources]
        return {name: sources[name] for name in order} | {TEXT: encoded.source()}


def fit_as_of(
    night: Night,
    inputs: Inputs,
    encoded: Encoded,
    recipe: Recipe,
    view: Interactions,
    cut: int,
    *,
    practised: bool = False,
) -> Fitted:
    """Fit the recipe's sources on the events of `view` strictly before a cut.

    `practised` says that some items' events were taken out of `view` (see `night.measure`).
    """

    def action(out: Path) -> dict[str, Any]:
        seconds: dict[str, float] = {}
        known = view.before(cut)
        extra = source_inputs(inputs, encoded)
        for name, dials in recipe.dials.items():
            began = time.monotonic()
            fitted = fit_sources(
                known, extra, {name: dials}, seed=night.config.seed, workers=night.workers
            )
            (out / name).mkdir()
            fitted[name].save(out / name)
            seconds[name] = round(time.monotonic() - began, 2)
        return {"sources": list(recipe.dials), "seconds": seconds, "cut": cut}

    stage = night.runner.run(
        "sources",
        {
            "tables": inputs.key,
            "cut": cut,
            "practised": practised,
            "vectors": encoded.vectors_stage.key,
            "recipe": recipe.identity(),
            "seed": night.config.seed,
        },
        action,
        code=CODE,
    )
    return Fitted(stage)


def recall_stage(
    night: Night, recipe: Recipe, sources: Mapping[str, RecallSource]
) -> RecallStage:
    """Recall as it is served: the configured depth and limit, the recipe's fusion."""
    config = night.config.sources
    return RecallStage(sources, config.depth, config.candidates, recipe.weights)
