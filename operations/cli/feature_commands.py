"""`recsys features`: what the ranker reads, and whether it is read the same offline and online."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys.data_schemas.config import RecsysConfig
    from recsys.features.feature_set import FeatureSet

VOCABULARY = "items.parquet"
"""Every item of the workspace, below `tables/`."""
ROWS_SCANNED = 300_000
"""Rows of the last night that are looked through for leaks, at most."""


def add_parsers(subparsers: Any) -> None:
    """Register `features` and its verbs."""
    features = subparsers.add_parser("features", help="the ranker's columns: list and check them")
    verbs = features.add_subparsers(dest="verb", metavar="VERB", required=True)

    listing = verbs.add_parser("list", help="columns, and what each gained the champion")
    listing.add_argument("--json", action="store_true", help="one JSON document")
    listing.set_defaults(run=_list)

    check = verbs.add_parser(
        "check", help="compare batch and online readings, and look for future knowledge"
    )
    check.add_argument("--worlds", type=int, default=3, help="random worlds to try (default: 3)")
    check.set_defaults(run=_check)


def _list(args: argparse.Namespace) -> int:
    from recsys.data_schemas.config import load_config
    from recsys.storage.registry import Registry

    config = load_config(args.config)
    version = Registry(config).champion()
    if version is None:
        gain: dict[str, float] = {}
        features, note = _planned(config), "no champion yet: what the next night plans"
    else:
        features, gain = _champion(config, version)
        note = f"champion of {config.name}: version {version}"
    rows = _facts(features, gain)
    if args.json:
        print(json.dumps({"of": note, "features": rows}, indent=2, ensure_ascii=False))
        return 0
    print(note)
    names = ("name", "kind", "family", "entity", "default", "cost", "gain")
    table = [names, *(tuple(str(row[name]) for name in names) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(names))]
    for row in table:
        print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
    return 0


def _champion(config: "RecsysConfig", version: int) -> "tuple[FeatureSet, dict[str, float]]":
    """The champion's features and each one's share of the trees' gain."""
    from recsys.features.feature_set import FeatureSet
    from recsys.ranker import Ranker
    from recsys.retrieval.source_kinds import load_source
    from recsys.storage.bundle import open_bundle
    from recsys.storage.registry import Registry

    bundle = open_bundle(Registry(config).local_path(version))
    gain = Ranker.load(bundle.ranker).gain()
    total = sum(gain.values()) or 1.0
    for folder in bundle.sources.values():
        load_source(folder)  # its class says of which family its signals are
    shares = {name: value / total for name, value in gain.items()}
    return FeatureSet.from_json(bundle.features), shares


def _planned(config: "RecsysConfig") -> "FeatureSet":
    """The default set as far as it is known without recall's signals and the night's data."""
    from recsys.features.catalogue import Catalogue
    from recsys.features.feature_set import FeatureSet

    catalogue = Catalogue.from_table(_items(config))
    return FeatureSet.default(catalogue, _types(config), (), config.features, impressions=True)


def _types(config: "RecsysConfig") -> tuple[str, ...]:
    """Event types that the config names, the defaults with them unless it replaces those."""
    return tuple(config.events.meaning().types)


def _items(config: "RecsysConfig") -> Any:
    """Arrow table of some of the workspace's items; made-up ones before the first night."""
    import pyarrow.parquet as pq

    from recsys.features.features_check import ITEMS_TRIED
    from recsys.features.random_world import N_ITEMS, item_table

    file = _vocabulary(config)
    return pq.read_table(file).slice(0, ITEMS_TRIED) if file.is_file() else item_table(N_ITEMS)


def _vocabulary(config: "RecsysConfig") -> Path:
    return config.workspace_path / "tables" / VOCABULARY


def _facts(features: "FeatureSet", gain: dict[str, float]) -> list[dict[str, Any]]:
    rows = []
    for feature in features.features:
        share = gain.get(feature.column)
        rows.append(
            {
                "name": feature.column,
                "kind": type(feature).__name__,
                "family": feature.group,
                "entity": feature.entity,
                "default": "unknown" if feature.default != feature.default else feature.default,
                "cost": feature.cost,
                "gain": "" if share is None else f"{share:.1%}",
            }
        )
    return rows


def _check(args: argparse.Namespace) -> int:
    from recsys.data_schemas.config import load_config
    from recsys.data_schemas.errors import ExitCode
    from recsys.features.feature_set import own_feature
    from recsys.features.features_check import check

    config = load_config(args.config)
    own = [own_feature(name) for name in config.features.own]
    if own and not _vocabulary(config).is_file():
        print("no night has run yet: tried on made-up items, which lack columns of your own")
    features = _planned(config).features
    found = check(
        features,
        types=_types(config),
        table=_items(config),
        bucket=config.features.bucket,
        worlds=max(1, args.worlds),
    )
    for finding in found:
        print(f"REFUSED  {finding.column}\n         {finding.problem}")
    sound = len(features) - len(found)
    print(
        f"{sound} of {len(features)} features ({len(own)} of your own) read the same in batch and "
        f"online and see nothing of the future"
    )
    _print_suspects(config)
    return ExitCode.PROMOTION_REFUSED if found else ExitCode.DONE


def _print_suspects(config: "RecsysConfig") -> None:
    """Scan the rows that the last night's ranker learnt from, where a night has run. Few rows can
    look suspicious by chance, so this says what to look at and refuses nothing."""
    from recsys.storage.workspace import Workspace

    folder = Workspace(config.workspace_path).newest_output("groups-ranker")
    if folder is None:
        return
    import numpy as np

    from recsys.features.future_check import scan
    from recsys.features.ragged import owners_of
    from recsys.storage.stages.rest import wake
    from recsys.training.night.products import RankingData

    wake(folder)  # compressed since the night ended
    ranking = RankingData.read(folder)
    last = int(np.searchsorted(ranking.table.offsets, ROWS_SCANNED, "right")) - 1
    offsets = ranking.table.offsets[: max(last, 1) + 1]
    # Groups in the order of their time: the later ones are held against the earlier.
    rank = np.argsort(np.argsort(ranking.moments.time[: len(offsets) - 1], kind="stable"))
    rows, names = int(offsets[-1]), ranking.features.columns
    group = rank[owners_of(offsets)]
    suspects = scan(np.asarray(ranking.x[:rows]), ranking.table.grade[:rows], group, names)
    for suspect in suspects:
        print(f"SUSPECT  {suspect.name}\n         {suspect.why}")
    print(f"{len(suspects)} of {len(names)} columns of the last night's {rows:,} rows look leaky")
