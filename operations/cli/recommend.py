"""`recsys recommend`: top-k lists of many users as of the end of the data, or the users of some items, into
one Parquet file."""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import RecsysConfig, load_config, read_rules
from recsys.data_schemas.errors import ExitCode, UsageError
from recsys.operations.open_release import find_release
from recsys.operations.own_inputs import refuse_own_inputs
from recsys.operations.user_ids import read_users
from recsys.query import RankingQuery
from recsys.storage.opt_outs import unread_people

ROW_GROUP = 50_000
"""Rows of a row group: some MB, whatever the length of the lists."""

if TYPE_CHECKING:
    import pyarrow as pa

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
    refuse_own_inputs(out, "--out", config, args.config, {"--users": args.users})
    asked = read_users(Path(args.users)) if args.users else None
    release = find_release(config, args.model)
    loaded = release.open_whole()
    unread = unread_people(config, loaded.log_mark)
    users = asked
    if users is None or args.for_items:
        users = [u for u in users or loaded.state.user_ids() if u not in unread]
    if args.for_items:
        return _audiences(args, loaded, users, out)
    _lists(args, config, release, loaded, users, filters, out, unread)
    print(f"{len(users):,} lists of up to {args.k} items by version {loaded.version}: {out}")
    if asked is not None:
        _say_who_is_new(asked, loaded, unread)
    return ExitCode.DONE


def _say_who_is_new(asked: Sequence[str], loaded: "LoadedRelease", unread: frozenset[str]) -> None:
    wished = unread.intersection(asked)
    new = sum(not loaded.state.knows_user(user) for user in set(asked) - wished)
    for count, what in (
        (new, "of these users are unknown"),
        (len(wished), "of these users opted out or were forgotten"),
    ):
        if count:
            print(f"{count:,} {what}: theirs are the lists of somebody new")


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
    unread: frozenset[str],
) -> None:
    """One row per user, or per user and item."""
    from recsys.business_rules import ListRules
    from recsys.filters import allowed_by
    from recsys.operations.batch_lists import SCHEMA, ranked
    from recsys.storage.engines.scratch_parts import place_of

    # What is wrong is said before any work.
    rules = read_rules(config.serving.rules)
    allowed_by(loaded.state.catalogue, filters)
    ListRules(loaded.state.catalogue, rules)
    place = place_of(config)
    ask = RankingQuery(
        "",
        loaded.moment,
        k=args.k,
        keep_seen=args.keep_seen,
        caps=config.serving.caps,
        filters=filters,
        rules=rules,
    )
    schema = SCHEMA if args.format == "nested" else _long()
    with _written(out, schema, len(users)) as (write, done):
        for table in ranked(place, release, loaded, ask, users, done, unread):
            write(table if args.format == "nested" else _unnested(table))


def _unnested(table: "pa.Table") -> "pa.Table":
    """One row for each item of a list."""
    rows = [
        (user, item, n, score)
        for user, items, scores in zip(*table.to_pydict().values(), strict=True)
        for n, (item, score) in enumerate(zip(items, scores, strict=True), 1)
    ]
    return _as_long(rows)


def _as_long(rows: Sequence[tuple[str, str, int, float]]) -> "pa.Table":
    import pyarrow as pa

    schema = _long()
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)],
        schema=schema,
    )


def _audiences(
    args: argparse.Namespace, loaded: "LoadedRelease", users: Sequence[str], out: Path
) -> int:
    """The users of each item."""
    from recsys.operations.item_audiences import audiences

    items = list(dict.fromkeys(name for name in args.for_items.split(",") if name))
    with _written(out, _long(), len(items)) as (write, done):
        for rows in audiences(loaded, items, users, args.k, args.keep_seen):
            write(_as_long([(r[c.USER_ID], r[c.ITEM_ID], r[c.RANK], r[c.SCORE]) for r in rows]))
            done(1)
    print(
        f"up to {args.k} of {len(users):,} users for each of {len(items)} items by version "
        f"{loaded.version}: {out}"
    )
    return ExitCode.DONE


def _long() -> "pa.Schema":
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
def _written(
    out: Path, schema: "pa.Schema", steps: int
) -> Iterator[tuple[Callable[["pa.Table"], None], Callable[[int], None]]]:
    """(a function that takes tables, one that is told of steps done); the file is whole or not there.

    Its row groups are of one size, so that the bytes do not depend on how the tables were cut.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from recsys.storage.files import atomic_file
    from recsys.storage.progress import Reporter

    waiting: list[pa.Table] = []
    with (
        atomic_file(out) as aside,
        pq.ParquetWriter(aside, schema) as writer,
        Reporter().task("recommend", steps) as task,
    ):

        def flush(least: int) -> None:
            rows = pa.concat_tables(waiting) if waiting else schema.empty_table()
            while rows.num_rows >= max(least, 1):
                writer.write_table(rows.slice(0, ROW_GROUP).combine_chunks(), ROW_GROUP)
                rows = rows.slice(ROW_GROUP)
            waiting[:] = [rows]

        def write(table: pa.Table) -> None:
            waiting.append(table)
            if sum(t.num_rows for t in waiting) >= ROW_GROUP:
                flush(ROW_GROUP)

        yield write, task.advance
        flush(1)
