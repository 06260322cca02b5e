"""The night, stage by stage, in order. Each stage is real work in `training/night/`; nothing is
done here but to say what follows what.

    drain → validate → parity of served rows → split → encoder (when due) → encode what changed
    → recipe (when due) → sources as of each cut → groups and features → ranker → lists → evaluate → release → gate
    → register

Every stage's output is kept under the hash of its inputs, so a night that was interrupted goes on
where it stopped and one that is repeated does nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_schemas.config import RecsysConfig
from recsys.encoder.source import require_local
from recsys.progress import Reporter
from recsys.registry import Registry
from recsys.stages import StageRunner
from recsys.workspace import Workspace
from training.night import (
    champion,
    encoder,
    evaluate,
    inputs,
    measure,
    parity,
    publish,
    ranker,
    release,
    sources,
)
from training.night.context import Night
from training.night.gate import Decision


@dataclass(frozen=True)
class NightResult:
    """What a night came to."""

    version: int | None
    """Registered version; None in a dry run."""
    decision: Decision | None
    report: Path | None
    metrics: Mapping[str, Mapping[str, Any]]
    """System → metric → value, low, high."""
    unchanged: bool
    """Whether no stage had anything to do."""
    lines: list[str]


def run_night(
    config: RecsysConfig,
    *,
    until: int | None = None,
    dry_run: bool = False,
    reporter: Reporter | None = None,
) -> NightResult:
    """One night on one workspace.

    Raises:
        RecsysError: what went wrong and what to do; finished stages are kept.
    """
    workspace = Workspace(config.workspace_path)
    reporter = reporter or Reporter()
    with workspace.lock() as note:
        if note:
            reporter.warn(note)
        runner = StageRunner(workspace, reporter, dry_run)
        night = Night(config, workspace, runner, reporter, until)
        return _run(night, Registry(config))


def _run(night: Night, registry: Registry) -> NightResult:
    require_local(night.config.encoder.model)
    drained = inputs.drain(night)
    tables = inputs.validate(night, drained)
    if night.runner.dry_run and not tables.skipped:
        return publish.planned(night, "what follows depends on the tables")
    inputs.require_sound_features(night, tables)
    parity.check(night, drained, registry)
    data = inputs.split(night, tables)

    encoded = encoder.refresh(night, data)
    if night.runner.dry_run and not encoded.vectors_stage.skipped:
        return publish.planned(night, "what follows depends on the encoder")
    recipe = sources.tune(night, data, encoded)
    if night.runner.dry_run and not recipe.dials:
        return publish.planned(night, "what follows depends on the recipe of sources")

    training_groups, training_rows = measure.measure(night, data, encoded, recipe, "ranker")
    test_groups, test_rows = measure.measure(night, data, encoded, recipe, "test")
    rankers = ranker.fit(night, data, training_rows, training_groups)
    if night.runner.dry_run and not (rankers.skipped and test_groups.skipped):
        return publish.planned(night, "what follows depends on the ranker")
    lists = evaluate.make_lists(night, data, encoded, recipe, test_groups, test_rows, rankers)

    released = release.refit(night, data, encoded, recipe)
    position = drained.facts["until"] if drained else -1
    state = release.snapshot(night, data, position)
    assert test_rows is not None
    bundle = release.bundle(night, data, encoded, recipe, test_rows, rankers, released, state)
    if night.runner.dry_run:
        return publish.planned(night, None)

    rival = champion.lists_of_champion(night, data, encoded, registry, test_rows, state)
    return publish.decide_and_register(
        night, data, encoded, recipe, training_rows, test_rows, rankers, lists, rival, bundle, state,
        registry,
    )  # fmt: skip
