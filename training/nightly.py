"""The night, stage by stage, in order. Each stage is real work in `training/night/`; nothing is
done here but to say what follows what.

    drain → validate → leaks in the tables → parity of served rows → split → encoder (when due)
    → encode what changed → recipe (when due) → sources as released and as of each cut
    → groups and features → ranker → lists → release → evaluate → gate → register

A source that cannot be fitted is left out, and what rests on the recipe is done without it.

Every stage's output is kept under the hash of its inputs, so a night that was interrupted goes on
where it stopped and one that is repeated does nothing.
"""

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
    masked_items,
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
from recsys.training.night.refresh_encoder import Encoded
from recsys.training.sources.fit_source import SourceFailed


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
    for told in config.notes:
        reporter.warn(told)
    with workspace.lock() as note:
        if note:
            reporter.warn(note)
        runner = StageRunner(workspace, reporter, dry_run)
        night = Night(config, workspace, runner, reporter, until)
        return _run(night, Registry(config))


def _run(night: Night, registry: Registry) -> NightResult:
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
    data = read_data.split(night, tables)

    encoded = refresh_encoder.refresh(night, data)
    if night.runner.dry_run and not encoded.vectors_stage.skipped:
        return publish.dry_run_result(night, "what follows depends on the encoder")
    recipe = fit_sources.tune(night, data, encoded)
    if night.runner.dry_run and not recipe.params:
        return publish.dry_run_result(night, "what follows depends on the recipe of sources")

    while True:
        try:
            return _by_recipe(night, registry, drained, data, encoded, recipe)
        except SourceFailed as problem:
            recipe = fit_sources.left_out(night, recipe, problem)


def _by_recipe(
    night: Night,
    registry: Registry,
    drained: StageResult | None,
    data: Inputs,
    encoded: Encoded,
    recipe: Recipe,
) -> NightResult:
    """What rests on the recipe, the release's sources first: what fails on all the data fails early."""
    released = release.refit(night, data, encoded, recipe)
    training_groups, training_rows = ranking_data.build_ranking_data(
        night, data, encoded, recipe, "ranker"
    )
    test_groups, test_rows = ranking_data.build_ranking_data(night, data, encoded, recipe, "test")
    rankers = fit_ranker.fit(night, data, training_rows, training_groups)
    if night.runner.dry_run and not (rankers.skipped and test_groups.skipped):
        return publish.dry_run_result(night, "what follows depends on the ranker")
    lists = test_lists.make_lists(night, data, encoded, recipe, test_groups, test_rows, rankers)
    masked = masked_items.make_masked_lists(night, data, encoded, recipe, rankers)

    state = release.snapshot(night, data, read_data.mark_of(drained))
    assert test_rows is not None
    served = fit_ranker.for_release(night, data, rankers, training_rows, test_rows, test_groups)
    bundle = release.bundle(night, data, encoded, recipe, test_rows, served, released, state)
    if night.runner.dry_run:
        return publish.dry_run_result(night, None)

    champion_result = champion.lists_of_champion(night, data, encoded, registry, test_rows, state)
    return publish.decide_and_register(
        night, data, encoded, recipe, training_rows, test_rows, rankers, served, lists, masked, champion_result,
        bundle, state, registry,
    )  # fmt: skip
