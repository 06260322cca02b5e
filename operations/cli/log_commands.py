"""`recsys log`: what the durable log says of itself, and repairs that are made on purpose."""

import argparse
from typing import Any

from recsys.data_schemas.errors import ExitCode


def add_parsers(subparsers: Any) -> None:
    """Register `log` and its verbs."""
    log = subparsers.add_parser("log", help="the durable log: show it, adopt another, repair it")
    verbs = log.add_subparsers(dest="verb", metavar="VERB", required=True)

    show = verbs.add_parser(
        "show", help="identity and end of the log, and whether it is the one read"
    )
    show.set_defaults(run=_show)

    adopt = verbs.add_parser("adopt", help="say that the log was replaced on purpose")
    adopt.add_argument(
        "--from",
        dest="former",
        metavar="ADDRESS",
        help="the former log, where it can still be read: what was not drained is taken along",
    )
    adopt.add_argument(
        "--without-drained",
        action="store_true",
        help="go on where what was drained of the former log is no longer kept",
    )
    adopt.add_argument("--json", action="store_true", help="one JSON document")
    adopt.set_defaults(run=_adopt)

    restamp = verbs.add_parser("restamp", help="repair stamps that a wrong clock gave")
    restamp.set_defaults(run=_restamp)


def _show(args: argparse.Namespace) -> int:
    from recsys.data_schemas.config import load_config
    from recsys.storage.eventlog.known import standing_lines

    print("\n".join(standing_lines(load_config(args.config))))
    return ExitCode.DONE


def _adopt(args: argparse.Namespace) -> int:
    from recsys.data_schemas.config import load_config
    from recsys.storage.eventlog.adopt import adopt_log, as_json, describe

    done = adopt_log(load_config(args.config), args.former, without_drained=args.without_drained)
    print(as_json(done) if args.json else describe(done))
    return ExitCode.DONE


def _restamp(args: argparse.Namespace) -> int:
    from datetime import timedelta

    from recsys.data_schemas.config import load_config
    from recsys.storage.eventlog.restamp import restamp_log

    done = restamp_log(load_config(args.config))
    if not done.records:
        print("nothing to do: no stamp lies ahead of this machine's clock")
        return ExitCode.DONE
    ahead = timedelta(seconds=done.furthest // 1_000_000)
    print(
        f"{done.records} records from position {done.first} on were stamped anew; "
        f"they lay up to {ahead} ahead\nThe next night drains the log anew; restart the services."
    )
    return ExitCode.DONE
