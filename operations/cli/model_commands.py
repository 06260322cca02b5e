"""`recsys models`: which releases there are, which one serves, and how to change that."""

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from recsys.data_schemas.config import RecsysConfig
    from recsys.evaluation.comparison import Comparison
    from recsys.storage.registry import Registry, Version

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

    compare = verbs.add_parser("compare", help="two versions on the same rows, as a page")
    compare.add_argument("first", metavar="VERSION")
    compare.add_argument("second", nargs="?", metavar="VERSION", help="default: the champion")
    compare.add_argument(
        "--events", metavar="FILE", help="events after both; else the lists that both nights hold"
    )
    compare.add_argument(
        "--out", metavar="DIR", help="folder of the page; default: in the workspace's reports"
    )
    compare.set_defaults(run=_compare)

    promote = verbs.add_parser("promote", help="make a version the champion")
    promote.add_argument("version", metavar="VERSION", help="number or alias")
    promote.add_argument("--reason", default="promoted by hand", help="kept in the history")
    promote.set_defaults(run=_promote)

    rollback = verbs.add_parser("rollback", help="return to the champion before")
    rollback.add_argument("--reason", default="rolled back by hand", help="kept in the history")
    rollback.set_defaults(run=_rollback)

    export = verbs.add_parser(
        "export-encoder", help="the tuned encoder as a folder that SentenceTransformer loads"
    )
    export.add_argument("version", nargs="?", metavar="VERSION", help="default: the champion")
    export.add_argument("--to", required=True, metavar="DIR", help="a new folder")
    export.set_defaults(run=_export_encoder)

    for verb in (listing, show, compare, promote, rollback, export):
        verb.add_argument(
            "--json", action="store_true", help="one JSON document on standard output"
        )


def _registry(args: argparse.Namespace) -> "Registry":
    from recsys.data_schemas.config import load_config
    from recsys.storage.registry import Registry

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
    from recsys.storage.bundle import open_bundle

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
    """Two versions on the same rows as a page; where there are none, what each night measured."""
    from recsys.data_schemas.config import load_config
    from recsys.operations import compare_releases
    from recsys.storage.registry import Registry

    config = load_config(args.config)
    out = None if args.out is None else _compare_folder(args, config)
    registry = Registry(config)
    first, second = (
        registry.show(registry.resolve(name)) for name in (args.first, args.second or "champion")
    )
    rows = (
        compare_releases.on_events(config, first.version, second.version, args.events)
        if args.events
        else compare_releases.on_saved_lists(first, second)
    )
    if rows is None:
        _print_apart(args, first, second)
        return 0
    from recsys.operations.open_release import load_release

    out = out or config.workspace_path / "reports" / f"compare-{first.version}-{second.version}"
    loaded = load_release(config, f"models:/{config.name}/{first.version}")
    comparison = compare_releases.compare(config, loaded, rows, out)
    page = out / "compare.html"
    if args.json:
        paired = compare_releases.as_json(comparison, rows, page)
        _print_json(_side_by_side(first, second) | {"paired": paired})
        return compare_releases.exit_code(rows)
    _print_comparison(comparison, rows.how)
    for leak in rows.leaks:
        print(f"leak: {leak}")
    print(f"page: {page}")
    return compare_releases.exit_code(rows)


def _compare_folder(args: argparse.Namespace, config: "RecsysConfig") -> "Path":
    """The folder that was named for the page, before any work."""
    from pathlib import Path

    from recsys.data_schemas.errors import UsageError
    from recsys.operations.own_inputs import refuse_own_inputs

    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise UsageError("the output is not a folder", where="--out", found=out)
    inputs = {"--events": args.events}
    refuse_own_inputs(out, "--out", config, args.config, inputs, writes=("compare.*",))
    return out


def _print_comparison(comparison: "Comparison", how: str) -> None:
    from recsys.evaluation.page import verdict

    e, moved = comparison.evaluation, comparison.evaluation.differences[comparison.older]
    print(f"On {how}, with 95 % intervals by user:")
    label = f"{e.main} − {comparison.older}"
    rows = [["metric", comparison.older, e.main, label, "interval", "verdict"]]
    for name, d in moved.items():
        i = d.interval
        values = [_number(e.systems[s][name].value) for s in (comparison.older, e.main)]
        interval = f"[{_signed(i.low)}, {_signed(i.high)}]"
        rows.append([name, *values, _signed(i.value), interval, d.verdict])
    _print_table(rows)
    print(
        f"\n{verdict(e)}\n{comparison.gained:,} lists got better, {comparison.lost:,} worse, "
        f"{comparison.unchanged:,} stayed as they were."
    )


def _side_by_side(first: "Version", second: "Version") -> dict[str, Any]:
    """What each night measured, where both measured it."""
    rows = {
        name: (value, second.metrics[name])
        for name, value in first.metrics.items()
        if isinstance(value, int | float) and isinstance(second.metrics.get(name), int | float)
    }
    return {"versions": [first.version, second.version], "metrics": rows}


def _print_apart(args: argparse.Namespace, first: "Version", second: "Version") -> None:
    """Two versions that no list was asked of both: their own nights' figures, not to be compared."""
    found = _side_by_side(first, second)
    if args.json:
        _print_json(found | {"paired": {}})
        return
    if not found["metrics"]:
        print("The two versions have no metric in common; see their reports.")
        return
    table = [["metric", f"version {first.version}", f"version {second.version}", "difference"]]
    for name, (a, b) in found["metrics"].items():
        table.append([name, _number(float(a)), _number(float(b)), f"{a - b:+.4f}"])
    _print_table(table)
    print(
        "\nEach was measured on its own night's lists; no list is in both, so the differences\n"
        "say little. Give events that came after both: recsys models compare "
        f"{first.version} {second.version} --events FILE"
    )


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"


def _promote(args: argparse.Namespace) -> int:
    registry = _registry(args)
    version, before = registry.resolve(args.version), registry.champion()
    registry.promote(version, args.reason)
    return _changed(args, registry, version, before)


def _export_encoder(args: argparse.Namespace) -> int:
    from pathlib import Path

    from recsys.data_schemas.config import load_config
    from recsys.operations.export_encoder import export_encoder
    from recsys.operations.own_inputs import ALL, refuse_own_inputs

    refuse_own_inputs(Path(args.to), "--to", load_config(args.config), args.config, writes=ALL)
    registry = _registry(args)
    version = registry.resolve(args.version)
    name = f"{registry.name} version {version}"
    folder = export_encoder(registry.local_path(version), Path(args.to), name)
    if args.json:
        _print_json({"version": version, "encoder": str(folder)})
    else:
        print(f"encoder of {name}: {folder}; SentenceTransformer({str(folder)!r}) loads it")
    return 0


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
