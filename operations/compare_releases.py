"""`recsys models compare`: two versions on the same rows, as one page.

The rows are later events where they are given; else the lists that both versions' nights hold;
else those of the night in which one of the two was held against the other as champion.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.errors import ExitCode
from recsys.operations.open_release import find_release

if TYPE_CHECKING:
    from recsys.evaluation.comparison import Comparison
    from recsys.evaluation.lists import RankedLists
    from recsys.evaluation.saved_lists import SavedLists
    from recsys.operations.release_queries import Queries
    from recsys.recommender import LoadedRelease
    from recsys.storage.registry import Version


@dataclass(frozen=True)
class SameRows:
    """Two versions' lists on the same queries."""

    queries: "Queries"
    first: "RankedLists"
    second: "RankedLists"
    how: str
    """Where the rows come from, in words."""
    leaks: tuple[str, ...] = ()


def name_of(version: int) -> str:
    """A version as the page names it."""
    return f"version {version}"


def on_events(config: RecsysConfig, first: int, second: int, place: str) -> SameRows:
    """Both releases asked about events that came after the data of both."""
    from recsys.operations.evaluate_release import leak_checks
    from recsys.operations.evaluated_parts import lists_in_parts
    from recsys.operations.evaluation_events import read_events
    from recsys.operations.release_queries import (
        WINDOW,
        data_end,
        queries_of,
    )
    from recsys.storage.engines.scratch_parts import place_of

    engine = place_of(config)
    files = [find_release(config, f"models:/{config.name}/{v}") for v in (first, second)]
    releases = [each.open_whole() for each in files]
    newest = max(releases, key=data_end)
    held = read_events(place, newest)
    leaks = [c for r in releases for c in leak_checks(r, held, None) if not c.passed]
    queries = queries_of(WINDOW, newest, held, None, config.evaluation.max_users, config.seed)
    lists = [
        lists_in_parts(engine, each, loaded, queries, name_of(version), config.serving.caps)
        for each, loaded, version in zip(files, releases, (first, second), strict=True)
    ]
    how = f"the {held.events.n_users:,} users of {place}"
    return SameRows(queries, lists[0], lists[1], how, tuple(f"{c.name}: {c.detail}" for c in leaks))


def on_saved_lists(first: "Version", second: "Version") -> SameRows | None:
    """The lists that both nights hold, or those of one night that held both; None without any."""
    from recsys.evaluation.saved_lists import MAIN, read_lists

    a, b = (read_lists(Path(v.report)) if v.report else None for v in (first, second))
    if a is not None and b is not None and MAIN in a.systems and MAIN in b.systems:
        rows_a, rows_b = a.shared(b)
        if len(rows_a):
            ours, theirs = a.take(rows_a), b.take(rows_b)
            lists = (ours.systems[MAIN], theirs.systems[MAIN])
            return _same(
                ours, first, second, lists, f"the {len(rows_a):,} lists that both nights hold"
            )
    for night, other, kept in ((first, second, a), (second, first, b)):
        champion = None if kept is None else kept.champion()
        if kept is None or champion is None or MAIN not in kept.systems:
            continue
        if champion[0] != other.version:
            continue
        own = kept.systems[MAIN]
        pair = (own, champion[1]) if night is first else (champion[1], own)
        how = (
            f"the lists of the night of version {night.version}, in which the recipe of version "
            f"{other.version} was fitted again as its champion"
        )
        return _same(kept, first, second, pair, how)
    return None


def _same(
    kept: "SavedLists",
    first: "Version",
    second: "Version",
    lists: "tuple[RankedLists, RankedLists]",
    how: str,
) -> SameRows:
    from recsys.operations.release_queries import WINDOW, Queries

    users = [str(kept.user_ids[u]) for u in kept.truth.user]
    queries = Queries(WINDOW, users, kept.truth.time, kept.truth, kept.past)
    named = [
        replace(part, name=name_of(v.version))
        for part, v in zip(lists, (first, second), strict=True)
    ]
    return SameRows(queries, named[0], named[1], how)


def compare(
    config: RecsysConfig, loaded: "LoadedRelease", rows: SameRows, out: Path
) -> "Comparison":
    """Measure both and write compare.html and compare.json; the first is the newer one."""
    from recsys.evaluation.asked_moments import evaluate_moments
    from recsys.evaluation.comparison import compare_lists
    from recsys.evaluation.comparison_page import write_comparison
    from recsys.operations.release_queries import asked_moments

    queries = rows.queries
    evaluation = evaluate_moments(
        asked_moments(loaded, queries, config.evaluation.segments),
        [rows.first, rows.second],
        main=rows.first.name,
        config=config.evaluation,
        seed=config.seed,
    )
    comparison = compare_lists(
        queries.truth,
        rows.first,
        rows.second,
        evaluation,
        examples=config.evaluation.examples,
    )
    write_comparison(
        comparison,
        out,
        titles=loaded.state.catalogue.titles,
        warnings=[
            *(f"LEAK: {leak}" for leak in rows.leaks),
            f"Compared on {rows.how}.",
            *queries.notes,
        ],
    )
    return comparison


def as_json(comparison: "Comparison", rows: SameRows, page: Path) -> dict[str, Any]:
    """What a machine needs of a comparison."""
    e = comparison.evaluation
    found: Mapping[str, Any] = e.differences[comparison.older]
    return {
        "page": str(page),
        "rows": rows.how,
        "leaks": list(rows.leaks),
        "gained": comparison.gained,
        "lost": comparison.lost,
        "unchanged": comparison.unchanged,
        "same_first": comparison.same_first.value,
        "differences": {
            metric: {
                "difference": d.interval.value,
                "low": d.interval.low,
                "high": d.interval.high,
                "p": d.p,
                "verdict": d.verdict,
                "groups": d.interval.groups,
                "users": d.interval.users,
            }
            for metric, d in found.items()
        },
    }


def exit_code(rows: SameRows) -> ExitCode:
    """4 where a version had seen what it was compared on."""
    return ExitCode.PROMOTION_REFUSED if rows.leaks else ExitCode.DONE
