"""Events: checked row by row, repeats set aside, ordered by time and by when they became known.

Position of a row: rows of files are numbered 0.. in the order (timestamp, file, row); a row of the
log with log position p has position F + p. F (`positions.log_base` in the summary) is one for events
and impressions, the number of accepted rows of files in the longer of the two tables: positions of
both then compare as the log's do, and a row of a file lies before every row of the log. An event that stands in both keeps the log's row, because
the log knows when it was received.
"""

from pathlib import Path

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import DataRefused
from recsys.data_schemas.limits import EVENT_TYPES, ID_LENGTH, TYPE_LENGTH
from recsys.data_schemas.tables import USER_INDEX
from recsys.ingestion.tables.cells import blank, sound
from recsys.ingestion.tables.duck import DuckEngine
from recsys.ingestion.tables.readers import FILE, ROW
from recsys.ingestion.tables.table_ingest import (
    BROKEN,
    LOG,
    PLACE,
    TableIngest,
    id_faults,
    time_faults,
)

_KEY = ", ".join((c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.TIMESTAMP, c.VALUE, c.IMPRESSION_ID))
"""Columns in which two events without an event_id have to differ."""


def stage_events(part: TableIngest, now: int) -> int:
    """Check the events against the table `vocabulary`; how many are accepted.

    `now` (µs) is the moment after which a timestamp lies in the future.
    """
    part.stage(f"{_rule(now)} AS {BROKEN}")
    part.warn_lost("value_not_finite", c.VALUE)
    _bound_types(part)
    if part.log is not None:
        _prefer_log(part)
    key = f"coalesce({c.EVENT_ID}, ''), CASE WHEN {c.EVENT_ID} IS NULL THEN hash({_KEY}) END"
    exact = (
        f"{c.EVENT_ID}, CASE WHEN {c.EVENT_ID} IS NULL THEN struct_pack(a := {c.USER_ID},"
        f" b := {c.ITEM_ID}, c := {c.EVENT_TYPE}, d := {c.TIMESTAMP}, e := {c.VALUE},"
        f" f := {c.IMPRESSION_ID}) END"
    )
    part.reject_repeats("duplicate_event", f"row({key})", exact)
    return int(part.engine.one(f"SELECT count(*) FROM ({part.accepted})"))


def _prefer_log(part: TableIngest) -> None:
    """Drop the file's row of an event that the service's log holds too: no rule is broken."""
    again = (
        f"FROM {part.rows} WHERE {LOG} = 0 AND {BROKEN} IS NULL AND {c.EVENT_ID} IN (SELECT"
        f" {c.EVENT_ID} FROM {part.rows} WHERE {LOG} = 1 AND {BROKEN} IS NULL)"
    )
    part.warn("in_log_already", part.engine.one(f"SELECT count(*) {again}"))
    part.engine.run(f"DELETE {again}")


def _rule(now: int) -> str:
    """SQL: name of the first rule a row breaks, or null."""
    optional = (c.IMPRESSION_ID, c.EVENT_ID)
    others = " ".join(
        f"WHEN {column} IS NOT NULL AND NOT {sound(column, ID_LENGTH)} THEN CASE WHEN"
        f" starts_with({column}, chr(0)) THEN 'id_not_utf8' ELSE 'unfit_id' END"
        for column in optional
    )
    return (
        f"CASE {id_faults(c.USER_ID, 'missing_user_id')} {id_faults(c.ITEM_ID, 'missing_item_id')}"
        f" WHEN {blank(c.EVENT_TYPE)} THEN 'missing_event_type'"
        f" WHEN NOT {sound(c.EVENT_TYPE, TYPE_LENGTH)} THEN 'unfit_event_type' {others}"
        f" {time_faults(now)}"
        f" WHEN {c.ITEM_ID} NOT IN (SELECT {c.ITEM_ID} FROM vocabulary) THEN 'unknown_item' END"
    )


def _bound_types(part: TableIngest) -> None:
    """Refuse files with too many event types; set further ones of the log aside.

    Raises:
        DataRefused: the files have more than `limits.EVENT_TYPES`.
    """
    counted = (
        f"SELECT {c.EVENT_TYPE}, count(*) AS events FROM {part.rows}"
        f" WHERE {BROKEN} IS NULL AND {LOG} = {{side}} GROUP BY 1"
    )
    files, log = (
        part.engine.one(f"SELECT count(*) FROM ({counted.format(side=side)})") for side in (0, 1)
    )
    if files > EVENT_TYPES:
        raise DataRefused(
            "there are too many event types",
            where=part.files.where,
            found=f"{files:,} distinct values of {c.EVENT_TYPE}",
            expected=f"a handful, such as view, click and purchase; at most {EVENT_TYPES}",
            fix="see whether it is the right column; say what was meant in `value` or an attribute",
        )
    if log and files + log > EVENT_TYPES:
        kept = (
            f"SELECT {c.EVENT_TYPE} FROM (SELECT {c.EVENT_TYPE}, max({LOG}) AS side, count(*) AS n"
            f" FROM {part.rows} WHERE {BROKEN} IS NULL GROUP BY 1, {LOG}) GROUP BY 1"
            f" ORDER BY min(side), sum(n) DESC, 1 LIMIT {EVENT_TYPES}"
        )
        part.reject(
            "too_many_event_types",
            f"SELECT rowid FROM {part.rows} WHERE {c.EVENT_TYPE} NOT IN ({kept})",
        )


def write_events(part: TableIngest, path: Path, log_base: int) -> None:
    """Write the accepted events sorted by (timestamp, position).

    Needs the tables `vocabulary` and `user_vocabulary`.
    """
    engine = part.engine
    value = f"CAST({c.VALUE} AS FLOAT) AS {c.VALUE}"
    engine.run(
        f"CREATE TABLE events_sorted AS SELECT {LOG}, {PLACE}, a.{c.USER_ID}, u.{USER_INDEX},"
        f" a.{c.ITEM_ID}, v.{c.ITEM_INDEX}, {c.EVENT_TYPE}, {c.TIMESTAMP}, {value},"
        f" {c.IMPRESSION_ID}, {c.EVENT_ID}, {c.RECEIVED_AT} FROM ({part.accepted}) a"
        f" JOIN (SELECT {c.ITEM_ID}, {c.ITEM_INDEX} FROM vocabulary) v USING ({c.ITEM_ID})"
        f" JOIN user_vocabulary u USING ({c.USER_ID})"
        f" ORDER BY {LOG}, {c.TIMESTAMP}, {FILE}, {ROW}"
    )
    engine.run(f"DROP TABLE {part.rows}")
    engine.copy(numbered(engine, "events_sorted", log_base), path)


def from_files(part: TableIngest) -> int:
    """How many accepted rows of a table come from files."""
    return int(part.engine.one(f"SELECT count(*) FROM ({part.accepted}) WHERE {LOG} = 0"))


def numbered(engine: DuckEngine, table: str, log_base: int) -> str:
    """Query of a table's rows with their positions, in the order (timestamp, position).

    The table holds the rows of files first, in their order.
    """
    query = (
        f"SELECT * EXCLUDE ({LOG}, {PLACE}), CASE WHEN {LOG} = 1 THEN {log_base} + {PLACE}"
        f" ELSE rowid END AS {c.POSITION} FROM {table}"
    )
    has_log = bool(engine.one(f"SELECT count(*) FROM {table} WHERE {LOG} = 1"))
    return query + (f" ORDER BY {c.TIMESTAMP}, {c.POSITION}" if has_log else "")


def make_users(engine: DuckEngine, queries: list[str], path: Path) -> int:
    """Number the users of some queries in the order in which they come in; how many there are.

    Those of one moment are in the byte order of their ids. So the number of a user does not change
    with those who come later, and what was made of earlier events stays good.
    """
    together = " UNION ALL ".join(
        f"SELECT {c.USER_ID}, {c.TIMESTAMP} FROM ({query})" for query in queries
    )
    engine.run(
        f"CREATE TABLE user_vocabulary AS SELECT {c.USER_ID}, CAST(row_number() OVER"
        f" (ORDER BY min({c.TIMESTAMP}), {c.USER_ID}) - 1 AS INTEGER) AS {USER_INDEX}"
        f" FROM ({together}) GROUP BY {c.USER_ID}"
    )
    engine.copy(f"SELECT * FROM user_vocabulary ORDER BY {USER_INDEX}", path)
    return int(engine.one("SELECT count(*) FROM user_vocabulary"))
