"""Tuning and fitting the recall sources, as of each cut and for the release.

One recipe (which sources, with which params, fused how) is used for every fit of a night, so that
what is evaluated and what is released differ only in how far their data reaches.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil

from recsys.evaluation.lists import Truth
from recsys.features.interactions import DAY, Interactions
from recsys.features.protocols import RecallSource
from recsys.retrieval.fitted_source import Afforded, SourceFit, SourceInputs
from recsys.retrieval.source_kinds import (
    declare,
    is_warm,
    load_source,
    own_code,
    source_class,
)
from recsys.retrieval.source_params import resolved
from recsys.storage.engines.scratch_parts import UnfinishedWork
from recsys.storage.files import atomic_write, hash_file, hash_json
from recsys.storage.stages import Stage, StageResult
from recsys.training.cut_short import CUT_SHORT
from recsys.training.groups import history_reader
from recsys.training.night import warm_starts
from recsys.training.night.inputs import BASIS, SHOWN, Inputs
from recsys.training.night.night_context import Night
from recsys.training.night.products import TEXT, Fitted, Recipe
from recsys.training.source_files import VECTORS
from recsys.training.sources.fit_source import (
    SourceFailed,
    applicable_sources,
    failing_as,
    fit_sources,
)
from recsys.training.sources.tune import Label, Outcome, tune_sources
from recsys.training.windows import Windows, moments_at

CODE = (
    *BASIS,
    *SHOWN,
    "recsys.evaluation.metrics",
    "recsys.evaluation.popularity_at",
    "recsys.retrieval",
    "recsys.training.cut_short",
    "recsys.training.deterministic",
    "recsys.training.device_plan",
    "recsys.training.device_speed",
    "recsys.training.groups",
    "recsys.training.impression_groups",
    "recsys.training.night.warm_starts",
    "recsys.training.sources",
    "recsys.training.windows",
)
CHEAP = 0.05
"""Share of the sources' budget that a source may take for fits at every cut without asking. A busy
machine once left one fit a role to all of them: the fusion of the demonstration fell from .172 to .105
(measured)."""
TUNING_MOMENTS = 3000
"""Moments whose labels choose the params (one in fifteen is a hit among the first ten, so that their
nDCG@10 has a standard error of .004: enough to tell params a tenth apart)."""
RETUNE_DAYS = 7.0
"""Days of data after which remembered params are tried again (assumed: the encoder's cadence)."""


def say_failed(night: Night, failed: Mapping[str, str]) -> None:
    """On the terminal and on the report's first screen."""
    for name, why in failed.items():
        night.alarm(f"the source “{name}” could not be fitted, the night goes on without it: {why}")


def left_out(night: Night, problem: SourceFailed) -> Recipe:
    """The recipe less the source that failed.

    Raises:
        SourceFailed: nothing can be made without it.
    """
    if problem.name not in night.recipe.params or source_class(problem.name).always:
        raise problem
    say_failed(night, {problem.name: problem.why})
    return night.recipe.without(problem.name, problem.why)


def source_inputs(night: Night) -> SourceInputs:
    """What sources may use besides events: the catalogue, its texts and their vectors."""
    data = night.data
    return SourceInputs(data.tables.catalogue, data.texts, night.encoded.vectors())


def tune(night: Night) -> Recipe:
    """Choose sources and params on the ranker's windows, or keep those of an earlier night.

    The labels used lie before the first tested cut; the test window takes no part.
    """
    pointer = night.workspace.recipe
    identity = _identity(night, pointer)
    recipe = night.runner.run(
        Stage(
            "recipe",
            identity,
            lambda out: {"recipe": _choose(night, out).as_json()},
            lambda stage: Recipe.parse(stage.facts["recipe"]),
            code=CODE,
            personal=False,
            usable=lambda facts: not Recipe.parse(facts["recipe"]).failed,
        )
    ).product
    say_failed(night, recipe.failed)
    # What failed is tried again by the next night.
    if not night.runner.dry_run and not recipe.failed:
        atomic_write(pointer, json.dumps(identity))
    return recipe


def _identity(night: Night, pointer: Path) -> dict[str, Any]:
    """What decides the recipe; the identity at hand while it is younger than RETUNE_DAYS."""
    new = {
        "end": night.data.windows.end,
        "encoder": night.encoded.stage.key,
        "sources": night.section("sources"),
        **_own_codes(declare(night.config.sources.own)),
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


def _choose(night: Night, out: Path) -> Recipe:
    """Tune on labels of the later half of the ranker's windows, with sources fitted before it."""
    with night.elsewhere(out) as elsewhere:
        # A trial goes to an engine for its size alone: the start of processes is not what it should cost.
        if elsewhere is not None:
            elsewhere = elsewhere._replace(place=elsewhere.place._replace(parts=None))
        return _chosen(night, elsewhere)


def _chosen(night: Night, elsewhere: UnfinishedWork | None) -> Recipe:
    """See `_choose`."""
    config, windows = night.config.sources, night.data.windows
    # From the middle of the ranker's windows on: recent enough to resemble the test, with enough
    # moments before it begins. Without such a window there is no label to tune on.
    cuts = windows.ranker[len(windows.ranker) // 2 :]
    cut = (cuts or windows.cuts)[0]
    events, extra = night.data.interactions.before(cut), source_inputs(night)
    applicable = applicable_sources(
        events,
        extra,
        config.use,
        memory_bytes=psutil.virtual_memory().available / 2,
        budget_seconds=night.budget("sources") / (len(windows.cuts) + 1),
        own=declare(config.own),
    )
    budgeted = {
        s.name: source_class(s.name).budgeted(events, night.budget("sources"))
        for s in applicable
        if s.kept
    }
    affordable = {name: params for name, params in budgeted.items() if params is not None}
    larger = _afforded(night, events, extra, affordable)
    plan = tune_sources(
        events,
        _labels(night.data, cuts),
        extra,
        list(affordable),
        fixed={TEXT: cast(RecallSource, night.encoded.source())},
        params=affordable | dict(config.dials),
        larger={name: found.settings for name, found in larger.items()},
        depth=config.depth,
        limit=config.candidates,
        budget_seconds=night.budget("tuning") if config.tune else 0.0,
        seed=night.config.seed,
        workers=night.workers,
        elsewhere=elsewhere,
    )
    facts = {"applicable": [list(source) for source in applicable], **plan.facts()}
    seconds = {
        o["name"]: float(o["fit_seconds"]) for o in facts["sources"] if o["name"] in plan.params
    }
    fits, dropped = plan_fits(seconds, len(windows.cuts), night.budget("sources"))
    for outcome in facts["sources"]:
        if outcome["name"] in dropped:
            outcome |= {"kept": False, "reason": dropped[outcome["name"]]}
    params = {name: params for name, params in plan.params.items() if name in fits}
    failed = {o.name: o.failed for o in plan.outcomes if o.failed}
    facts |= {
        "fits": fits,
        "failed": failed,
        "device": {name: found.note for name, found in larger.items() if found.note},
        CUT_SHORT: _less_than_planned(
            plan.outcomes if config.tune else [], budgeted, dropped, fits, len(windows.cuts) + 1
        ),
    }
    return Recipe(params, plan.weights, facts)


def _afforded(
    night: Night,
    events: Interactions,
    extra: SourceInputs,
    affordable: Mapping[str, Mapping[str, float]],
) -> dict[str, Afforded]:
    """What the device affords each source, less what the config fixes."""
    found: dict[str, Afforded] = {}
    for name, params in affordable.items():
        kind, fixed = source_class(name), night.config.sources.dials.get(name, {})
        fit = SourceFit(
            events,
            extra,
            resolved(name, kind.Params, {**params, **fixed}),
            night.config.seed,
            night.workers,
        )
        with failing_as(name):
            more = kind.afforded(fit, night.budget("sources"))
        changes = [{p: v for p, v in change.items() if p not in fixed} for change in more.settings]
        found[name] = Afforded([change for change in changes if change], more.note)
        if more.note:
            night.reporter.say(f"source {name}: {more.note}")
    return found


def _less_than_planned(
    outcomes: Sequence[Outcome],
    budgeted: Mapping[str, object],
    dropped: Mapping[str, str],
    fits: Mapping[str, int],
    full: int,
) -> list[str]:
    """What the minutes did not reach for, a sentence each; `full` fits of a source are one as of each cut and
    the release's."""
    without = [name for name, params in budgeted.items() if params is None]
    said = [f"the source {name} was left out: the sources' minutes are too few" for name in without]
    said += [f"the source {name} was {why}" for name, why in dropped.items()]
    said += [f"fewer trials of the source {o.name}: {o.note}" for o in outcomes if o.note]
    fewer = [f"{name} {count}" for name, count in fits.items() if count < full]
    if fewer:
        said.append(
            f"fits in place of {full}, one as of each cut, for their time: {', '.join(fewer)}"
        )
    return said


def _labels(inputs: Inputs, cuts: Sequence[int]) -> list[Label]:
    """Moments at some cuts with what their users did until the next."""
    if not cuts:
        return []
    parts = [moments_at(inputs.interactions, c, inputs.windows.label_end(c)) for c in cuts]
    moments = Truth.join(parts)
    moments = moments.sample(TUNING_MOMENTS, inputs.chances(moments, "tuning"))
    read = history_reader(inputs.interactions.histories(), moments)
    return [
        Label(
            read(m),
            int(moments.time[m]),
            moments.items[moments.rows_of(m)],
        )
        for m in range(len(moments))
    ]


def fit_as_of(night: Night, view: Interactions, cut: int, *, masked: str = "") -> Fitted:
    """The recipe's sources as of a cut, fitted on events of `view` strictly before it.

    An expensive source is not fitted at every cut: the latest fit at or before the cut is used,
    which knows less than it might, never more.

    Args:
        night: tonight's run, with its data, encoder and recipe.
        view: events, less those of masked items.
        cut: end of what may be known, µs UTC.
        masked: identifies the items whose events were taken out of `view` (see
            `training.night.ranking_data`); empty where none were.

    Raises:
        SourceFailed: one of them could not be fitted.
    """
    times = fit_times(night.data.windows, night.recipe, cut)
    return Fitted({name: _fit_one(night, name, view, at, masked) for name, at in times.items()})


def fit_times(windows: Windows, recipe: Recipe, cut: int) -> dict[str, int]:
    """When each source's fit for a cut takes place: the cut itself, or an earlier one."""
    fits: Mapping[str, int] = recipe.facts.get("fits", {})
    role = windows.ranker if cut in windows.ranker else windows.test
    times = {}
    for name in recipe.params:
        if cut not in windows.cuts:
            times[name] = cut
            continue
        count = _fits_of_role(fits.get(name, len(windows.cuts) + 1), role, windows)
        fits_at = [role[place * len(role) // count] for place in range(count)]
        times[name] = max(at for at in fits_at if at <= cut)
    return times


def _fits_of_role(fits: int, role: tuple[int, ...], windows: Windows) -> int:
    """How many of a source's fits fall to a role's cuts; one of all is the release's."""
    share = (fits - 1) * len(role) / len(windows.cuts)
    return int(np.clip(round(share), 1, len(role)))


def plan_fits(
    seconds: Mapping[str, float], cuts: int, budget: float
) -> tuple[dict[str, int], dict[str, str]]:
    """How often each source is fitted in a night, and which are too expensive for even three.

    Three fits are the least: for the ranker's windows, for the test, for the release. A source whose
    fits at every cut cost next to nothing has them whatever the others take: popularity of months ago
    is no popularity. What the budget leaves goes to more frequent fits, the cheapest sources first.

    >>> plan_fits({"a": 1.0, "b": 30.0}, cuts=6, budget=100.0)
    ({'a': 6, 'b': 3}, {})
    >>> plan_fits({"a": 0.1, "b": 30.0}, cuts=6, budget=90.5)
    ({'a': 7, 'b': 3}, {})
    """
    dropped: dict[str, str] = {}
    kept = dict(sorted(seconds.items(), key=lambda entry: entry[1]))
    while len(kept) > 1 and 3 * sum(kept.values()) > budget:
        name, cost = kept.popitem()
        dropped[name] = f"dropped: three fits of {cost:.0f} s each do not fit into the budget"
    fits, left = {}, budget - 3 * sum(kept.values())
    for place, (name, cost) in enumerate(kept.items()):
        cheap = cost * (cuts + 1) <= CHEAP * budget
        extra = cuts if cheap else int(max(left, 0.0) / (len(kept) - place) / max(cost, 0.05))
        fits[name] = min(3 + extra, cuts + 1)
        left -= (fits[name] - 3) * cost
    return fits, dropped


def _fit_one(
    night: Night, name: str, view: Interactions, cut: int, masked: str
) -> StageResult[RecallSource]:
    """One source on the events of `view` strictly before a time."""
    end, params = night.data.windows.end, night.recipe.params[name]
    content = _content(night, name, cut, masked)
    identity = hash_json(content)
    start = warm_starts.start_of(night, name, params, masked, cut, end, identity)

    def make(out: Path) -> dict[str, Any]:
        earlier = warm_starts.opened(night, start)
        apart = night.elsewhere(out) if source_class(name).in_parts else nullcontext()
        with failing_as(name), apart as elsewhere:
            fitted = fit_sources(
                view.before(cut),
                source_inputs(night),
                {name: params},
                seed=night.config.seed,
                workers=night.workers,
                previous=None if earlier is None else {name: earlier},
                elsewhere=elsewhere,
            )
            (out / name).mkdir()
            fitted[name].save(out / name)
        # A source of a user's own need not be ours.
        short = list(getattr(fitted[name], "cut_short", ()))
        return {"cut": cut, "warm": earlier is not None, CUT_SHORT: short}

    stage = night.runner.run(
        Stage(
            f"source-{name}",
            content | {"start": None if start is None else start.key},
            make,
            lambda stage: load_source(stage.folder / name),
            code=CODE,
            personal=False,
        )
    )
    warm_starts.remember(night, name, params, masked, cut, end, start, stage.key, identity)
    return stage


def _content(night: Night, name: str, cut: int, masked: str) -> dict[str, Any]:
    """What decides a fit, its start apart."""
    return {
        "known": night.data.key_before(cut),
        "cut": cut,
        "masked": masked,
        "reads": _also_read(night, name),
        **_own_codes([name]),
        "dials": night.recipe.params[name],
        "seed": night.config.seed,
    }


def _own_codes(names: Sequence[str]) -> dict[str, Any]:
    """The code of a user's own sources, as a part of what decides; nothing where there is none."""
    codes = {name: code for name in names if (code := own_code(name)) is not None}
    return {"own code": codes} if codes else {}


def _also_read(night: Night, name: str) -> str | None:
    """What decides a source besides the events: nothing, the items' texts, their vectors, or those that
    they brought.

    By content: another user tower over the same vectors changes no source.
    """
    reads = source_class(name).reads
    parts = [night.data.texts_key] if reads & {"texts", "attributes"} else []
    if "own vectors" in reads and night.data.own_vectors_key is not None:
        parts.append(night.data.own_vectors_key)
    if "vectors" in reads:
        file = night.encoded.vectors_stage.product / VECTORS
        parts.append(_hash_of(file, file.stat().st_mtime_ns))
    return hash_json(parts) if len(parts) > 1 else "".join(parts) or None


@cache
def _hash_of(file: Path, changed_at: int) -> str:
    """SHA-256 of a file, once per version of it."""
    del changed_at
    return hash_file(file)


def warm_start_facts(night: Night) -> dict[str, object]:
    """On a night of fits from scratch: what starting warm would have cost or gained, by source.

    Measured at the last tested cut, on its moments.
    """
    found: dict[str, object] = {}
    data, recipe, moments = night.data, night.recipe, night.tested.product.moments
    cut = data.windows.test[-1]
    at_cut = moments.take(np.flatnonzero(moments.time == cut))
    for name in (n for n in recipe.params if is_warm(n)):
        at = fit_times(data.windows, recipe, cut)[name]
        stage = _fit_one(night, name, data.interactions, at, "")
        content = _content(night, name, at, "")
        if warm_starts.kept(night, hash_json(content), data.windows.end):
            found[f"{name}, tonight"] = "as an earlier night fitted it: the same events"
            continue
        if stage.facts.get("warm"):
            found[f"{name}, tonight"] = "warm, from an earlier night's weights"
            continue
        note = warm_starts.compared(
            night,
            name,
            recipe.params[name],
            stage.open(),
            stage.seconds,
            data.interactions.before(at),
            source_inputs(night),
            at_cut,
            at,
            data.windows.end,
        )
        found[f"{name}, tonight"] = "from scratch" + (f"; {note}" if note else "")
    return found
