"""`recsys recommend`: top-k lists of many users as of the end of the data, or the users of some items, into
one Parquet file."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import RecsysConfig, load_config, read_rules
from recsys.data_schemas.errors import ExitCode, UsageError
from recsys.operations.batch_lists import Row, ranked
from recsys.operations.open_release import find_release
from recsys.operations.user_ids import read_users
from recsys.query import RankingQuery

if TYPE_CHECKING:
    from recsys.operations.batch_lists import ReleaseFiles
    from recsys.recommender import LoadedRelease


def run_recommend(args: argparse.Namespace) -> int:
    """Write the lists; users in the order asked."""
    if args.k < 1:
        raise UsageError("k must be at least 1", where="--k", found=args.k, expected="1 or more")
    filters = _filters(args.filters)
    if args.for_items and filters:
        raise UsageError("filters are about lists of items", where="--filters", fix="leave it out")
    config = load_config(args.config)
    out = Path(args.out)
    if not out.resolve().parent.is_dir():
        raise UsageError("the folder of the output does not exist", where="--out", found=out.parent)
    if out.is_dir():
        raise UsageError("the output is a folder", where="--out", found=out, expected="a file")
    asked = read_users(Path(args.users)) if args.users else None
    release = find_release(config, args.model)
    loaded = release.open_whole()
    known = loaded.state.user_ids()
    users = known if asked is None else asked
    if args.for_items:
        return _audiences(args, loaded, users, out)
    _lists(args, config, release, loaded, users, filters, out)
    print(f"{len(users):,} lists of up to {args.k} items by version {loaded.version}: {out}")
    if new := len(set(users) - set(known)):
        print(f"{new:,} of these users are unknown: theirs are the lists of somebody new")
    return ExitCode.DONE


def _filters(text: str | None) -> Mapping[str, Any]:
    """The filters of the command line.

    Raises:
        UsageError: it is no JSON object.
    """
    try:
        given = json.loads(text) if text else {}
    except ValueError as error:
        raise UsageError(
            "the filters are no JSON",
            where="--filters",
            found=str(error),
            expected='an object, \'{"category": ["a", "b"], "price": {"lt": 30}}\'',
        ) from None
    if not isinstance(given, dict):
        raise UsageError("the filters are no object", where="--filters", found=text)
    return given


def _lists(
    args: argparse.Namespace,
    config: RecsysConfig,
    release: "ReleaseFiles",
    loaded: "LoadedRelease",
    users: Sequence[str],
    filters: Mapping[str, Any],
    out: Path,
) -> None:
    """One row per user, or per user and item."""
    import pyarrow as pa

    from recsys.business_rules import ListRules
    from recsys.filters import allowed_by

    # What is wrong is said before any work.
    rules = read_rules(config.serving.rules)
    allowed_by(loaded.state.catalogue, filters)
    ListRules(loaded.state.catalogue, rules)
    ask = RankingQuery(
        "",
        loaded.moment,
        k=args.k,
        keep_seen=args.keep_seen,
        caps=config.serving.caps,
        filters=filters,
        rules=rules,
    )
    nested = pa.schema(
        [
            (c.USER_ID, pa.string()),
            (c.ITEM_IDS, pa.list_(pa.string())),
            (c.SCORES, pa.list_(pa.float64())),
        ]
    )
    with _written(out, nested if args.format == "nested" else _long(), len(users)) as write:
        for rows in ranked(release, loaded, ask, users):
            write(rows if args.format == "nested" else _unnested(rows), len(rows))


def _unnested(rows: Sequence[Row]) -> list[Row]:
    """One row for each item of a list."""
    return [
        {c.USER_ID: row[c.USER_ID], c.ITEM_ID: item, c.RANK: n, c.SCORE: score}
        for row in rows
        for n, (item, score) in enumerate(zip(row[c.ITEM_IDS], row[c.SCORES], strict=True), 1)
    ]


def _audiences(
    args: argparse.Namespace, loaded: "LoadedRelease", users: Sequence[str], out: Path
) -> int:
    """The users of each item."""
    from recsys.operations.item_audiences import audiences

    items = list(dict.fromkeys(name for name in args.for_items.split(",") if name))
    with _written(out, _long(), len(items)) as write:
        for rows in audiences(loaded, items, users, args.k, args.keep_seen):
            write(rows, 1)
    print(
        f"up to {args.k} of {len(users):,} users for each of {len(items)} items by version "
        f"{loaded.version}: {out}"
    )
    return ExitCode.DONE


def _long() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            (c.USER_ID, pa.string()),
            (c.ITEM_ID, pa.string()),
            (c.RANK, pa.int64()),
            (c.SCORE, pa.float64()),
        ]
    )


@contextmanager
def _written(out: Path, schema: Any, steps: int) -> Iterator[Any]:
    """A function that takes (rows, steps done); the file is whole or not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from recsys.storage.files import atomic_file
    from recsys.storage.progress import Reporter

    with (
        atomic_file(out) as aside,
        pq.ParquetWriter(aside, schema) as writer,
        Reporter().task("recommend", steps) as task,
    ):

        def write(rows: Sequence[Row], done: int) -> None:
            writer.write_table(pa.Table.from_pylist(rows, schema))
            task.advance(done)

        yield write
