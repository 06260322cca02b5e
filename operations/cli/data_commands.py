"""Commands on data and settings: validate, init, schema, import, generate."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys.data_schemas.errors import RecsysError
    from recsys.ingestion.tables.load import Tables

IMPORTS = ("movielens", "amazon", "mind", "ebnerd")


def add_parsers(subparsers: Any) -> None:
    """Register the commands of this room."""
    validate = subparsers.add_parser("validate", help="check the tables and say what to do")
    validate.add_argument(
        "--quarantine", metavar="DIR", help="also write the rows that break a rule there"
    )
    validate.set_defaults(run=run_validate)

    init = subparsers.add_parser("init", help="a commented recsys.yaml and empty tables to fill")
    init.add_argument("dir", metavar="DIR")
    init.set_defaults(run=run_init)

    schema = subparsers.add_parser("schema", help="the JSON schema of recsys.yaml, for editors")
    schema.set_defaults(run=run_schema)

    importer = subparsers.add_parser("import", help="convert a published data set")
    importer.add_argument("format", choices=IMPORTS)
    importer.add_argument("source", metavar="SRC", help="folder of the data set, unpacked")
    importer.add_argument("--to", required=True, metavar="DIR")
    importer.set_defaults(run=run_import)

    generate = subparsers.add_parser("generate", help="synthetic logs with known truth")
    generate.add_argument("--users", type=int, required=True, metavar="N")
    generate.add_argument("--items", type=int, required=True, metavar="N")
    generate.add_argument("--days", type=int, required=True, metavar="N")
    generate.add_argument("--seed", type=int, default=7, metavar="N")
    generate.add_argument("--to", required=True, metavar="DIR")
    generate.add_argument(
        "--lists-per-user",
        type=float,
        default=None,
        metavar="X",
        help="lists shown to a user per day, on average (default 0.5)",
    )
    generate.add_argument(
        "--events-per-user",
        type=float,
        default=None,
        metavar="X",
        help="events of a user over all days, on average; sets --lists-per-user",
    )
    generate.set_defaults(run=run_generate)


def run_validate(args: argparse.Namespace) -> int:
    """Check the tables as a night would and print what was found; writes nothing of them.

    Raises:
        DataRefused, UsageError: every night would refuse them, or settings that name their columns.
    """
    import os
    import shutil
    import tempfile

    from recsys.data_schemas.config import load_config
    from recsys.ingestion.tables.ingest import QUARANTINE, ingest
    from recsys.ingestion.tables.load import load_tables
    from recsys.ingestion.tables.validation_report import render
    from recsys.operations.own_inputs import ALL, refuse_own_inputs
    from recsys.storage.eventlog import log_address
    from recsys.storage.eventlog.open_log import never_written
    from recsys.storage.files import atomic_folder

    config = load_config(args.config)
    if args.quarantine:
        refuse_own_inputs(Path(args.quarantine), "--quarantine", config, args.config, writes=ALL)
    # What spills is as large as the tables: rather the workspace's disk than a small /tmp.
    room = config.workspace_path if os.access(config.workspace_path, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".validate-", dir=room) as place:
        summary = ingest(config, Path(place) / "tables")
        tables = load_tables(Path(place) / "tables", config)
        refused, notes = _refusal(tables, config), list(config.notes)
        if refused is not None and not never_written(log_address(config)):
            notes.append(f"{refused.what} of these files; a night reads the service's log too")
            refused = None
        print(render(summary, usable=refused is None))
        print("".join(f"\nnote: {note}\n" for note in notes), end="")
        print(_leaks(tables, Path(place) / "tables", config))
        found = Path(place) / "tables" / QUARANTINE
        if args.quarantine and found.is_dir():
            target = Path(args.quarantine)
            with atomic_folder(target) as aside:
                shutil.copytree(found, aside, dirs_exist_ok=True)
            print(f"\nThe rows that break a rule are in {target}.")
        if refused is not None:
            raise refused
    return 0


def _refusal(tables: "Tables", config: Any) -> "RecsysError | None":
    """What every night would say before its work, of tables in which each row is sound."""
    from recsys.data_schemas.errors import RecsysError
    from recsys.training.night.read_data import refuse_unusable

    try:
        refuse_unusable(tables, config)
    except RecsysError as error:
        return error
    return None


def _leaks(tables: "Tables", folder: Path, config: Any) -> str:
    """What a night would say of leaks in the tables."""
    from recsys.training.night.data_leaks import find_leaks

    failed = [f.check for f in find_leaks(tables, folder, config) if not f.check.passed]
    if not failed:
        return "No leak was found in the tables."
    what = {"refuse": "promotion is refused", "drop": "the column is left out", "warn": "a warning"}
    lines = [f"  {what[c.outcome]}: {c.name}: not so, {c.detail}" for c in failed]
    return "\n".join(["", "Leaks that a night would find:", *lines])


def run_init(args: argparse.Namespace) -> int:
    """Lay out a workspace to fill."""
    from recsys.ingestion.tables.init_folder import start_workspace
    from recsys.operations.own_inputs import ALL, refuse_own_inputs

    refuse_own_inputs(Path(args.dir), "DIR", None, None, writes=ALL)
    config = start_workspace(Path(args.dir), _schema())
    print(
        f"Wrote {config} and empty tables in {config.parent / 'data'}.\n"
        "Replace them by exports of your own with the same columns (those not required may be\n"
        f"left out), then run: recsys validate -c {config}"
    )
    return 0


def run_schema(args: argparse.Namespace) -> int:
    """Print the JSON schema of recsys.yaml."""
    print(_schema(), end="")
    return 0


def _schema() -> str:
    """The settings, with what sources and metrics declare of themselves."""
    from recsys.data_schemas.config_file import schema_text
    from recsys.evaluation import metrics
    from recsys.retrieval import source_kinds

    return schema_text({**source_kinds.settings_schema(), **metrics.settings_schema()})


def run_import(args: argparse.Namespace) -> int:
    """Convert a published data set into tables and a recsys.yaml."""
    from recsys.ingestion.importers import import_dataset
    from recsys.operations.own_inputs import ALL, refuse_own_inputs

    refuse_own_inputs(Path(args.to), "--to", None, None, writes=ALL)
    counts = import_dataset(args.format, Path(args.source), Path(args.to))
    for table, rows in counts.items():
        print(f"{table:12} {rows:>12,} rows")
    config = Path(args.to) / "recsys.yaml"
    for line in config.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            print(line.removeprefix("# "))
    print(f"next: recsys validate -c {config}")
    return 0


def run_generate(args: argparse.Namespace) -> int:
    """Write synthetic tables with known truth."""
    from recsys.ingestion.generator import generate, settings_of
    from recsys.operations.own_inputs import ALL, refuse_own_inputs
    from recsys.storage.progress import Reporter

    refuse_own_inputs(Path(args.to), "--to", None, None, writes=ALL)
    settings = settings_of(
        users=args.users,
        items=args.items,
        days=args.days,
        seed=args.seed,
        lists_per_user=args.lists_per_user,
        events_per_user=args.events_per_user,
    )
    counts = generate(settings, Path(args.to), Reporter())
    for table, rows in counts.items():
        print(f"{table:12} {rows:>12,} rows")
    print(f"next: recsys validate -c {Path(args.to) / 'recsys.yaml'}")
    return 0
