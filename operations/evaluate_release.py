"""`recsys evaluate`: the report of a registered model, on its own test window or on later events."""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys.data_schemas.config import RecsysConfig, load_config
from recsys.data_schemas.errors import (
    DataRefused,
    ExitCode,
    RecsysError,
    UsageError,
)
from recsys.data_schemas.tables import RULES
from recsys.operations.open_release import find_release, resolve, sentences_of
from recsys.operations.own_inputs import refuse_own_inputs

if TYPE_CHECKING:
    from recsys.evaluation.evaluation import Evaluation
    from recsys.evaluation.lists import RankedLists
    from recsys.evaluation.off_policy import OffPolicy
    from recsys.evaluation.report_context import (
        Check,
        Example,
        PositionBias,
    )
    from recsys.operations.batch_lists import ReleaseFiles
    from recsys.operations.evaluation_events import EvaluationEvents, ShownEvents
    from recsys.operations.release_queries import Queries
    from recsys.recommender import LoadedRelease
    from recsys.rules import ListCaps
    from recsys.storage.engines.scratch_parts import PartsPlace
    from recsys.training.compared_lists import Compared

MAIN = "recsys"
REPORT_FILES = ("report.*", "lists.parquet")
"""What a report's folder holds."""
FROZEN_STAGE = "frozen-encoder"


def run_evaluate(args: argparse.Namespace) -> int:
    """Write report.html, report.json and report.parquet into --out."""
    config = load_config(args.config)
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise UsageError("the output is not a folder", where="--out", found=str(out))
    inputs = {"--events": args.events, "--impressions": args.impressions}
    refuse_own_inputs(out, "--out", config, args.config, inputs, writes=REPORT_FILES)
    protocol = _protocol(args)
    if args.events is None:
        return _own_report(config, args.model, out)
    return _on_events(config, args.model, args.events, args.impressions, protocol, out)


def _protocol(args: argparse.Namespace) -> str:
    """The protocol asked for; impressions where they are given.

    Raises:
        UsageError: the protocol and the files do not fit together.
    """
    from recsys.operations.release_queries import IMPRESSIONS, WINDOW

    given = args.protocol or (IMPRESSIONS if args.impressions else WINDOW)
    if args.events is None and (args.protocol or args.impressions):
        raise UsageError(
            "there are no events to evaluate on",
            where="--events",
            found="none",
            expected="--events FILE beside --protocol and --impressions",
        )
    if (given == IMPRESSIONS) != bool(args.impressions):
        raise UsageError(
            "the protocol does not fit the files",
            where="--protocol",
            found=f"{given}, {'with' if args.impressions else 'without'} --impressions",
            expected=f"--impressions FILE with --protocol {IMPRESSIONS}, and with no other",
        )
    return str(given)


def _own_report(config: RecsysConfig, model: str | None, out: Path) -> int:
    """The report made when the version was registered: its recipe, fitted before its test window.

    The released models have since been fitted on that window, so measuring them on it again would
    flatter; the report of the recipe is the honest one.
    """
    from recsys.storage.registry import Registry

    registry = Registry(config)
    entry = registry.show(resolve(registry, model))
    folder = Path(entry.report) if entry.report else None
    if folder is None or not (folder / "report.html").exists():
        raise RecsysError(
            "the report of this version is no longer kept",
            where=f"version {entry.version}",
            fix="give events that happened after it: --events FILE",
        )
    out.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if file.is_file():
            shutil.copyfile(file, out / file.name)
    print(f"version {entry.version}: report of its own test window: {out / 'report.html'}")
    return ExitCode.DONE


def _on_events(
    config: RecsysConfig, model: str | None, place: str, lists: str | None, protocol: str, out: Path
) -> int:
    """Lists of a release, evaluated on what users did next by later events.

    The page is written whatever was found. A leak is exit code 4; a baseline that could not be
    fitted, or a model that answered nobody, is 1; data that cannot be used is 3.
    """
    from recsys.evaluation.page import alarms, verdict, write_report
    from recsys.operations.evaluation_events import read_events, read_shown
    from recsys.storage.engines.scratch_parts import place_of

    engine = place_of(config)
    files = find_release(config, model)
    loaded = files.open_whole()
    loaded.explainer.sentences = sentences_of(config)
    try:
        held = read_events(place, loaded)
        shown = read_shown(lists, loaded) if lists else None
        evaluated = evaluate_events(config, engine, files, loaded, held, shown, protocol)
    except DataRefused as error:
        _write_nothing(loaded, config, place, str(error), out)
        raise
    context = _context(config, loaded, place, held, evaluated)
    page = write_report(evaluated.evaluation, context, out)
    print(verdict(evaluated.evaluation))
    for alarm in alarms(evaluated.evaluation, context):
        print(f"alarm: {alarm}")
    for warning in context.warnings:
        print(f"warning: {warning}")
    print(f"report: {page}")
    return evaluated.exit_code


@dataclass(frozen=True)
class EvaluatedRelease:
    """A release evaluated on later events, with the baselines."""

    queries: "Queries"
    evaluation: "Evaluation"
    baselines: "Compared"
    lists: "RankedLists"
    checks: "list[Check]"
    off_policy: "OffPolicy | None" = None
    position_bias: "PositionBias | None" = None
    notes: Sequence[str] = ()

    @property
    def silent(self) -> bool:
        """Whether the model answered nobody."""
        return not (self.lists.items >= 0).any()

    @property
    def exit_code(self) -> ExitCode:
        if not all(check.passed for check in self.checks):
            return ExitCode.PROMOTION_REFUSED
        nothing = (
            self.silent or not self.evaluation.systems[MAIN][self.evaluation.main_metric].users
        )
        return ExitCode.FAILED if self.baselines.failed or nothing else ExitCode.DONE


def evaluate_events(
    config: RecsysConfig,
    place: "PartsPlace",
    files: "ReleaseFiles",
    loaded: "LoadedRelease",
    held: "EvaluationEvents",
    shown: "ShownEvents | None",
    protocol: str,
) -> EvaluatedRelease:
    """Ask the release and the baselines, and measure them.

    Args:
        config: of the workspace.
        place: where lists are made.
        files: what further processes open for themselves.
        loaded: the release, opened here.
        held: events that came after its data.
        shown: lists that were shown, for the protocol `impressions`; None without.
        protocol: `window`, `leave-last-out` or `impressions`.
    """
    from recsys.evaluation.asked_moments import evaluate_moments
    from recsys.operations import release_queries
    from recsys.operations.evaluated_parts import evaluated_in_parts

    limit, seed = config.evaluation.max_users, config.seed
    checks = leak_checks(loaded, held, shown)
    queries = release_queries.queries_of(protocol, loaded, held, shown, limit, seed)
    frozen = release_queries.frozen_folder(
        config.workspace_path / "stages" / FROZEN_STAGE, loaded.state.catalogue.n_items
    )
    caps = _caps(config, loaded)
    own, baselines = evaluated_in_parts(place, files, loaded, queries, frozen, caps, MAIN)
    asked = release_queries.asked_moments(loaded, queries, config.evaluation.segments)
    evaluation = evaluate_moments(
        asked, [own, *baselines.lists], main=MAIN, config=config.evaluation, seed=seed
    )
    if queries.shown is None:
        return EvaluatedRelease(queries, evaluation, baselines, own, checks)
    choices, bias, notes = of_shown(loaded, queries, held, own, config)
    if shown is not None and shown.ruled:
        said = f"{shown.ruled:,} shown lists are left out: a rule of the shop moved items of them."
        notes = [*notes, said]
    return EvaluatedRelease(queries, evaluation, baselines, own, checks, choices, bias, notes)


def leak_checks(
    loaded: "LoadedRelease", held: "EvaluationEvents", shown: "ShownEvents | None"
) -> "list[Check]":
    """Whether the model can have known what it is evaluated on."""
    from recsys.evaluation.report_context import Check, day_and_time
    from recsys.operations.release_queries import data_end, seen_events

    end = data_end(loaded)
    early, known = int((held.events.time < end).sum()), seen_events(loaded, held)
    checks = [
        Check(
            "the events lie after the model's data",
            early == 0,
            f"{early:,} of {len(held.events):,} events lie before {day_and_time(end)}, the end of what "
            f"version {loaded.version} was fitted on",
        ),
        Check(
            "the model has not learnt from the events",
            known == 0,
            f"{known:,} of {len(held.events):,} events are among those it was fitted on",
        ),
    ]
    if shown is not None:
        before = int((shown.lists.time < end).sum())
        text = f"{before:,} of {len(shown.lists):,} lists were shown before {day_and_time(end)}"
        checks.append(Check("the lists were shown after the model's data", before == 0, text))
    return checks


def of_shown(
    loaded: "LoadedRelease",
    queries: "Queries",
    held: "EvaluationEvents",
    own: "RankedLists",
    config: RecsysConfig,
) -> "tuple[OffPolicy | None, PositionBias | None, list[str]]":
    """What shown lists tell beyond the metrics: off-policy estimates and position bias, or why not.

    Args:
        loaded: the release.
        queries: shown lists as queries.
        held: events that came after its data.
        own: the release's order of each shown list.
        config: seed and resamples.
    """
    from recsys.evaluation.off_policy import off_policy
    from recsys.evaluation.shown_lists import (
        acted_on,
        bias_of_lists,
        choices_of_lists,
    )

    shown = queries.shown
    assert shown is not None
    place = {str(u): code for code, u in enumerate(held.events.user_ids)}
    unknown = len(place)
    user = np.array([place.get(u, unknown + n) for n, u in enumerate(queries.users)], np.int64)
    lists = replace(shown, user=user)
    notes: list[str] = []
    bias = None
    try:
        bias = bias_of_lists(lists, held.events, seed=config.seed)
    except DataRefused as error:
        notes.append(f"Position bias: {error}")
    log = choices_of_lists(lists, acted_on(lists, held.events), _scores(own, lists), config.seed)
    if not len(log.user):
        notes.append(
            "Off-policy estimates need the chances with which lists were chosen; none were logged "
            "that say how likely another first item was."
        )
        return None, bias, notes
    found = off_policy(
        log,
        reward="the first shown item was acted on",
        resamples=config.evaluation.bootstrap,
        seed=config.seed,
    )
    return found, bias, notes


def _scores(own: "RankedLists", lists: Any) -> Any:
    """float64[n]: the model's order of each shown item, the higher the better."""
    out = np.full(len(lists.items), -np.inf)
    for g in range(len(lists)):
        rows = lists.rows_of(g)
        rank = {int(i): r for r, i in enumerate(own.items[g]) if i >= 0}
        out[rows] = [-float(rank.get(int(i), len(rank))) for i in lists.items[rows]]
    return out


def _context(
    config: RecsysConfig,
    loaded: "LoadedRelease",
    place: str,
    held: "EvaluationEvents",
    evaluated: EvaluatedRelease,
) -> Any:
    from recsys.evaluation.report_context import CAPS, ReportContext, day_and_time
    from recsys.operations.release_queries import data_end

    times, baselines = held.events.time, evaluated.baselines
    alarms = [
        f"The baseline “{name}” could not be made: {why}" for name, why in baselines.failed.items()
    ]
    if evaluated.silent:
        alarms.append("The model has no candidate for anybody: every list is empty.")
    unknown, limit = held.unknown / len(held.events), config.data.quarantine_limit
    if unknown > limit:
        alarms.append(
            f"{unknown:.0%} of the events are on items that the model has never heard of (data.quarantine_limit "
            f"is {limit:.0%}), such as {_stranger(held, loaded)!r} where it knows "
            f"{loaded.state.catalogue.id_of(0)!r}: are these its ids?"
        )
    return ReportContext(
        title=f"{config.name} version {loaded.version} on {Path(place).name}",
        created_at=_now(),
        model_version=loaded.version,
        data={
            "events": f"{place}: {len(held.events):,}",
            "users": f"{held.events.n_users:,}",
            "time": f"{day_and_time(int(times.min()))} to {day_and_time(int(times.max()))}",
            **_left_out(held.rejected),
        },
        split={
            "protocol": evaluated.queries.protocol,
            "the model knows events before": day_and_time(data_end(loaded)),
            "lists are asked for at": _moments(evaluated.queries),
        },
        release={
            "what is measured": f"the release itself, version {loaded.version}",
            CAPS: _caps(config, loaded).in_words(),
        },
        leak_checks=evaluated.checks,
        alarms=alarms,
        warnings=[
            *_unknown(held),
            *_unknown_types(held, loaded),
            *evaluated.queries.notes,
            *evaluated.notes,
        ],
        failed_systems={**baselines.absent, **baselines.failed},
        examples=_examples(loaded, evaluated, config.evaluation.examples, config.seed),
        position_bias=evaluated.position_bias,
        off_policy=evaluated.off_policy,
        caveats=(
            "Sources and baselines see what was known before the first query; one that has "
            "nothing to say, for a new user say, is filled up with popular items.",
        ),
    )


def _caps(config: RecsysConfig, loaded: "LoadedRelease") -> "ListCaps":
    """The caps that a service of this config puts on every list of this release."""
    from recsys.rules import ListCaps

    candidates = int(loaded.bundle.facts["candidates"])
    return ListCaps(loaded.state.catalogue, config.serving.caps, candidates)


def _left_out(rejected: Mapping[str, int]) -> dict[str, object]:
    return {f"rows left out: {RULES[rule].says}": n for rule, n in rejected.items()}


def _unknown(held: "EvaluationEvents") -> list[str]:
    if not held.unknown:
        return []
    return [
        f"{held.unknown:,} of {len(held.events):,} events are on items that the model has never heard "
        "of; they count as misses, under cold_items."
    ]


def _stranger(held: "EvaluationEvents", loaded: "LoadedRelease") -> str:
    """The first item that the model does not know."""
    known = loaded.state.catalogue.n_items
    return str(held.item_ids[int((held.events.item >= known).argmax())])


def _unknown_types(held: "EvaluationEvents", loaded: "LoadedRelease") -> list[str]:
    """Types that the model's config says nothing of, each with what becomes of it."""
    meaning, found = loaded.state.meaning, []
    for code, name in enumerate(held.events.kinds):
        if name not in meaning.types and name not in meaning.ratings:
            count = int((held.events.kind == code).sum())
            found.append(
                f"{count:,} of {len(held.events):,} events are of type {name!r}, which the model's config does "
                "not name: each counts as positive, with grade 1. Is it misspelt? `events.types` names types."
            )
    return found


def _moments(queries: "Queries") -> str:
    from recsys.evaluation.report_context import day_and_time

    first, last = int(queries.now.min()), int(queries.now.max())
    if first == last:
        return day_and_time(first)
    return f"each query's own time, {day_and_time(first)} to {day_and_time(last)}"


def _now() -> int:
    import time

    return time.time_ns() // 1000


def _examples(
    loaded: "LoadedRelease", evaluated: EvaluatedRelease, count: int, seed: int
) -> "list[Example]":
    """Real answers with their reasons, users drawn at random among those with a truth."""
    from recsys.evaluation.report_context import EXAMPLE_LENGTH, Example
    from recsys.features.draws import chance, hash_ids

    queries, catalogue = evaluated.queries, loaded.state.catalogue

    def title_of(item: int) -> str:
        known = item < catalogue.n_items
        return catalogue.title(item) if known else "an item the model does not know"

    truth = queries.truth
    useful = np.flatnonzero(truth.lengths > 0)
    out: list[Example] = []
    lots = chance(hash_ids([queries.users[group] for group in useful]), "examples", seed)
    for group in useful[np.argsort(lots, kind="stable")][:count].tolist():
        user, now = queries.users[group], int(queries.now[group])
        listed = [int(i) for i in evaluated.lists.items[group][:EXAMPLE_LENGTH] if i >= 0]
        out.append(
            Example.of(
                len(out) + 1,
                title_of,
                past=loaded.state.history(user, now).item.tolist(),
                listed=listed,
                scores=evaluated.lists.scores[group],
                reasons=_sentences(loaded, user, now, listed),
                relevant=truth.items[truth.rows_of(group)].tolist(),
            )
        )
    return out


def _sentences(
    loaded: "LoadedRelease", user: str, now: int, listed: list[int]
) -> dict[int, list[str]]:
    """Why the release lists these items, as the service says it."""
    from recsys.query import RankingQuery

    ids = [loaded.state.catalogue.id_of(item) for item in listed]
    answer = loaded.answer(RankingQuery(user, now, items=ids, explain=len(ids)))
    said = {
        name: reason["sentence"]["en"]
        for name, reason in zip(answer.item_ids, answer.reasons or [], strict=False)
    }
    return {item: [said[name]] for item, name in zip(listed, ids, strict=True) if said.get(name)}


def _write_nothing(
    loaded: "LoadedRelease", config: RecsysConfig, place: str, why: str, out: Path
) -> None:
    """The page of an evaluation in which nothing could be measured; it says why."""
    from recsys.evaluation.asked_moments import AskedMoments, evaluate_moments
    from recsys.evaluation.lists import RankedLists, Truth
    from recsys.evaluation.page import write_report
    from recsys.evaluation.report_context import ReportContext

    none = np.empty(0, np.int32)
    nothing = Truth.of(none, none, none, none, none.astype(np.int64))
    evaluation = evaluate_moments(
        AskedMoments.plain(nothing, loaded.state.catalogue.n_items),
        [RankedLists.of(MAIN, [], 1)],
        main=MAIN,
        config=config.evaluation,
        seed=config.seed,
    )
    context = ReportContext(
        title=f"{config.name} version {loaded.version} on {Path(place).name}",
        created_at=_now(),
        model_version=loaded.version,
        data={"events": place},
        alarms=[f"Nothing could be measured: {why}"],
    )
    write_report(evaluation, context, out)
