"""`recsys experiments`: start, stop, list, report."""

import argparse
from pathlib import Path
from typing import Any

from recsys.data_schemas.errors import ExitCode


def add_parsers(subparsers: Any) -> None:
    """Register `experiments` and its verbs."""
    experiments = subparsers.add_parser(
        "experiments", help="hold two versions against each other on live people"
    )
    verbs = experiments.add_subparsers(dest="verb", metavar="VERB", required=True)

    start = verbs.add_parser("start", help="deal people to two versions, from now on")
    start.add_argument("name", metavar="NAME", help="by which its lists are logged")
    start.add_argument("--challenger", required=True, metavar="VERSION", help="the version tried")
    start.add_argument(
        "--control",
        metavar="VERSION",
        help="held against it: the champion of now when absent; `champion`: whichever it is",
    )
    start.add_argument(
        "--kind",
        choices=("ab", "interleave"),
        default="ab",
        help="ab: each unit gets one version (default); interleave: each list holds both",
    )
    start.add_argument("--share", type=float, help="of the units: ab .5, interleave 1 when absent")
    start.set_defaults(run=_start)

    stop = verbs.add_parser("stop", help="end it; its result stays")
    stop.add_argument("name", metavar="NAME")
    stop.add_argument("--reason", default="", help="kept with it")
    stop.set_defaults(run=_stop)

    show = verbs.add_parser("list", help="all that were started")
    show.add_argument("--json", action="store_true", help="one JSON document")
    show.set_defaults(run=_list)

    report = verbs.add_parser("report", help="what it came to, as a page and in lines")
    report.add_argument("name", metavar="NAME")
    report.add_argument("--out", metavar="DIR", help="folder of the page")
    report.add_argument("--json", action="store_true", help="one JSON document")
    report.set_defaults(run=_report)


def _start(args: argparse.Namespace) -> int:
    from recsys.data_schemas.config import load_config
    from recsys.operations.run_experiments import start

    share = args.share if args.share is not None else 0.5 if args.kind == "ab" else 1.0
    config = load_config(args.config)
    new = start(config, args.name, args.kind, args.challenger, args.control, share)
    against = f"version {new.control}" if new.control else "the champion"
    print(
        f"{new.name} runs: version {new.challenger} against {against}; services take it up within "
        f"seconds\nSee `recsys experiments report {new.name} -c {args.config}`."
    )
    return ExitCode.DONE


def _stop(args: argparse.Namespace) -> int:
    from recsys.data_schemas.config import load_config
    from recsys.operations.run_experiments import stop

    stop(load_config(args.config), args.name, args.reason)
    print(f"{args.name} is stopped: everybody gets the champion within seconds")
    return ExitCode.DONE


def _list(args: argparse.Namespace) -> int:
    from recsys.data_schemas.config import load_config
    from recsys.operations.run_experiments import listed, listed_json
    from recsys.storage.experiment_records import read_experiments
    from recsys.storage.workspace import Workspace

    found = read_experiments(Workspace(load_config(args.config).workspace_path))
    print(listed_json(found) if args.json else listed(found))
    return ExitCode.DONE


def _report(args: argparse.Namespace) -> int:
    import json

    from recsys.data_schemas.config import load_config
    from recsys.evaluation.experiment_analysis import as_json
    from recsys.operations.own_inputs import refuse_own_inputs
    from recsys.operations.run_experiments import report, result_lines

    config, out = load_config(args.config), Path(args.out) if args.out else None
    if out is not None:
        refuse_own_inputs(out, "--out", config, args.config, writes=("experiment.*",))
    result, page = report(config, args.name, out)
    if args.json:
        print(json.dumps({"page": str(page), **as_json(result)}, indent=2))
    else:
        print("\n".join(result_lines(result, page)))
    return ExitCode.DONE
