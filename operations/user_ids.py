"""Which users a command is asked for: a file of ids in any of the shapes people have at hand."""

import csv
from pathlib import Path

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import UsageError

OPTION = "--users"
COLUMN_MARKS = ";\t"
"""What, beside a comma, is taken to divide columns of a first line that does not name users. A bar is not: ids
of sign-in services hold one (`auth0|123`)."""


def require_id(user_id: str) -> None:
    """Refuse an id that names nobody.

    Raises:
        UsageError: it is empty.
    """
    if not user_id.strip():
        raise UsageError(
            "an empty id names nobody", where="USER_ID", found=repr(user_id), expected="a user id"
        )


def read_users(file: Path) -> list[str]:
    """User ids of a Parquet file (column user_id), a CSV with that header divided by commas,
    semicolons, tabs or bars, or one id per line; each once, in the order of the file.

    Raises:
        UsageError: the file is missing, cannot be read, has no such column or names nobody.
    """
    if not file.is_file():
        raise UsageError("there is no such file", where=OPTION, found=str(file))
    found = _of_parquet(file) if _is_parquet(file) else _of_text(file)
    users = [user for user in dict.fromkeys(found) if user]
    if not users:
        raise UsageError(
            "the file names no user", where=f"{OPTION} {file}", expected="one id a row"
        )
    return users


def _is_parquet(file: Path) -> bool:
    """By its name or, whatever it is called, by how it begins."""
    try:
        with file.open("rb") as content:
            return content.read(4) == b"PAR1" or file.suffix == ".parquet"
    except OSError as error:
        raise _unreadable(file, error) from None


def _of_parquet(file: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from recsys.ingestion.tables.types import group

    try:
        schema = pq.read_schema(file)
        if c.USER_ID not in schema.names:
            raise _no_column(file, schema.names)
        kind = schema.field(c.USER_ID).type
        # `7.00` would be somebody else than `7`.
        if group(kind) == "float":
            raise UsageError(
                f"column '{c.USER_ID}' has the wrong type",
                where=f"{OPTION} {file}",
                found=str(kind),
                expected="strings or integers",
                fix="cast them to whole numbers"
                if pa.types.is_decimal(kind)
                else "pandas makes floats of integers with gaps: `.astype('Int64')` keeps them whole",
            )
        ids = pq.read_table(file, columns=[c.USER_ID])[c.USER_ID]
        if group(kind) != "uuid":
            ids = ids.cast(pa.large_string())
        return [str(user) for user in ids.to_pylist() if user is not None]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, error) from None


def _of_text(file: Path) -> list[str]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            mark = _divider(lines.readline())
            lines.seek(0)
            rows = [row for row in csv.reader(lines, delimiter=mark) if row]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise _unreadable(file, error) from None
    header = [cell.strip() for cell in rows[0]] if rows else []
    if c.USER_ID in header:
        place = header.index(c.USER_ID)
        return [row[place].strip() for row in rows[1:] if len(row) > place]
    if len(header) > 1:
        raise _no_column(file, header)
    for mark in COLUMN_MARKS:
        if header and mark in header[0]:
            raise _in_columns(file, header[0], mark)
    return [row[0].strip() for row in rows]


def _divider(header: str) -> str:
    """What divides the columns of a header that names users; a comma where none does, since an id
    may hold any other mark."""
    for mark in ";\t|":
        if c.USER_ID in (cell.strip(' "\r\n') for cell in header.split(mark)):
            return mark if mark in header else ","
    return ","


def _in_columns(file: Path, first: str, mark: str) -> UsageError:
    return UsageError(
        f"the first line looks like several columns, none of them '{c.USER_ID}'",
        where=f"{OPTION} {file}",
        found=f"{first!r}, which holds {mark!r}"[:200],
        expected=f"a column {c.USER_ID}, or text with one id per line",
        fix=f"name the column {c.USER_ID}; if ids hold {mark!r}, write {c.USER_ID} in a line above them",
    )


def _no_column(file: Path, names: list[str]) -> UsageError:
    return UsageError(
        f"column '{c.USER_ID}' is missing",
        where=f"{OPTION} {file}",
        found=", ".join(names)[:200] or "no columns",
        expected=f"a column {c.USER_ID}, or text with one id per line",
    )


def _unreadable(file: Path, error: Exception) -> UsageError:
    from recsys.ingestion.tables.readers import looks_like

    return UsageError(
        "the file of users cannot be read",
        where=f"{OPTION} {file}",
        found=f"{looks_like(file)}; {error}"[:200],
        expected="Parquet, or UTF-8 text with one id per line",
    )
