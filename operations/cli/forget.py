"""`recsys forget-user`: remove a person from everything in the workspace and the log."""

import argparse
import json
from typing import Any


def add_parsers(subparsers: Any) -> None:
    """Register `forget-user`."""
    parser = subparsers.add_parser(
        "forget-user", help="remove a person from the workspace and the log"
    )
    parser.add_argument("user_id", metavar="USER_ID", help="the id as your tables write it")
    parser.add_argument("--json", action="store_true", help="the receipt on standard output")
    parser.set_defaults(run=_forget)


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
