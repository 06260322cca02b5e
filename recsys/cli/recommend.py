"""`recsys recommend`: top-k lists of many users as of the end of the data, into one Parquet file."""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas import columns as c
from data_schemas.config import RecsysConfig, load_config
from data_schemas.errors import ExitCode, UsageError
from recsys.cli.live import open_runtime

if TYPE_CHECKING:
    from recsys.ranking import Runtime

CHUNK = 2000
"""Users ranked and written at a time; bounds memory."""


def run_recommend(args: argparse.Namespace) -> int:
    """Write user_id, item_ids, scores; one row per user, in the order asked."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from recsys.progress import Reporter

    if args.k < 1:
        raise UsageError("k must be at least 1", where="--k", found=args.k, expected="1 or more")
    config = load_config(args.config)
    out = Path(args.out)
    if not out.resolve().parent.is_dir():
        raise UsageError("the folder of the output does not exist", where="--out", found=out.parent)
    users = read_users(Path(args.users)) if args.users else all_users(config)
    schema = pa.schema(
        [
            (c.USER_ID, pa.string()),
            (c.ITEM_IDS, pa.list_(pa.string())),
            (c.SCORES, pa.list_(pa.float64())),
        ]
    )
    aside = out.with_name(f".{out.name}.{os.getpid()}.part")
    runtime = open_runtime(config, args.model)
    now = end_of_data(runtime)
    try:
        with (
            pq.ParquetWriter(aside, schema) as writer,
            Reporter().task("recommend", len(users)) as task,
        ):
            for chunk in _chunks(users):
                rows = [one_list(runtime, user, args.k, now, args.keep_seen) for user in chunk]
                writer.write_table(pa.Table.from_pylist(rows, schema))
                task.advance(len(chunk))
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    print(f"{len(users):,} lists of up to {args.k} items by version {runtime.version}: {out}")
    return ExitCode.DONE


def one_list(runtime: "Runtime", user: str, k: int, now: int, keep_seen: bool) -> dict[str, Any]:
    """One row of the output."""
    from recsys.asking import Ask

    answer = runtime.answer(Ask(user, now, k=k, keep_seen=keep_seen))
    return {c.USER_ID: user, c.ITEM_IDS: answer.item_ids, c.SCORES: answer.scores}


def end_of_data(runtime: "Runtime") -> int:
    """The moment just after the last event known, µs."""
    return runtime.state.last_time() + 1


def _chunks(users: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(users), CHUNK):
        yield users[start : start + CHUNK]


def all_users(config: RecsysConfig) -> list[str]:
    """Every user of the newest state, sorted."""
    from features.state import OnlineState
    from recsys.cli.live import state_folder

    return OnlineState.open(state_folder(config)).user_ids()


def read_users(file: Path) -> list[str]:
    """User ids of a Parquet file (column user_id), a CSV with that header, or one id per line.

    Raises:
        UsageError: the file is missing or has no such column.
    """
    if not file.is_file():
        raise UsageError("there is no such file", where="--users", found=str(file))
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        names = pq.read_schema(file).names
        if c.USER_ID not in names:
            raise UsageError(
                f"column '{c.USER_ID}' is missing",
                where=str(file),
                found=", ".join(names),
                expected=c.USER_ID,
            )
        column = pq.read_table(file, columns=[c.USER_ID])[c.USER_ID].to_pylist()
        return [str(user) for user in dict.fromkeys(column) if user is not None]
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    if lines and c.USER_ID in lines[0].split(","):
        place = lines[0].split(",").index(c.USER_ID)
        lines = [line.split(",")[place].strip() for line in lines[1:] if line]
    return [user for user in dict.fromkeys(lines) if user]
