"""`recsys models`: which releases there are, which one serves, and how to change that."""

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys.cli.paired import Differences
    from recsys.registry import Registry, Version

HEADLINE = ("ndcg@10", "recall@10", "recall@100", "mrr", "auc")
"""Metrics of the list, in order of interest."""


def add_parsers(subparsers: Any) -> None:
    """Register `models` and its verbs."""
    models = subparsers.add_parser("models", help="releases: list, compare, promote, roll back")
    verbs = models.add_subparsers(dest="verb", metavar="VERB", required=True)

    listing = verbs.add_parser("list", help="all versions, newest first, and who was champion when")
    listing.set_defaults(run=_list)

    show = verbs.add_parser("show", help="one version and the local path of its bundle")
    show.add_argument("version", nargs="?", metavar="VERSION", help="number or alias")
    show.set_defaults(run=_show)

    compare = verbs.add_parser("compare", help="two versions, by what their nights measured")
    compare.add_argument("first", metavar="VERSION")
    compare.add_argument("second", nargs="?", metavar="VERSION", help="default: the champion")
    compare.set_defaults(run=_compare)

    promote = verbs.add_parser("promote", help="make a version the champion")
    promote.add_argument("version", metavar="VERSION", help="number or alias")
    promote.add_argument("--reason", default="promoted by hand", help="kept in the history")
    promote.set_defaults(run=_promote)

    rollback = verbs.add_parser("rollback", help="return to the champion before")
    rollback.add_argument("--reason", default="rolled back by hand", help="kept in the history")
    rollback.set_defaults(run=_rollback)

    for verb in (listing, show, compare, promote, rollback):
        verb.add_argument(
            "--json", action="store_true", help="one JSON document on standard output"
        )


def _registry(args: argparse.Namespace) -> "Registry":
    from data_schemas.config import load_config
    from recsys.registry import Registry

    return Registry(load_config(args.config))


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _as_dict(entry: "Version") -> dict[str, Any]:
    return {
        "version": entry.version,
        "aliases": list(entry.aliases),
        "created_at": entry.created_at,
        "digest": entry.digest,
        "metrics": dict(entry.metrics),
        "report": entry.report or None,
        "retrain": entry.retrain,
        "tags": dict(entry.tags),
    }


def _list(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    registry = _registry(args)
    versions, history = registry.list(), registry.history()
    if args.json:
        _print_json(
            {
                "name": registry.name,
                "versions": [_as_dict(v) for v in versions],
                "history": [asdict(change) for change in history],
            }
        )
        return 0
    if not versions:
        print(f"No version of {registry.name} is registered yet; `recsys nightly` makes one.")
        return 0
    rows = [["version", "aliases", "registered", *_headline(versions), "note"]]
    names = _headline(versions)
    for v in versions:
        numbers = [_number(v.metrics.get(name)) for name in names]
        note = f"retrain: {v.retrain}" if v.retrain else v.tags.get("gate", "")
        rows.append([str(v.version), ", ".join(v.aliases), v.created_at[:16], *numbers, note[:60]])
    _print_table(rows)
    if history:
        print("\nchampions:")
    for change in history[-10:]:
        print(
            f"  {change.at[:16]}  {change.action} {change.version}: {change.reason} ({change.by})"
        )
    return 0


def _headline(versions: "list[Version]") -> list[str]:
    """At most three metrics that some version has, the usual ones first."""
    names = list(dict.fromkeys(name for v in versions for name in v.metrics))
    usual = [name for name in HEADLINE if name in names]
    return (usual or names)[:3]


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


def _print_table(rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _show(args: argparse.Namespace) -> int:
    from recsys.bundle import open_bundle

    registry = _registry(args)
    version = registry.resolve(args.version)
    entry, path = registry.show(version), registry.local_path(version)
    bundle = open_bundle(path)
    facts = _as_dict(entry) | {
        "path": str(path),
        "items": bundle.n_items,
        "sources": list(bundle.sources),
        "fit_until": dict(bundle.fit_until),
        "data_window": bundle.manifest.get("data_window"),
        "code_version": bundle.manifest.get("code_version"),
        "precision": bundle.manifest.get("precision"),
    }
    if args.json:
        _print_json(facts)
        return 0
    for name, value in facts.items():
        if name == "tags":
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_number(item)}" for key, item in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        print(f"{name + ':':<14}{value if value not in (None, '') else '-'}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    """Two versions: paired on the lists both nights judged, else what each night measured."""
    registry = _registry(args)
    first, second = (
        registry.show(registry.resolve(name)) for name in (args.first, args.second or "champion")
    )
    paired = _paired(first, second)
    rows = {
        name: (value, second.metrics[name])
        for name, value in first.metrics.items()
        if isinstance(value, int | float) and isinstance(second.metrics.get(name), int | float)
    }
    if args.json:
        versions = [first.version, second.version]
        _print_json({"versions": versions, "metrics": rows, "paired": paired})
        return 0
    if not rows:
        print("The two versions have no metric in common; see their reports.")
        return 0
    table = [["metric", f"version {first.version}", f"version {second.version}", "difference"]]
    for name, (a, b) in rows.items():
        table.append([name, _number(float(a)), _number(float(b)), f"{a - b:+.4f}"])
    _print_table(table)
    print()
    if not paired:
        print("Each was measured on its own night's lists; none were judged by both.")
        return 0
    groups = max(int(entry["groups"] or 0) for entry in paired.values())
    print(f"On the {groups:,} lists that both nights judged, version {first.version} minus")
    print(f"version {second.version}, with 95 % intervals by user:")
    rows_paired = [
        [name, _signed(e["difference"]), f"[{_signed(e['low'])}, {_signed(e['high'])}]"]
        for name, e in paired.items()
    ]
    _print_table(rows_paired)
    return 0


def _paired(first: "Version", second: "Version") -> "Differences":
    from pathlib import Path

    from recsys.cli.paired import paired_differences

    if not first.report or not second.report:
        return {}
    return paired_differences(Path(first.report), Path(second.report), seed=0)


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"


def _promote(args: argparse.Namespace) -> int:
    registry = _registry(args)
    version, before = registry.resolve(args.version), registry.champion()
    registry.promote(version, args.reason)
    return _changed(args, registry, version, before)


def _rollback(args: argparse.Namespace) -> int:
    registry = _registry(args)
    before = registry.champion()
    return _changed(args, registry, registry.rollback(args.reason), before)


def _changed(
    args: argparse.Namespace, registry: "Registry", version: int, before: int | None
) -> int:
    if args.json:
        _print_json({"champion": version, "before": before, "changed": version != before})
    elif version == before:
        print(f"version {version} is the champion already; nothing changed")
    else:
        was = f" (was {before})" if before is not None else ""
        print(f"champion of {registry.name} is now version {version}{was}; running services follow")
    return 0
