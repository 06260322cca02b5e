"""Tables as a notebook or a script holds them, as Arrow tables under our column names.

pandas, polars, Arrow, Parquet and CSV are taken. What cannot be known from a table (the zone of a
time, the unit of a number, what an event was) is asked for: the error holds the line that says it.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.data_schemas.tables import EVENTS, ITEMS, USERS, Kind, Table
from recsys.ingestion.tables.readers import find_files
from recsys.ingestion.tables.types import UNITS, group

TEXT_SUFFIXES: Final = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz")
PER_UNIT: Final = {"s": 1_000_000, "ms": 1_000, "us": 1}
"""Microseconds of one unit; nanoseconds are divided instead."""
NAMED: Final = {"interactions": EVENTS, "items": ITEMS, "users": USERS}
"""Argument → the table it is."""
OTHER_NAMES: Final = {
    c.USER_ID: "user userid uid customer customerid visitor visitorid member memberid reviewerid"
    " kunde kundennr kundennummer kundenid client clientid cliente usuario utilisateur",
    c.ITEM_ID: "item itemid movie movieid product productid sku asin article articleid book bookid"
    " artikel artikelnr artikelnummer artikelid produkt produktid produit producto articulo",
    c.TIMESTAMP: "time date datetime ts unixtime createdat eventtime ratedat unixreviewtime orderdate"
    " orderedat purchasedat datum zeit zeitpunkt bestelldatum bestelltam fecha",
    c.VALUE: "rating score stars overall bewertung",
    c.EVENT_TYPE: "event type action behavior behaviour",
    c.TITLE: "name itemname movietitle producttitle headline label titel bezeichnung titre titulo nom nombre",
}
"""Names that other tables use for our columns, without case and punctuation."""


@dataclass(frozen=True)
class Given:
    """A table as it was given: under our names, ids as strings."""

    table: pa.Table
    whole_numbers: frozenset[str]
    """Columns of ids that were whole numbers, and are given back as such."""
    names: tuple[str, ...]
    """Names of the columns before any renaming."""


def read_table(source: Any, argument: str, columns: Mapping[str, str]) -> Given:
    """What a caller gave for one argument of `Dataset`, under our column names.

    Args:
        source: pandas or polars frame, Arrow table, or path of Parquet or CSV.
        argument: `interactions`, `items` or `users`; for messages.
        columns: the caller's name → ours; those that this table lacks are left alone.

    Raises:
        UsageError: it is none of these, or a required column is missing.
        DataRefused: a file cannot be read, or ids went through a float.
    """
    known = NAMED[argument]
    ids = {column.name for column in known.columns if column.kind is Kind.ID}
    if isinstance(source, str | Path):
        theirs = {old for old, new in columns.items() if new in ids} | ids
        raw = _from_path(Path(source), argument, known, theirs)
    else:
        raw = _from_memory(source, argument)
    table = _renamed(raw, columns, argument)
    for column in known.columns:
        asked_later = column.name == c.EVENT_TYPE
        if column.required and not asked_later and column.name not in table.column_names:
            raise _missing(column.name, argument, table, known, columns)
    whole = set()
    for name in sorted(ids & set(table.column_names)):
        table, is_whole = _with_text_ids(table, name, argument)
        if is_whole:
            whole.add(name)
    return Given(table, frozenset(whole), tuple(raw.column_names))


def _from_memory(source: Any, argument: str) -> pa.Table:
    """A frame or Arrow table; an index with a name is a column like any other."""
    if isinstance(source, pa.Table):
        return source
    if isinstance(source, pa.RecordBatch):
        return pa.Table.from_batches([source])
    kind = type(source)
    if kind.__module__.split(".")[0] == "pandas" and kind.__name__ == "DataFrame":
        named = [name for name in source.index.names if name is not None]
        frame = source.reset_index() if named else source
        frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
        try:
            with warnings.catch_warnings():
                # Arrow reads times with a zone in a way that newer pandas speaks against.
                warnings.simplefilter("ignore")
                return pa.Table.from_pandas(frame, preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataRefused(
                "a column of the frame holds values of several kinds",
                where=argument,
                found=str(error).splitlines()[0][:200],
                expected="one kind of value in each column",
                fix="convert it, as in df['user_id'] = df['user_id'].astype(str)",
            ) from None
    if hasattr(source, "collect") and hasattr(source, "lazy"):  # a lazy frame of polars
        source = source.collect()
    if hasattr(source, "__arrow_c_stream__"):
        return pa.table(source)
    raise UsageError(
        "this is not a table that can be read",
        where=f"Dataset({argument}=…)",
        found=f"{kind.__module__}.{kind.__qualname__}",
        expected="a pandas or polars DataFrame, an Arrow table, or the path of Parquet or CSV",
        fix="pandas.DataFrame(…) makes a frame of most things",
    )


def _from_path(place: Path, argument: str, known: Table, ids: set[str]) -> pa.Table:
    """Parquet (a file, folder or glob), or text divided by whatever divides it."""
    if place.name.lower().endswith(TEXT_SUFFIXES):
        if not place.is_file():
            raise _no_file(place, argument)
        return _from_text(place, argument, ids)
    files = find_files(str(place), Path.cwd(), known, argument)
    import pyarrow.parquet as pq

    try:
        tables = [pq.read_table(file) for file in files]
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(
            place, argument, error, "Parquet, or text whose name ends in .csv"
        ) from None


def _no_file(place: Path, argument: str) -> UsageError:
    """What is missing, and which tables lie beside where it was looked for."""
    folder = place.parent
    if not folder.is_dir():
        found = f"no folder {folder.resolve()}"
    else:
        tables = (*TEXT_SUFFIXES, ".parquet")
        beside = sorted(f.name for f in folder.iterdir() if f.name.lower().endswith(tables))
        found = f"in {folder.resolve()}: {', '.join(beside[:10]) or 'no table'}"
    return UsageError(
        "there is no such file",
        where=f"Dataset({argument}={str(place)!r})",
        found=found,
        expected="the path of Parquet or CSV, from the folder that Python runs in",
        fix="correct the path",
    )


def _from_text(file: Path, argument: str, ids: set[str]) -> pa.Table:
    """A CSV file; its divider, quotes and header are found out. Ids are read as they are written,
    for a number would lose leading zeros."""
    import duckdb

    with duckdb.connect() as engine:
        try:
            scan = "FROM read_csv(?, sample_size = -1)"
            named = [row[0] for row in engine.execute(f"DESCRIBE {scan}", [str(file)]).fetchall()]
            texts = {name: "VARCHAR" for name in named if name in ids}
            kinds = ", ".join(
                f"'{name.replace(chr(39), chr(39) * 2)}': 'VARCHAR'" for name in texts
            )
            if texts:
                scan = f"FROM read_csv(?, sample_size = -1, types = {{{kinds}}})"
            return engine.sql(scan, params=[str(file)]).to_arrow_table()
        except duckdb.Error as error:
            raise _unreadable(file, argument, error, "UTF-8 text with a line of names") from None


def _unreadable(file: Path, argument: str, error: Exception, expected: str) -> DataRefused:
    return DataRefused(
        "the file cannot be read",
        where=f"{argument}: {file}",
        found=(str(error).splitlines() or [type(error).__name__])[0][:200],
        expected=expected,
        fix=f"read it with pandas and give the frame: Dataset({argument}=pandas.read_csv(…))",
    )


def _renamed(table: pa.Table, columns: Mapping[str, str], argument: str) -> pa.Table:
    names = [columns.get(name, name) for name in table.column_names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(
            f"two columns would be called `{twice}`",
            where=f"Dataset({argument}=…, columns=…)",
            found=", ".join(table.column_names),
            fix="drop or rename one of them",
        )
    return table.rename_columns(names)


def require_used(columns: Mapping[str, str], given: Mapping[str, Sequence[str]]) -> None:
    """Refuse a renaming that no table has a column for.

    Args:
        columns: the caller's name → ours.
        given: argument → the names of its columns as they were given.
    """
    every = {name for names in given.values() for name in names}
    for old, new in columns.items():
        if old not in every:
            raise UsageError(
                "columns= names a column that no table has",
                where=f"columns={{{old!r}: {new!r}}}",
                found="; ".join(f"{arg}: {', '.join(names)}" for arg, names in given.items()),
                fix="write the caller's name first, then ours, as in columns={'movieId': 'item_id'}",
            )


def _missing(
    column: str, argument: str, table: pa.Table, known: Table, columns: Mapping[str, str]
) -> UsageError:
    """What is missing, with the one argument that names every column that can be guessed."""
    names = table.column_names
    guessed: dict[str, str] = {}
    for wanted in known.names:
        near = nearest_name(wanted, [name for name in names if name not in guessed])
        if wanted not in names and near is not None:
            guessed[near] = wanted
    line = {old: new for old, new in columns.items() if new in names} | guessed
    needed = [k.name for k in known.columns if k.required and k.name != c.EVENT_TYPE]
    lacking = [name for name in needed if name not in names]
    open_ends = [name for name in lacking if name not in guessed.values()]
    said = [f"{old!r}: {new!r}" for old, new in line.items()]
    said += [f"…: {name!r}" for name in open_ends]
    return UsageError(
        f"column `{column}` is not found in {argument}",
        where=f"Dataset({argument}=…)",
        found="existing columns: " + (", ".join(names) or "none"),
        expected=", ".join(f"`{name}`" for name in lacking),
        fix=f"columns={{{', '.join(said)}}}" + (", with its name for …" if open_ends else ""),
    )


def nearest_name(column: str, names: Sequence[str]) -> str | None:
    """The column that is most likely meant.

    >>> nearest_name("item_id", ["userId", "movieId", "rating"])
    'movieId'
    """
    wanted = {_plain(column), *OTHER_NAMES.get(column, "").split()}
    return next((name for name in names if _plain(name) in wanted), None)


def _plain(name: str) -> str:
    return "".join(ch for ch in name.lower() if ch.isalnum())


def _with_text_ids(table: pa.Table, name: str, argument: str) -> tuple[pa.Table, bool]:
    """The same with a column of ids as strings, and whether they were whole numbers."""
    column, place = table[name], table.column_names.index(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = group(column.type)
    if kind == "float":
        raise DataRefused(
            f"the ids of column `{name}` are fractions",
            where=f"Dataset({argument}=…)",
            found=f"{column.type}, such as {next((v for v in column.to_pylist() if v), None)}",
            expected="strings or integers",
            fix=f"df[{name!r}] = df[{name!r}].astype('Int64')",
        )
    if kind not in ("integer", "string"):
        return table, False
    text = column.cast(pa.large_string())
    whole = kind == "integer" or _all_whole(text)
    return table.set_column(place, name, text), whole and name in (c.USER_ID, c.ITEM_ID)


def _all_whole(text: pa.ChunkedArray) -> bool:
    """Whether every id of a text file is a whole number as a program would write it."""
    if not len(text) or text.null_count == len(text):
        return False
    fits = pc.match_substring_regex(text, r"^(0|-?[1-9][0-9]{0,17})$")
    return bool(pc.all(fits).as_py())


def with_event_type(table: pa.Table, event_type: str | None) -> pa.Table:
    """Interactions with what each was.

    Raises:
        UsageError: neither the table nor the argument says it, or both do.
    """
    if c.EVENT_TYPE in table.column_names:
        if event_type is not None:
            raise UsageError(
                "the interactions say themselves what each event was",
                where=f"event_type={event_type!r}",
                found=f"a column `{c.EVENT_TYPE}`",
                fix="leave the argument out",
            )
        return table
    if event_type is None:
        near = nearest_name(c.EVENT_TYPE, table.column_names)
        rated = c.VALUE in table.column_names or nearest_name(c.VALUE, table.column_names)
        said = "rating" if rated else "purchase"
        raise UsageError(
            "what did people do? The interactions do not say",
            where="Dataset(interactions=…)",
            found="existing columns: " + ", ".join(table.column_names),
            expected=f"a column `{c.EVENT_TYPE}`, or one word for all rows",
            fix=f"columns={{{near!r}: {c.EVENT_TYPE!r}}}" if near else f"event_type={said!r}",
        )
    words = pa.array([event_type] * table.num_rows, pa.string())
    return table.append_column(c.EVENT_TYPE, words)


def with_time(
    table: pa.Table, name: str, argument: str, tz: str | None, unit: str | None
) -> pa.Table:
    """The same with a column of times as microseconds UTC; without the column, as it is.

    Raises:
        UsageError: a time has no zone, or a number no unit, and no argument says it.
    """
    if name not in table.column_names:
        return table
    column, place = table[name], table.column_names.index(name)
    kind = group(column.type)
    if kind == "string":
        column = _parsed(column, name, argument)
        kind = group(column.type)
    if kind in ("integer", "float"):
        column = _counted(column, name, argument, unit)
    elif kind == "timestamp without zone":
        column = _in_zone(column, name, argument, tz)
    elif kind == "date":
        column = column.cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    elif kind == "timestamp with zone":
        column = column.cast(pa.timestamp("us", "UTC"), safe=False)
    return table.set_column(place, name, column)


def _parsed(column: pa.ChunkedArray, name: str, argument: str) -> pa.ChunkedArray:
    """Times written as ISO 8601."""
    import pandas as pd

    try:
        times = pd.to_datetime(column.to_pandas(), format="ISO8601")
    except (ValueError, TypeError) as error:
        raise DataRefused(
            f"column `{name}` holds text that is no time",
            where=f"Dataset({argument}=…)",
            found=str(error).splitlines()[0][:200],
            expected="times such as 2026-11-29 20:15:00",
            fix=f"df[{name!r}] = pandas.to_datetime(df[{name!r}], format='%d.%m.%Y', utc=True)",
        ) from None
    zone = None if times.dt.tz is None else "UTC"
    plain = times if zone is None else times.dt.tz_convert(zone).dt.tz_localize(None)
    micros = plain.astype("datetime64[us]").to_numpy()
    return pa.chunked_array([pa.array(micros, pa.timestamp("us", zone))])


def _counted(
    column: pa.ChunkedArray, name: str, argument: str, unit: str | None
) -> pa.ChunkedArray:
    largest = float(pc.max(column).as_py() or 0)
    if unit is None:
        word, short = next((w, s) for limit, w, _, s in UNITS if largest < limit)
        import pandas as pd

        moment = pd.Timestamp(int(largest), unit=short, tz="UTC").isoformat()
        raise UsageError(
            f"column `{name}` holds numbers: in which unit since 1970?",
            where=f"Dataset({argument}=…)",
            found=f"up to {largest:.0f}, which is {moment} in {word}",
            expected="times, or unit= with one of s, ms, us, ns",
            fix=f"unit={short!r}",
        )
    if unit == "ns":
        ticks = pc.divide(column.cast(pa.int64()), 1000)
    elif unit in PER_UNIT:
        ticks = pc.multiply(column, PER_UNIT[unit])
        ticks = pc.round(ticks) if group(ticks.type) == "float" else ticks
    else:
        raise UsageError(
            "there is no such unit of time", where="unit", found=unit, expected="s, ms, us or ns"
        )
    return ticks.cast(pa.int64()).cast(pa.timestamp("us", "UTC"))


def _in_zone(column: pa.ChunkedArray, name: str, argument: str, tz: str | None) -> pa.ChunkedArray:
    if tz is None:
        raise UsageError(
            f"the times of column `{name}` have no zone: whose clock was it?",
            where=f"Dataset({argument}=…)",
            found=f"{column.type}, such as {column[0].as_py() if len(column) else 'none'}",
            expected="times with a zone, or tz= with its name",
            fix="tz='UTC'",
        )
    try:
        zoned = pc.assume_timezone(
            column.cast(pa.timestamp("us"), safe=False), tz, ambiguous="earliest",
            nonexistent="earliest",
        )  # fmt: skip
    except pa.ArrowException:
        raise UsageError(
            "there is no such time zone",
            where="tz",
            found=tz,
            expected="a name such as 'UTC', 'Europe/Lisbon' or 'America/New_York'",
        ) from None
    return zoned.cast(pa.timestamp("us", "UTC"))
