"""The night, step by step, in order. Each step is real work in `training/night/`; nothing is done here
but to say what follows what.

A step takes the night, reads what the steps before it have made, and what it makes is put into the
night. A source that cannot be fitted is left out, and what rests on the recipe is done without it.

Every stage's output is kept under the hash of what it was made from, so a night that was interrupted
goes on where it stopped and one that is repeated does nothing. A dry run follows the same steps until
one opens what is not there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from recsys.data_schemas.config import RecsysConfig
from recsys.encoder.device import on_device
from recsys.encoder.pretrained import require_local
from recsys.features.on_disk import arrays_in
from recsys.storage.engines.scratch_parts import PartsPlace, place_of
from recsys.storage.progress import Reporter
from recsys.storage.stages import StageRunner, WouldRun
from recsys.storage.workspace import Workspace
from recsys.training.night import (
    champion,
    data_leaks,
    fit_ranker,
    fit_sources,
    health,
    judge,
    leakage,
    live_lists,
    masked_items,
    own_parts,
    publish,
    ranking_data,
    read_data,
    refresh_encoder,
    release,
    release_check,
    released_ranker,
    served_parity,
    test_lists,
)
from recsys.training.night.less_done import less_done
from recsys.training.night.night_context import Night
from recsys.training.night.night_result import NightResult
from recsys.training.night.usage import used
from recsys.training.sources.fit_source import SourceFailed


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
        if dry_run:
            return _foreseen(night)
        return replace(_run(night), usage=used(night), cut_short=less_done(night))


def make_release(config: RecsysConfig, *, reporter: Reporter | None = None) -> MadeRelease:
    """A night up to its bundle and state, without lists of baselines, gate and registration.

    What it makes is what `run_night` would: a night over the same tables finds every stage done.

    Raises:
        RecsysError: what went wrong and what to do; finished stages are kept.
    """
    with _begun(config, None, False, reporter) as night:
        _learn(night)
        _release(night)
        return MadeRelease(night.bundle.product, night.state.product)


@contextmanager
def _begun(
    config: RecsysConfig, until: int | None, dry_run: bool, reporter: Reporter | None
) -> Iterator[Night]:
    """A run that holds its workspace."""
    workspace = Workspace(config.workspace_path)
    reporter = reporter or Reporter()
    for told in config.notes:
        reporter.warn(told)
    with on_device(config.device), workspace.lock() as note:
        if note:
            reporter.warn(note)
        own_parts.require_sound(config)
        # An engine that cannot be had is said before any work.
        place = None if dry_run else _place(config)
        listener = own_parts.stage_listener(config, reporter)
        runner = StageRunner(workspace, reporter, dry_run, on_end=listener)
        with arrays_in(workspace.path):
            yield Night(config, workspace, runner, reporter, until, place)


def _place(config: RecsysConfig) -> PartsPlace | None:
    """Where sources are asked about many moments: the engine that the config names, or as many parts. None
    for threads of this process, which start at once and share what is open; what sources do is compiled."""
    place = place_of(config)
    return None if config.engine.kind == "local" and place.parts is None else place


def _foreseen(night: Night) -> NightResult:
    """What a night would do, up to the first output that is not there."""
    try:
        _make(night)
    except WouldRun as end:
        return NightResult.foreseen(night.runner.results, str(end))
    return NightResult.foreseen(night.runner.results)


def _run(night: Night) -> NightResult:
    _make(night)
    night.champion = champion.lists_of_champion(night)
    if (known := publish.registered_already(night)) is not None:
        release.publish_state(night)
        read_data.drop(night)
        return known
    _judge(night)
    _publish(night)
    numbers = night.evaluation.numbers()
    return NightResult(night.version, night.decision, night.page, numbers, False, [])


def _make(night: Night) -> None:
    """Everything that is kept as a stage."""
    _learn(night)
    night.lists = test_lists.make_lists(night)
    night.masked = masked_items.make_masked_lists(night)
    _release(night)


def _learn(night: Night) -> None:
    """Everything up to the ranker."""
    require_local(night.config.encoder.model)
    if night.config.encoder.teacher is not None:
        require_local(night.config.encoder.teacher)
    night.drained = read_data.drain(night)
    night.tables = read_data.validate(night)
    night.tables = data_leaks.leave_out_leaks(night)
    read_data.require_sound_features(night)
    night.served_parity = served_parity.check(night)
    night.live = live_lists.check(night)
    tables = read_data.load(night.tables.product, night.config)
    night.data = read_data.split(night, tables)
    night.encoded = refresh_encoder.refresh(night)
    night.recipe = fit_sources.tune(night)
    while True:
        try:
            return _by_recipe(night)
        except SourceFailed as problem:
            night.recipe = fit_sources.left_out(night, problem)


def _by_recipe(night: Night) -> None:
    """What rests on the recipe, the release's sources first: what fails on all the data fails early."""
    night.released = release.refit(night)
    night.learned = ranking_data.build_ranking_data(night, "ranker")
    night.tested = ranking_data.build_ranking_data(night, "test")
    night.rankers = fit_ranker.fit(night)


def _release(night: Night) -> None:
    """The online state, the ranker that is released, and the bundle."""
    night.state = release.snapshot(night)
    night.served = released_ranker.for_release(night)
    night.bundle = release.bundle(night)


def _judge(night: Night) -> None:
    """What the candidate is worth, whether anything speaks against it, and the decision."""
    night.asked = test_lists.asked_moments(night)
    night.evaluation = test_lists.evaluate(night)
    night.leak_checks = leakage.checks_of(night)
    night.trial = release_check.try_release(night)
    night.drifted = health.examine(night)
    night.decision = judge.judge(night)


def _publish(night: Night) -> None:
    """Page, version, state, champion; what nobody needs any more goes."""
    night.page = publish.report(night)
    night.version = publish.register(night)
    release.publish_state(night)
    publish.promote(night)
    read_data.drop(night)
    publish.collect(night)
