"""`recsys recommend`: top-k lists of many users as of the end of the data, into one Parquet file."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import load_config
from recsys.data_schemas.errors import ExitCode, UsageError
from recsys.operations.batch_lists import ranked
from recsys.operations.open_release import find_release
from recsys.operations.user_ids import read_users
from recsys.query import RankingQuery

if TYPE_CHECKING:
    pass


def run_recommend(args: argparse.Namespace) -> int:
    """Write user_id, item_ids, scores; one row per user, in the order asked."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from recsys.storage.progress import Reporter

    if args.k < 1:
        raise UsageError("k must be at least 1", where="--k", found=args.k, expected="1 or more")
    config = load_config(args.config)
    out = Path(args.out)
    if not out.resolve().parent.is_dir():
        raise UsageError("the folder of the output does not exist", where="--out", found=out.parent)
    if out.is_dir():
        raise UsageError("the output is a folder", where="--out", found=out, expected="a file")
    asked = read_users(Path(args.users)) if args.users else None
    schema = pa.schema(
        [
            (c.USER_ID, pa.string()),
            (c.ITEM_IDS, pa.list_(pa.string())),
            (c.SCORES, pa.list_(pa.float64())),
        ]
    )
    aside = out.with_name(f".{out.name}.{os.getpid()}.part")
    release = find_release(config, args.model)
    loaded = release.open_whole()
    known = loaded.state.user_ids()
    users = known if asked is None else asked
    caps = config.serving.caps
    ask = RankingQuery("", loaded.moment, k=args.k, keep_seen=args.keep_seen, caps=caps)
    try:
        with (
            pq.ParquetWriter(aside, schema) as writer,
            Reporter().task("recommend", len(users)) as task,
        ):
            for rows in ranked(release, loaded, ask, users):
                writer.write_table(pa.Table.from_pylist(rows, schema))
                task.advance(len(rows))
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    print(f"{len(users):,} lists of up to {args.k} items by version {loaded.version}: {out}")
    if new := len(set(users) - set(known)):
        print(f"{new:,} of these users are unknown: theirs are the lists of somebody new")
    return ExitCode.DONE
