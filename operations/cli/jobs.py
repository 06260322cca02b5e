"""Commands that train, evaluate and recommend: nightly, train, evaluate, recommend, demo."""

import argparse
import importlib
from collections.abc import Callable
from typing import Any


def add_parsers(subparsers: Any) -> None:
    """Register the commands of this room."""
    _add_nights(subparsers)
    _add_steps(subparsers)
    _add_lists(subparsers)
    demo = subparsers.add_parser("demo", help="everything, on bundled real data")
    demo.add_argument("dir", nargs="?", default="demo", metavar="DIR")
    demo.set_defaults(run=_later("cli.demo", "run_demo"))


def _add_nights(subparsers: Any) -> None:
    """Whole nights."""
    nightly = subparsers.add_parser("nightly", help="the night's retraining, gated and reversible")
    nightly.add_argument(
        "--until",
        metavar="DATE",
        help="use only events before this UTC date; nights missed before it are run first, in order",
    )
    nightly.add_argument(
        "--single", action="store_true", help="with --until: that night alone, none before it"
    )
    nightly.add_argument(
        "--dry-run", action="store_true", help="say which stages would run, and why; write nothing"
    )
    nightly.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="lines of progress as text (default), or a JSON document a line",
    )
    nightly.set_defaults(run=_later("cli.night_commands", "run_nightly"))

    backtest = subparsers.add_parser("backtest", help="the last N nights, simulated on history")
    backtest.add_argument("--nights", type=int, required=True, metavar="N")
    backtest.set_defaults(run=_later("backtest", "run_backtest"))


def _add_steps(subparsers: Any) -> None:
    """Single steps of a night."""
    train = subparsers.add_parser("train", help="a single step of the night")
    train.add_argument("step", choices=("encoder", "collaborative", "ranker"))
    train.add_argument(
        "--probe", action="store_true", help="encoder: compare models and strategies on this data"
    )
    train.add_argument(
        "--models", metavar="A,B", help="with --probe: names or folders (default: the config's own)"
    )
    train.add_argument(
        "--strategies", metavar="A,B", help="with --probe: of head, last_n, lora, full"
    )
    train.add_argument(
        "--search", type=float, metavar="MINUTES", help="encoder: search its rates for so long"
    )
    train.add_argument(
        "--inputs-only",
        metavar="DIR",
        help="encoder: write what the fit reads, for `recsys fit-encoder` on another machine",
    )
    train.add_argument(
        "--fitted", metavar="DIR", help="encoder: take what `recsys fit-encoder` left into use"
    )
    train.set_defaults(run=_later("cli.night_commands", "run_train"))

    fit = subparsers.add_parser(
        "fit-encoder", help="fit the encoder from a folder, without a workspace; under torchrun too"
    )
    fit.add_argument(
        "--inputs",
        required=True,
        metavar="DIR",
        help="written by `train encoder --inputs-only`; it says what people did",
    )
    fit.add_argument("--out", required=True, metavar="DIR", help="for `train encoder --fitted`")
    fit.set_defaults(run=_later("cli.fit_encoder", "run_fit_encoder"), many_processes=True)


def _add_lists(subparsers: Any) -> None:
    """What a registered model is asked."""
    evaluate = subparsers.add_parser("evaluate", help="report on a registered model")
    evaluate.add_argument("--model", metavar="models:/NAME/VERSION", help="default: the champion")
    evaluate.add_argument("--events", metavar="FILE", help="events that happened after the model")
    evaluate.add_argument("--impressions", metavar="FILE", help="lists shown after the model")
    evaluate.add_argument(
        "--protocol",
        choices=("window", "leave-last-out", "impressions"),
        help="what is asked of the events: all that users did next (window, the default), each "
        "user's last event at its own time, or each shown list ranked again",
    )
    evaluate.add_argument("--out", required=True, metavar="DIR", help="folder of the report")
    evaluate.set_defaults(run=_later("evaluate_release", "run_evaluate"))

    recommend = subparsers.add_parser("recommend", help="top-k lists as of the end of the data")
    who = recommend.add_mutually_exclusive_group()
    who.add_argument("--users", metavar="FILE", help="user ids: Parquet, CSV or one per line")
    who.add_argument("--all-users", action="store_true", help="every user of the tables (default)")
    recommend.add_argument("--k", type=int, default=100, help="items per user (default 100)")
    recommend.add_argument("--model", metavar="models:/NAME/VERSION", help="default: the champion")
    recommend.add_argument(
        "--keep-seen", action="store_true", help="also items the user already acted on"
    )
    recommend.add_argument(
        "--filters", metavar="JSON", help='what items must meet: \'{"price": {"lt": 30}}\''
    )
    recommend.add_argument(
        "--format",
        choices=("nested", "long"),
        default="nested",
        help="nested: a row per user with lists (default); long: user_id, item_id, rank, score",
    )
    recommend.add_argument(
        "--for-items",
        metavar="A,B",
        help="the other way about: the k users for whom each of these items stands highest",
    )
    recommend.add_argument("--out", required=True, metavar="FILE", help="Parquet file to write")
    recommend.set_defaults(run=_later("cli.recommend", "run_recommend"))


def _later(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    """A command of a module of operations that is imported when it is run: that may take seconds."""

    def run(args: argparse.Namespace) -> int:
        command = getattr(importlib.import_module(f"recsys.operations.{module}"), name)
        return int(command(args))

    return run
