"""Where tonight's fits start from: the same source as an earlier night fitted it.

A fit at a cut may only start from one whose events lay before that cut too, with the same params and
the same items masked; the choice is written down when it is made, so an interrupted
or repeated night makes the same. From time to time (`sources.full_refit`) all start from scratch,
and that night measures what starting warm would have cost or gained.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from recsys.evaluation.lists import Truth
from recsys.features.draws import at_moments, chance, hash_ids
from recsys.features.interactions import Interactions
from recsys.features.protocols import RecallSource
from recsys.retrieval.fitted_source import SourceInputs
from recsys.retrieval.source_kinds import is_warm, load_source
from recsys.storage.files import atomic_write, hash_json
from recsys.storage.stages.rest import wake
from recsys.training.groups import history_reader
from recsys.training.night.night_context import Night
from recsys.training.sources.fit_source import fit_sources

ENDS_KEPT = 3
"""Nights whose fits are remembered, as their outputs are."""
CHECKED_MOMENTS = 500
CHECKED_K = 100
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True)
class Fit:
    """A finished fit that later ones may start from."""

    source: str
    masked: str
    params: str
    """Hash of the params."""
    cut: int
    """It saw events strictly before this (µs)."""
    made: int
    """End of the data of the night that made it."""
    end: int
    """End of the data of the latest night that used it."""
    since: int
    """End of the data of the last fit from scratch in its line."""
    key: str
    """Of its stage output."""
    start: str | None = None
    """Key of the output it started from; None where from scratch."""
    content: str = ""
    """What it was made from, its start apart."""


def start_of(
    night: Night,
    name: str,
    params: Mapping[str, float],
    masked: str,
    cut: int,
    end: int,
    content: str = "",
) -> Fit | None:
    """The earlier night's fit that a fit as of `cut` starts from; None to start from scratch.

    One of the same content is not fitted again: it has the start that it had.

    Args:
        night: tonight's run: config, workspace, runner, reporter.
        name: of the source.
        params: of the source.
        masked: identifies the items whose events are left out.
        cut: end of what may be known, µs UTC.
        end: end of tonight's data, µs UTC.
        content: hash of what the fit is made from, its start apart.
    """
    if not is_warm(name) or night.config.sources.full_refit == "always":
        return None
    same = _same(night, content)
    if same is not None and (same.start is None or not refit_due(night, same.since, end)):
        return None if same.start is None else replace(same, key=same.start)
    found = _nearest(night, name, params, masked, cut, end)
    return None if found is None or refit_due(night, found.since, end) else found


def _same(night: Night, content: str) -> Fit | None:
    same = [fit for fit in _read(night) if content and fit.content == content]
    return max(same, key=lambda fit: fit.made, default=None)


def kept(night: Night, content: str, end: int) -> bool:
    """Whether a fit of this content is at hand from before the night that ends then."""
    same = _same(night, content)
    return same is not None and same.made < end


def _nearest(
    night: Night, name: str, params: Mapping[str, float], masked: str, cut: int, end: int
) -> Fit | None:
    like = (name, masked, hash_json(dict(params)))
    fits = [
        fit
        for fit in _read(night)
        if (fit.source, fit.masked, fit.params) == like and fit.cut <= cut and fit.made < end
    ]
    return max(fits, key=lambda fit: (fit.cut, fit.made), default=None)


def refit_due(night: Night, since: int, end: int) -> bool:
    """Whether the configured weekday has begun (UTC) since the last fit from scratch."""
    wanted = night.config.sources.full_refit
    if wanted not in DAYS:
        return wanted == "always"
    last = datetime.fromtimestamp(since / 1e6, UTC)
    days = (DAYS.index(wanted) - last.weekday() - 1) % 7 + 1
    due = (last + timedelta(days=days)).replace(hour=0, minute=0, second=0, microsecond=0)
    return datetime.fromtimestamp(end / 1e6, UTC) > due


def remember(
    night: Night,
    name: str,
    params: Mapping[str, float],
    masked: str,
    cut: int,
    end: int,
    started: Fit | None,
    key: str,
    content: str = "",
) -> None:
    """Let later nights start from a fit of tonight.

    Args:
        night: tonight's run: config, workspace, runner, reporter.
        name: of the source.
        params: of the source.
        masked: identifies the items whose events are left out.
        cut: end of what was known, µs UTC.
        end: end of tonight's data, µs UTC.
        started: the fit it started from; None for one from scratch.
        key: of its stage output.
        content: hash of what it was made from, its start apart.
    """
    if not is_warm(name) or night.runner.dry_run:
        return
    earlier = _read(night)
    made = min([f.made for f in earlier if f.key == key], default=end)
    fit = Fit(
        source=name,
        masked=masked,
        params=hash_json(dict(params)),
        cut=cut,
        made=made,
        end=end,
        since=started.since if started else made,
        key=key,
        start=started.key if started else None,
        content=content,
    )
    fits = [f for f in earlier if f.key != key]
    ends = sorted({f.end for f in [*fits, fit]})[-ENDS_KEPT:]
    kept = [asdict(f) for f in [*fits, fit] if f.end in ends]
    atomic_write(_pointer(night), json.dumps(kept))


def _pointer(night: Night) -> Path:
    return night.workspace.warm_starts


def _read(night: Night) -> list[Fit]:
    try:
        return [Fit(**entry) for entry in json.loads(_pointer(night).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def opened(night: Night, fit: Fit | None) -> RecallSource | None:
    """The earlier source; None where there is none or its output is no longer kept."""
    if fit is None:
        return None
    output = night.workspace.stages / f"source-{fit.source}" / fit.key
    if not (output / fit.source).is_dir():
        return None
    try:
        wake(output)
    except (OSError, ValueError):
        return None  # damaged at rest
    return load_source(output / fit.source)


def compared(
    night: Night,
    name: str,
    params: Mapping[str, float],
    cold: RecallSource,
    cold_seconds: float,
    events: Interactions,
    inputs: SourceInputs,
    moments: Truth,
    cut: int,
    end: int,
) -> str | None:
    """What starting warm would have cost or gained at a tested cut, in words.

    None unless this is a night that starts from scratch although it need not.

    Args:
        night: tonight's run: config, workspace, runner, reporter.
        name: of the source.
        params: of the source.
        cold: tonight's fit from scratch.
        cold_seconds: time it took.
        events: what it was fitted on: all before `cut`.
        inputs: catalogue, texts and vectors.
        moments: the test moments at `cut`.
        cut: end of what was known, µs UTC.
        end: end of tonight's data, µs UTC.
    """
    start = _nearest(night, name, params, "", cut, end)
    earlier = opened(night, start)
    if earlier is None or not len(moments):
        return None
    began = perf_counter()
    warm = fit_sources(
        events,
        inputs,
        {name: params},
        seed=night.config.seed,
        workers=night.workers,
        previous={name: earlier},
    )[name]
    seconds = perf_counter() - began
    names = at_moments(hash_ids(events.user_ids)[moments.user], moments.time)
    sample = moments.sample(CHECKED_MOMENTS, chance(names, "warm start", night.config.seed))
    lists = [recall_of(source, sample, events) for source in (cold, warm)]
    return (
        f"recall@{CHECKED_K} {lists[0]:.4f} from scratch in {cold_seconds:.1f} s, "
        f"{lists[1]:.4f} warm in {seconds:.1f} s"
    )


def recall_of(source: RecallSource, moments: Truth, events: Interactions) -> float:
    """Mean recall@100 of a source alone at some moments."""
    read = history_reader(events.histories(), moments)
    found = []
    for m in range(len(moments)):
        history = read(m)
        blocked: Any = np.zeros(events.n_items, np.uint8)
        blocked[history.item] = 1
        wanted = moments.items[moments.rows_of(m)]
        listed = source.recall(history, CHECKED_K, int(moments.time[m]), blocked).items
        found.append(float(np.isin(wanted, listed).mean()))
    return float(np.mean(found))
