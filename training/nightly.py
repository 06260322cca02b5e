"""The night, stage by stage, in order. Each stage is real work in `training/night/`; nothing is
done here but to say what follows what.

    drain → validate → leaks in the tables → parity of served rows → live lists → split
    → encoder (when due) → encode what changed → recipe (when due) → sources as released and as of each cut
    → groups and features → ranker → lists → release → evaluate → gate → register

A source that cannot be fitted is left out, and what rests on the recipe is done without it.

Every stage's output is kept under the hash of its inputs, so a night that was interrupted goes on
where it stopped and one that is repeated does nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from recsys.data_schemas.config import RecsysConfig
from recsys.encoder.pretrained import require_local
from recsys.storage.progress import Reporter
from recsys.storage.registry import Registry
from recsys.storage.stages import StageResult, StageRunner
from recsys.storage.workspace import Workspace
from recsys.training.night import (
    champion,
    data_leaks,
    fit_ranker,
    fit_sources,
    live_lists,
    masked_items,
    own_parts,
    publish,
    ranking_data,
    read_data,
    refresh_encoder,
    release,
    served_parity,
    test_lists,
)
from recsys.training.night.fit_sources import Recipe
from recsys.training.night.inputs import Inputs
from recsys.training.night.night_context import Night
from recsys.training.night.night_result import NightResult
from recsys.training.night.ranking_data import RankingData
from recsys.training.night.refresh_encoder import Encoded
from recsys.training.night.usage import used
from recsys.training.sources.fit_source import SourceFailed


@dataclass(frozen=True)
class Learned:
    """Everything that a night learns, before it is released or judged."""

    drained: StageResult | None
    data: Inputs
    encoded: Encoded
    recipe: Recipe
    released: fit_sources.Fitted
    """The recipe's sources fitted on everything known."""
    training_rows: RankingData | None
    test_groups: StageResult
    test_rows: RankingData | None
    rankers: StageResult


@dataclass(frozen=True)
class MadeRelease:
    """A release that nobody has judged: where its bundle and its state lie."""

    bundle: Path
    state: Path


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
    with _begun(config, until, dry_run, reporter) as night:
        return replace(_run(night, Registry(config)), usage=None if dry_run else used(night))


def make_release(config: RecsysConfig, *, reporter: Reporter | None = None) -> MadeRelease:
    """A night up to its bundle and state, without lists of baselines, gate and registration.

    What it makes is what `run_night` would: a night over the same tables finds every stage done.

    Raises:
        RecsysError: what went wrong and what to do; finished stages are kept.
    """
    with _begun(config, None, False, reporter) as night:
        learned = _learn(night, Registry(config))
        assert isinstance(learned, Learned)  # only a dry run ends early
        bundle, state, _ = _release(night, learned)
        return MadeRelease(bundle.path / "bundle", state.path / "state")


@contextmanager
def _begun(
    config: RecsysConfig, until: int | None, dry_run: bool, reporter: Reporter | None
) -> Iterator[Night]:
    """A run that holds its workspace."""
    workspace = Workspace(config.workspace_path)
    reporter = reporter or Reporter()
    for told in config.notes:
        reporter.warn(told)
    with workspace.lock() as note:
        if note:
            reporter.warn(note)
        own_parts.require_sound(config)
        listener = own_parts.stage_listener(config, reporter)
        runner = StageRunner(workspace, reporter, dry_run, on_end=listener)
        yield Night(config, workspace, runner, reporter, until)


def _run(night: Night, registry: Registry) -> NightResult:
    learned = _learn(night, registry)
    if isinstance(learned, NightResult):
        return learned
    data, encoded, recipe = learned.data, learned.encoded, learned.recipe
    test_rows, rankers = learned.test_rows, learned.rankers
    lists = test_lists.make_lists(
        night, data, encoded, recipe, learned.test_groups, test_rows, rankers
    )
    masked = masked_items.make_masked_lists(night, data, encoded, recipe, rankers)

    bundle, state, served = _release(night, learned)
    if night.runner.dry_run:
        return publish.dry_run_result(night, None)

    assert test_rows is not None
    champion_result = champion.lists_of_champion(night, data, encoded, registry, test_rows, state)
    return publish.decide_and_register(
        night, data, encoded, recipe, learned.training_rows, test_rows, rankers, served, lists, masked,
        champion_result, bundle, state, registry,
    )  # fmt: skip


def _learn(night: Night, registry: Registry) -> Learned | NightResult:
    """Everything up to the ranker; of a dry run its result, where what follows cannot be foreseen."""
    require_local(night.config.encoder.model)
    drained = read_data.drain(night)
    tables = read_data.validate(night, drained)
    if night.runner.dry_run and not tables.skipped:
        return publish.dry_run_result(night, "what follows depends on the tables")
    tables = data_leaks.leave_out_leaks(night, tables)
    if night.runner.dry_run and not tables.skipped:
        return publish.dry_run_result(night, "what follows depends on the tables without leaks")
    read_data.require_sound_features(night, tables)
    served_parity.check(night, drained, registry)
    live_lists.check(night, drained, tables, registry)
    data = read_data.split(night, tables)

    encoded = refresh_encoder.refresh(night, data)
    if night.runner.dry_run and not encoded.vectors_stage.skipped:
        return publish.dry_run_result(night, "what follows depends on the encoder")
    recipe = fit_sources.tune(night, data, encoded)
    if night.runner.dry_run and not recipe.params:
        return publish.dry_run_result(night, "what follows depends on the recipe of sources")

    while True:
        try:
            return _by_recipe(night, drained, data, encoded, recipe)
        except SourceFailed as problem:
            recipe = fit_sources.left_out(night, recipe, problem)


def _by_recipe(
    night: Night,
    drained: StageResult | None,
    data: Inputs,
    encoded: Encoded,
    recipe: Recipe,
) -> Learned | NightResult:
    """What rests on the recipe, the release's sources first: what fails on all the data fails early."""
    released = release.refit(night, data, encoded, recipe)
    training_groups, training_rows = ranking_data.build_ranking_data(
        night, data, encoded, recipe, "ranker"
    )
    test_groups, test_rows = ranking_data.build_ranking_data(night, data, encoded, recipe, "test")
    rankers = fit_ranker.fit(night, data, training_rows, training_groups)
    if night.runner.dry_run and not (rankers.skipped and test_groups.skipped):
        return publish.dry_run_result(night, "what follows depends on the ranker")
    return Learned(
        drained, data, encoded, recipe, released, training_rows, test_groups, test_rows, rankers
    )


def _release(night: Night, learned: Learned) -> tuple[StageResult, StageResult, StageResult]:
    """Bundle, state and the ranker in it, of what was learned, fitted on everything known."""
    data, test_rows = learned.data, learned.test_rows
    assert test_rows is not None
    state = release.snapshot(night, data, read_data.mark_of(learned.drained))
    served = fit_ranker.for_release(
        night, data, learned.rankers, learned.training_rows, test_rows, learned.test_groups
    )
    bundle = release.bundle(
        night, data, learned.encoded, learned.recipe, test_rows, served, learned.released, state
    )
    return bundle, state, served
