"""What a person may ask for: `recsys forget-user`, `recsys export-user` and `recsys opt-out`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

_USER_ID: Final[dict[str, Any]] = {
    "metavar": "USER_ID",
    "help": "the id as your tables write it",
}


def add_parsers(subparsers: Any) -> None:
    """Register the three."""
    forget = subparsers.add_parser(
        "forget-user", help="remove a person from the workspace and the log"
    )
    forget.add_argument("user_id", **_USER_ID)
    forget.add_argument("--json", action="store_true", help="the receipt on standard output")
    forget.set_defaults(run=_forget)
    export = subparsers.add_parser("export-user", help="all that is kept of a person, as JSON")
    export.add_argument("user_id", **_USER_ID)
    export.add_argument("--out", metavar="FILE", help="write it here (default: standard output)")
    export.set_defaults(run=_export)
    opt = subparsers.add_parser(
        "opt-out", help="serve a person as somebody new, and learn nothing from them"
    )
    opt.add_argument("user_id", **_USER_ID)
    opt.add_argument("--undo", action="store_true", help="take the wish back")
    opt.set_defaults(run=_opt_out)


def _forget(args: argparse.Namespace) -> int:
    from recsys.data_schemas.config import load_config
    from recsys.operations.forget_user import forget_user

    receipt = forget_user(load_config(args.config), args.user_id)
    if args.json:
        print(json.dumps(receipt.as_json(), indent=2, ensure_ascii=False))
        return 0
    print(f"user {receipt.user_id} was forgotten at {receipt.at}")
    for place in receipt.places:
        print(f"\n{place.where}\n  removed:  {place.removed}\n  remains:  {place.remains}")
    if receipt.retrain:
        print("\nRun `recsys nightly` to retrain without this person.")
    return 0


def _export(args: argparse.Namespace) -> int:
    from recsys.data_schemas.config import load_config
    from recsys.operations.export_user import as_text, export_user, write_export
    from recsys.operations.own_inputs import refuse_own_inputs

    config = load_config(args.config)
    if args.out is not None:
        refuse_own_inputs(Path(args.out), "--out", config, args.config)
    found = export_user(config, args.user_id)
    if args.out is None:
        # Not through the terminal's redaction: it is the person's own data, whole.
        sys.stdout.write(as_text(found))
        return 0
    write_export(found, Path(args.out))
    rows = sum(map(len, found["tables"].values()))
    print(f"{rows} rows of tables and {len(found['log'])} records of the log written to {args.out}")
    return 0


def _opt_out(args: argparse.Namespace) -> int:
    from recsys.data_schemas.config import load_config
    from recsys.operations.user_ids import require_id
    from recsys.storage.eventlog.log import now_us
    from recsys.storage.opt_outs import all_wishes, opt_in, opt_out
    from recsys.storage.workspace import Workspace

    config = load_config(args.config)
    workspace = Workspace(config.workspace_path)
    require_id(args.user_id)
    if args.undo:
        wish = all_wishes(config).get(args.user_id)
        known = wish is not None and wish.out
        if known:
            opt_in(workspace, args.user_id, now_us())
        print(
            f"user {args.user_id} is learned from again, from the next night on"
            if known
            else f"user {args.user_id} had not opted out"
        )
        return 0
    opt_out(workspace, args.user_id, now_us())
    print(
        f"user {args.user_id} opted out: the service answers them as somebody new within seconds,\n"
        "and from the next night on no table, model or report holds them; `recsys forget-user`\n"
        "also removes what is kept"
    )
    return 0
