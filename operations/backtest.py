"""`recsys backtest`: the last N nights simulated on history, with the quality of each.

Night n trains on events before its cut and is evaluated on what users did until the next; the real
night runs, gate and all, in a workspace and a registry of its own below the workspace, so nothing
live is touched. Evaluated beside its champion: the champion of the night before (one night missed) and
that of every seventh night (retrained weekly). A backtest that was interrupted goes on where it
stopped; one on other data, cuts or settings starts anew.

Shapes: N nights, G lists of a night.
"""

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.config import (
    NotifyConfig,
    RecsysConfig,
    TrackingConfig,
    load_config,
)
from recsys.data_schemas.errors import ExitCode, UsageError
from recsys.evaluation.evaluation import AHEAD, BEHIND, UNCLEAR
from recsys.evaluation.report_context import or_dash, to_the_minute
from recsys.evaluation.uncertainty import Interval, bootstrap
from recsys.features.draws import Doubles
from recsys.features.interactions import DAY, Interactions
from recsys.features.time_buckets import BUCKETS, MomentGrid
from recsys.storage.workspace import SIMULATION_PLAN, Workspace

K = 10
WEEK = 7
FRESH, STALE, WEEKLY = "nightly", "a night late", "weekly"
WAYS = (FRESH, STALE, WEEKLY)
AS_NAMED = {STALE: "the champion of a night before", WEEKLY: "a weekly retraining"}
RESAMPLES = 1000
LEAST_LISTS = 10
"""Lists wanted for each night, on average (assumed: 140 of 14 nights have an interval of some
.05 nDCG@10)."""
SHARES = (0.2, 0.35, 0.5)
"""Shares of the events, from the end, over which nights are spread where days hold too few."""


@dataclass(frozen=True)
class NightQuality:
    """How one simulated night did on what came after it."""

    cut: int
    version: int | None
    """The champion after this night."""
    gate: str
    """`promote`, `challenger` or `reject`."""
    reason: str
    """The gate's first reason against it, or how it compared."""
    users: int
    ndcg: float | None
    """Mean nDCG@10 of the champion after this night, on the following window."""
    stale: float | None
    """The same of the champion of the night before: what a missed night costs."""
    weekly: float | None
    """The same of the champion of the last seventh night: what retraining weekly costs."""
    seconds: float


def run_backtest(args: argparse.Namespace) -> int:
    """Print quality by night and write it as JSON and as a page into the reports."""
    from recsys.storage.progress import Reporter

    if args.nights < 1:
        raise UsageError("there must be a night", where="--nights", found=args.nights)
    config = load_config(args.config)
    reporter = Reporter()
    cuts, why = plan_cuts(config, args.nights)
    reporter.say(f"backtest: {why}")
    place = Workspace(config.workspace_path).simulation
    nights = _begin(config, place, cuts)
    for number, (cut, end) in enumerate(pairwise(cuts)):
        if number < len(nights):
            continue
        reporter.say(f"backtest: night {number + 1} of {len(cuts) - 1}, until {to_the_minute(cut)}")
        weekly = nights[number - number % WEEK].version if number % WEEK else None
        nights.append(simulate(config, number, cut, end, weekly, reporter))
        _keep(place, config, cuts, nights)
    differences = compare(place, nights)
    said = verdict(nights, overall(place, nights), differences)
    out = write(config, why, nights, by_night(place, nights), differences, said)
    print(said)
    print(table(nights))
    print("\n".join(conclusions(differences)))
    print(f"report: {out}")
    return ExitCode.DONE


def plan_cuts(config: RecsysConfig, nights: int) -> tuple[list[int], str]:
    """(N + 1 moments in µs, why these): night n trains before cut n and is evaluated until cut n + 1.

    All lie on the data's grid, where a release is asked in use: all that a night knows is counted then.

    The last days where enough users come back in them; otherwise equal shares of the latest events
    that hold enough, because most days of a small or old data set have hardly a list to evaluate.

    Raises:
        UsageError: the data has fewer moments than nights.
    """
    from recsys.training.windows import count_returning

    events, grid = _events(config)
    end = grid.after(int(events.time[-1]))
    wanted = LEAST_LISTS * nights
    daily = [end - DAY * n for n in range(nights, -1, -1)]
    lists = count_returning(events, tuple(daily[:-1]), end)
    if lists >= wanted:
        return daily, f"the last {nights} days, {lists:,} lists of returning users to evaluate"
    few = f"the last {nights} days have {lists:,} lists of returning users to evaluate"
    for share in SHARES:
        region = events.time[int(len(events) * (1 - share)) :]
        places = np.linspace(0, len(region) - 1, nights + 1).astype(int)
        moments = {grid.before(int(t)) for t in region[places[:-1]]}
        cuts = sorted(cut for cut in moments if cut > events.time[0])
        lists = count_returning(events, tuple(cuts), end)
        if len(cuts) == nights and (lists >= wanted or share == SHARES[-1]):
            how = f"equal shares of the last {share:.0%} of the events, {lists:,} lists of returning users to evaluate"
            return [*cuts, end], f"{how} ({few})"
    raise UsageError(
        "the data has too few moments for so many nights",
        where="--nights",
        found=nights,
        expected=f"at most {len(cuts)}",
    )


def _events(config: RecsysConfig) -> tuple[Interactions, MomentGrid]:
    """All accepted events in the order of time, graded as a night grades them, and the moments at which
    lists are asked for."""
    import tempfile

    from recsys.ingestion.tables.ingest import ingest
    from recsys.ingestion.tables.load import load_tables
    from recsys.storage.tombstones import forgotten
    from recsys.training.night.read_data import graded

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "tables"
        ingest(config, folder, forgotten=forgotten(Workspace(config.workspace_path)))
        tables = load_tables(folder, config)
    resolution = tables.resolution
    ordinal_until = resolution.ordinal_until if resolution.kind == "ordinal" else None
    grid = MomentGrid.of(BUCKETS[config.features.bucket], resolution.step, ordinal_until)
    return graded(tables.interactions, tables.meaning)[0], grid


def elsewhere(config: RecsysConfig) -> RecsysConfig:
    """The same config with a workspace and an embedded registry of its own: what is promoted in a
    simulation must never serve, and what it drains stays in the log."""
    changed = config.model_copy(
        update={
            "workspace": str(Workspace(Path(config.workspace)).simulation),
            "tracking": TrackingConfig(),
            "notify": NotifyConfig(),
            "serving": config.serving.model_copy(update={"store": None, "log_days": None}),
        }
    )
    object.__setattr__(changed, "_folder", config._folder)
    return changed


def _plan(config: RecsysConfig, cuts: Sequence[int]) -> str:
    """What makes two backtests the same."""
    from recsys.storage.files import hash_json, plain

    return hash_json([list(cuts), plain(config.model_dump(mode="json"))])


def _begin(config: RecsysConfig, place: Path, cuts: Sequence[int]) -> list[NightQuality]:
    """Nights that an interrupted run of the same backtest has done; otherwise start anew.

    Stage outputs and item vectors are kept: what has not changed is used again. Whoever asked to be
    forgotten is left out here too.
    """
    from recsys.storage.files import atomic_write

    place.mkdir(parents=True, exist_ok=True)
    tombstones = Workspace(config.workspace_path).tombstones
    if tombstones.exists():
        atomic_write(Workspace(place).tombstones, tombstones.read_bytes(), mode=0o600)
    wishes = Workspace(config.workspace_path).opt_outs
    if wishes.exists():
        atomic_write(Workspace(place).opt_outs, wishes.read_bytes(), mode=0o600)
    try:
        kept = json.loads((place / SIMULATION_PLAN).read_text(encoding="utf-8"))
        if kept["plan"] == _plan(config, cuts) and len(kept["nights"]) < len(cuts) - 1:
            return [NightQuality(**night) for night in kept["nights"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    for name in ("mlflow", "bundles", "state", "nights"):
        shutil.rmtree(place / name, ignore_errors=True)
    for pointer in (place / "cache").glob("*.json"):
        pointer.unlink()
    (place / SIMULATION_PLAN).unlink(missing_ok=True)
    return []


def _keep(
    place: Path, config: RecsysConfig, cuts: Sequence[int], nights: Sequence[NightQuality]
) -> None:
    from recsys.storage.files import write_json

    plan = {"plan": _plan(config, cuts), "nights": [asdict(night) for night in nights]}
    write_json(place / SIMULATION_PLAN, plan)


def simulate(
    config: RecsysConfig, number: int, cut: int, end: int, weekly: int | None, reporter: Any
) -> NightQuality:
    """One night up to a cut, then its champion and the older ones evaluated until `end`.

    Args:
        config: of the workspace whose data are used; the night runs in a workspace of its own.
        number: of the night, from 0.
        cut: end of the data that the night knows, µs UTC.
        end: end of what its lists are evaluated on, µs UTC.
        weekly: version that a weekly retraining would serve; None where it is this night's.
        reporter: takes the night's lines.
    """
    from recsys.storage.registry import Registry
    from recsys.training.nightly import run_night

    simulated = elsewhere(config)
    before = Registry(simulated).champion()
    began = time.monotonic()
    result = run_night(simulated, until=cut, reporter=reporter)
    seconds = time.monotonic() - began
    champion = Registry(simulated).champion()
    decision = result.decision
    assert decision is not None
    users, fresh = evaluate_version(simulated, champion, cut, end)
    known = {champion: fresh, None: np.full(len(fresh), np.nan)}
    for version in {before, weekly} - known.keys():
        known[version] = evaluate_version(simulated, version, cut, end)[1]
    columns = {FRESH: fresh, STALE: known[before], WEEKLY: known[weekly] if weekly else fresh}
    folder = Workspace(config.workspace_path).simulation / "nights"
    folder.mkdir(parents=True, exist_ok=True)
    # Keyword names of savez are the arrays' names.
    np.savez(folder / f"{number}.npz", user=users, **columns)  # type: ignore[arg-type]
    return NightQuality(
        cut=cut,
        version=champion,
        gate=decision.action,
        reason=telling(decision.reasons),
        users=len(np.unique(users)),
        ndcg=_mean(columns[FRESH]),
        stale=_mean(columns[STALE]),
        weekly=_mean(columns[WEEKLY]),
        seconds=round(seconds, 1),
    )


def telling(reasons: Sequence[str]) -> str:
    """The gate's reason that says most: the first that did not pass, else the comparison overall."""
    against = (r for r in reasons if not r.startswith("passed"))
    overall = (r for r in reasons if "(overall)" in r)
    return next(against, next(overall, reasons[0]))


def _mean(values: Doubles) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def evaluate_version(
    config: RecsysConfig, version: int | None, cut: int, end: int
) -> tuple[npt.NDArray[np.str_], Doubles]:
    """(user str[G], nDCG@10 float64[G]) of a version's lists at `cut`, by what users did in
    [cut, end)."""
    from recsys.evaluation.metrics import match, ndcg
    from recsys.ingestion.tables.load import load_tables
    from recsys.operations.open_release import state_folder
    from recsys.recommender import LoadedRelease
    from recsys.storage.registry import Registry
    from recsys.training.night.read_data import graded
    from recsys.training.released_lists import lists_of_release
    from recsys.training.windows import moments_at

    nobody = np.empty(0, np.str_), np.empty(0)
    if version is None:
        return nobody
    registry = Registry(config)
    loaded = LoadedRelease.open(
        registry.local_path(version), state_folder(config), version=str(version)
    )
    newest = max(Workspace(config.workspace_path).stages.glob("tables/*/tables"), key=_age)
    events, _ = graded(load_tables(newest, config).interactions, config.events.meaning())
    moments = moments_at(events, cut, end)
    if not len(moments):
        return nobody
    users = events.user_ids[moments.user].astype(np.str_)
    lists = lists_of_release(
        loaded, users.tolist(), moments.time, K, name="champion", caps=config.serving.caps
    )
    return users, ndcg(match(moments, lists), K)


def _age(path: Path) -> float:
    return path.stat().st_mtime


def by_night(place: Path, nights: Sequence[NightQuality]) -> dict[str, list[Interval]]:
    """Mean nDCG@10 of each way, night by night, with its interval by user."""
    return {way: [_interval(part, way) for part in _lists(place, nights)] for way in WAYS}


def overall(place: Path, nights: Sequence[NightQuality]) -> Interval:
    """The same of what served, over the lists of all nights."""
    parts = _lists(place, nights)
    whole = {name: np.concatenate([p[name] for p in parts]) for name in ("user", FRESH)}
    return _interval(whole, FRESH)


def _lists(place: Path, nights: Sequence[NightQuality]) -> list[Mapping[str, Any]]:
    """What `simulate` left of each night: user str[G], nDCG@10 float64[G] of each way."""
    return [np.load(place / "nights" / f"{number}.npz") for number in range(len(nights))]


def _interval(lists: Mapping[str, Any], way: str) -> Interval:
    values = np.asarray(lists[way], np.float64)
    if not np.isfinite(values).any():
        return Interval(None, None, None, 0, 0)
    _, user = np.unique(lists["user"], return_inverse=True)
    drawn = bootstrap(values[:, None], user.astype(np.int32), resamples=RESAMPLES, seed=0)
    return drawn.interval(0)


def compare(place: Path, nights: Sequence[NightQuality]) -> dict[str, dict[str, Any]]:
    """Retraining every night against the lazier ways, paired over the nights where both exist.

    {way: {nightly, other, difference, low, high, lists, users, nights}}; intervals by user.
    """
    parts = _lists(place, nights)
    found: dict[str, dict[str, Any]] = {}
    for way, first in ((STALE, 1), (WEEKLY, 0)):
        kept = [p for p in parts[first:] if np.isfinite(p[way]).any()]
        if not kept:
            continue
        ours, theirs = (np.concatenate([p[name] for p in kept]) for name in (FRESH, way))
        _, user = np.unique(np.concatenate([p["user"] for p in kept]), return_inverse=True)
        drawn = bootstrap(
            np.column_stack([ours - theirs, ours, theirs]),
            user.astype(np.int32),
            resamples=RESAMPLES,
            seed=0,
        )
        value, low, high, groups, users = drawn.interval(0)
        found[way] = {
            FRESH: drawn.interval(1).value,
            "other": drawn.interval(2).value,
            "difference": value,
            "low": low,
            "high": high,
            "lists": groups,
            "users": users,
            "nights": len(kept),
        }
    return found


def verdict(
    nights: Sequence[NightQuality],
    whole: Interval,
    differences: Mapping[str, Mapping[str, Any]],
) -> str:
    """One sentence: how good what served was, whether it was better than the lazier ways, what the gate
    did."""
    if not whole.users:
        return "Nothing was measured: no user of these nights came back for something new."
    sides: dict[str, list[str]] = {AHEAD: [], BEHIND: [], UNCLEAR: []}
    for way, found in differences.items():
        side = UNCLEAR
        if found["low"] is not None:
            side = AHEAD if found["low"] > 0 else BEHIND if found["high"] < 0 else UNCLEAR
        sides[side].append(AS_NAMED[way])
    compared = [
        f"{text} {' and '.join(sides[side])}"
        for side, text in (
            (AHEAD, "ahead of"),
            (BEHIND, "behind"),
            (UNCLEAR, "not to be told apart from"),
        )
        if sides[side]
    ]
    low, high = or_dash(whole.low), or_dash(whole.high)
    promoted = sum(night.gate == "promote" for night in nights)
    return (
        f"Retrained nightly, what served reaches nDCG@{K} {or_dash(whole.value)} [{low}, {high}] on "
        f"{whole.groups:,} lists of {whole.users:,} users, "
        f"{'; '.join(compared) or 'with nothing to compare it with'}; the gate promoted "
        f"{promoted} of {len(nights)} nights."
    )


def conclusions(differences: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the lazier ways would have cost, in words."""
    lines = []
    for way, found in differences.items():
        low, high = (or_dash(found[name], "+.4f") for name in ("low", "high"))
        lines.append(
            f"retrained nightly {or_dash(found[FRESH])}, {way} {or_dash(found['other'])}: "
            f"difference {or_dash(found['difference'], '+.4f')} [{low}, {high}] nDCG@{K}, "
            f"{found['lists']:,} lists of {found['users']:,} users in {found['nights']} "
            f"night{'s' * (found['nights'] > 1)}"
        )
    return lines


def table(nights: Sequence[NightQuality]) -> str:
    """One line per night."""
    lines = [
        f"{'night until':<17} {'champion':>8} {'gate':>10} {'users':>6} {'nDCG@10':>8} "
        f"{'late':>8} {'weekly':>8} {'seconds':>8}"
    ]
    for n in nights:
        lines.append(
            f"{to_the_minute(n.cut):<17} {n.version!s:>8} {n.gate:>10} {n.users:>6} {or_dash(n.ndcg):>8} "
            f"{or_dash(n.stale):>8} {or_dash(n.weekly):>8} {n.seconds:>8}"
        )
    return "\n".join(lines)


def write(
    config: RecsysConfig,
    why: str,
    nights: Sequence[NightQuality],
    quality: Mapping[str, Sequence[Interval]],
    differences: Mapping[str, Mapping[str, Any]],
    said: str,
) -> Path:
    """backtest.json and backtest.html in the workspace's reports, each whole or not at all."""
    from recsys.storage.files import atomic_write

    out = config.workspace_path / "reports"
    out.mkdir(parents=True, exist_ok=True)
    tree = {
        "verdict": said,
        "windows": why,
        "nights": [
            asdict(night) | {"intervals": {way: of[place]._asdict() for way, of in quality.items()}}
            for place, night in enumerate(nights)
        ],
        "differences": differences,
    }
    atomic_write(out / "backtest.json", json.dumps(tree, indent=1))
    atomic_write(out / "backtest.html", page(config.name, why, nights, quality, differences, said))
    return out / "backtest.html"


def page(
    name: str,
    why: str,
    nights: Sequence[NightQuality],
    quality: Mapping[str, Sequence[Interval]],
    differences: Mapping[str, Mapping[str, Any]],
    said: str,
) -> str:
    """The report as text; `said` is its verdict."""
    from recsys.evaluation.page import template
    from recsys.evaluation.plots import line_plot

    plot = line_plot(
        "Quality by night",
        f"nDCG at {K} of each night's champion on what users did until the next night, beside the "
        "champion a night older and that of a weekly retraining",
        list(range(1, len(nights) + 1)),
        quality,
        x_label="night",
        y_label=f"nDCG@{K}",
    )
    rows = [
        (
            to_the_minute(n.cut),
            n.version,
            n.gate,
            n.reason,
            n.users,
            *(of[at] for of in quality.values()),
            n.seconds,
        )
        for at, n in enumerate(nights)
    ]
    text: str = template("backtest.html.j2").render(
        name=name, why=why, said=said, rows=rows, notes=conclusions(differences), plot=plot, k=K
    )
    return text
