"""`recsys backtest`: the last N nights simulated on history, with the quality of each.

Night n trains on events before its cut and is judged by what users did until the next; the real
night runs, gate and all, in a workspace of its own below the workspace.
"""

import argparse
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_schemas.config import RecsysConfig, load_config
from data_schemas.errors import ExitCode, UsageError

K = 10


@dataclass(frozen=True)
class NightQuality:
    """How one simulated night did on what came after it."""

    cut: int
    version: int | None
    promoted: bool
    users: int
    ndcg: float | None
    """nDCG@10 of the champion after this night, on the following window."""
    stale: float | None
    """The same of the champion of the night before: what a skipped night costs."""
    seconds: float


def run_backtest(args: argparse.Namespace) -> int:
    """Print quality by night and write it as JSON into the reports."""
    from recsys.progress import Reporter

    if args.nights < 1:
        raise UsageError("there must be a night", where="--nights", found=args.nights)
    config = load_config(args.config)
    reporter = Reporter()
    cuts = plan_cuts(config, args.nights)
    nights = [simulate(config, cut, end, reporter) for cut, end in pairwise(cuts)]
    out = write(config, nights)
    print(table(nights))
    print(f"report: {out}")
    return ExitCode.DONE


def plan_cuts(config: RecsysConfig, nights: int) -> list[int]:
    """N + 1 moments (µs): night n trains before cut n and is judged until cut n + 1.

    Days where the data has enough of them at its end; otherwise equal shares of the last fifth of
    the events, because most days of a small or old data set have no event at all.
    """
    times = _times(config)
    day = 86_400_000_000
    end = int(times[-1]) + 1
    daily = [end - day * n for n in range(nights, -1, -1)]
    if (times >= daily[0]).sum() >= 20 * nights:
        return daily
    region = times[int(len(times) * 0.8) :]
    places = np.linspace(0, len(region) - 1, nights + 1).astype(int)
    return [*sorted({int(t) for t in region[places[:-1]]}), end]


def _times(config: RecsysConfig) -> npt.NDArray[np.int64]:
    """Sorted times of all accepted events, µs."""
    import tempfile

    from recsys.tables.ingest import ingest
    from recsys.tables.load import load_tables

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "tables"
        ingest(config, folder)
        return np.sort(load_tables(folder, config).interactions.time)


def simulate(config: RecsysConfig, cut: int, end: int, reporter: Any) -> NightQuality:
    """One night up to a cut, then its champion and the one before judged until `end`."""
    import time

    from recsys.registry import Registry
    from training.nightly import run_night

    simulated = _elsewhere(config)
    before = Registry(simulated).champion()
    began = time.monotonic()
    result = run_night(simulated, until=cut, reporter=reporter)
    seconds = time.monotonic() - began
    champion = Registry(simulated).champion()
    assert result.decision is not None
    ndcg, users = judge(simulated, champion, cut, end)
    stale = judge(simulated, before, cut, end)[0] if before is not None else None
    return NightQuality(
        cut, champion, result.decision.promoted, users, ndcg, stale, round(seconds, 1)
    )


def _elsewhere(config: RecsysConfig) -> RecsysConfig:
    """The same config with a workspace of its own, so that the real one is not touched."""
    changed = config.model_copy(update={"workspace": str(Path(config.workspace) / "backtest")})
    object.__setattr__(changed, "_folder", config._folder)
    return changed


def judge(
    config: RecsysConfig, version: int | None, cut: int, end: int
) -> tuple[float | None, int]:
    """(nDCG@10, users) of a version's lists at `cut`, by what users did in [cut, end)."""
    from recsys.asking import Ask
    from recsys.cli.live import state_folder
    from recsys.evaluation.lists import RankedLists, Truth
    from recsys.evaluation.metrics import judge as read
    from recsys.evaluation.metrics import ndcg
    from recsys.ranking import Runtime
    from recsys.registry import Registry
    from recsys.tables.load import load_tables
    from recsys.workspace import Workspace
    from training.windows import moments_at

    if version is None:
        return None, 0
    registry = Registry(config)
    runtime = Runtime.open(registry.local_path(version), state_folder(config), version=str(version))
    newest = max(Workspace(config.workspace_path).stages.glob("tables/*/tables"), key=_age)
    events = load_tables(newest, config).interactions
    moments = moments_at(events, cut, end)
    if not len(moments):
        return None, 0
    truth = Truth(moments.offsets, moments.relevant, moments.grade, moments.user, moments.now)
    lists = []
    for user in moments.user:
        answer = runtime.answer(Ask(str(events.user_ids[user]), cut, k=K))
        lists.append((runtime.state.catalogue.indices_of(answer.item_ids), answer.scores))
    value = ndcg(read(truth, RankedLists.of("champion", lists, K)), K)
    return float(np.nanmean(value)), len(np.unique(moments.user))


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _day(at: int) -> str:
    return str(np.datetime64(at, "us").astype("datetime64[m]")).replace("T", " ")


def table(nights: list[NightQuality]) -> str:
    """One line per night."""
    lines = [
        f"{'night until':<17} {'champion':>8} {'gate':>9} {'users':>6} {'nDCG@10':>8} {'stale':>8} {'seconds':>8}"
    ]
    for n in nights:
        value = "–" if n.ndcg is None else f"{n.ndcg:.4f}"
        stale = "–" if n.stale is None else f"{n.stale:.4f}"
        gate = "promoted" if n.promoted else "refused"
        lines.append(
            f"{_day(n.cut):<17} {n.version!s:>8} {gate:>9} {n.users:>6} {value:>8} {stale:>8} {n.seconds:>8}"
        )
    fresh = [n.ndcg for n in nights if n.ndcg is not None and n.stale is not None]
    old = [n.stale for n in nights if n.ndcg is not None and n.stale is not None]
    if fresh:
        lines.append(
            f"\nretrained every night {np.mean(fresh):.4f}, one night late {np.mean(old):.4f} "
            f"(mean nDCG@10 over {len(fresh)} nights)"
        )
    return "\n".join(lines)


def write(config: RecsysConfig, nights: list[NightQuality]) -> Path:
    """backtest.json in the workspace's reports, whole or not at all."""
    from recsys.files import atomic_write

    out = config.workspace_path / "reports" / "backtest.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, json.dumps([vars(n) for n in nights], indent=1))
    return out
