"""Which users a command is asked for: a file of ids in any of the shapes people have at hand."""

import csv
from pathlib import Path

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import UsageError

OPTION = "--users"


def read_users(file: Path) -> list[str]:
    """User ids of a Parquet file (column user_id), a CSV with that header, or one id per line;
    each once, in the order of the file.

    Raises:
        UsageError: the file is missing, cannot be read, has no such column or names nobody.
    """
    if not file.is_file():
        raise UsageError("there is no such file", where=OPTION, found=str(file))
    found = _of_parquet(file) if file.suffix == ".parquet" else _of_text(file)
    users = [str(user).strip() for user in found if user is not None]
    users = [user for user in dict.fromkeys(users) if user]
    if not users:
        raise UsageError(
            "the file names no user", where=f"{OPTION} {file}", expected="one id a row"
        )
    return users


def _of_parquet(file: Path) -> list[object]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(file).names
        if c.USER_ID in names:
            ids: list[object] = pq.read_table(file, columns=[c.USER_ID])[c.USER_ID].to_pylist()
            return ids
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None
    raise _no_column(file, names)


def _of_text(file: Path) -> list[str]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = [row for row in csv.reader(lines) if row]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise _unreadable(file, error) from None
    header = [cell.strip() for cell in rows[0]] if rows else []
    if c.USER_ID in header:
        place = header.index(c.USER_ID)
        return [row[place] for row in rows[1:] if len(row) > place]
    if len(header) > 1:
        raise _no_column(file, header)
    return [row[0] for row in rows]


def _no_column(file: Path, names: list[str]) -> UsageError:
    return UsageError(
        f"column '{c.USER_ID}' is missing",
        where=f"{OPTION} {file}",
        found=", ".join(names)[:200] or "no columns",
        expected=f"a column {c.USER_ID}, or text with one id per line",
    )


def _unreadable(file: Path, error: Exception) -> UsageError:
    return UsageError(
        "the file of users cannot be read",
        where=f"{OPTION} {file}",
        found=str(error)[:200],
        expected="Parquet, or UTF-8 text with one id per line",
    )
