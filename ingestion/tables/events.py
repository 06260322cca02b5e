"""Events: checked row by row, repeats set aside, ordered by time and by when they became known.

What an earlier ingestion left is built upon where it would be made the same (`kept_events`).

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
from recsys.data_schemas.tables import FIRST_EVENT, USER_INDEX
from recsys.ingestion.tables.cells import blank, sound
from recsys.ingestion.tables.duck import DuckEngine, quote
from recsys.ingestion.tables.kept_events import REPEATED, KeptEvents
from recsys.ingestion.tables.table_ingest import (
    BROKEN,
    IN_LOG,
    LOG,
    PLACE,
    TableIngest,
    id_faults,
    time_faults,
)

_KEY = ", ".join((c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.TIMESTAMP, c.VALUE, c.IMPRESSION_ID))
"""Columns in which two events without an event_id have to differ."""


def stage_events(part: TableIngest, now: int, kept: KeptEvents | None = None) -> int:
    """Check the events against the table `vocabulary`; how many are accepted.

    Args:
        part: the events' part of the ingestion.
        now: moment (µs) after which a timestamp lies in the future.
        kept: what of an earlier ingestion still holds; None where everything is read.

    Raises:
        DataRefused: there are too many event types.
        StartAgain: what was kept cannot be built upon.
    """
    rule = event_rule(now)
    part.stage(f"{rule} AS {BROKEN}")
    part.warn_lost("value_not_finite", c.VALUE)
    if kept is None:
        _bound_types(part)
    else:
        kept.bring(rule)
    if part.log is not None:
        _prefer_log(part)
    key = f"coalesce({c.EVENT_ID}, ''), CASE WHEN {c.EVENT_ID} IS NULL THEN hash({_KEY}) END"
    exact = (
        f"{c.EVENT_ID}, CASE WHEN {c.EVENT_ID} IS NULL THEN struct_pack(a := {c.USER_ID},"
        f" b := {c.ITEM_ID}, c := {c.EVENT_TYPE}, d := {c.TIMESTAMP}, e := {c.VALUE},"
        f" f := {c.IMPRESSION_ID}) END"
    )
    part.reject_repeats(REPEATED, f"row({key})", exact)
    untouched = kept.untouched_rows if kept else 0
    if kept is not None:
        here = part.engine.one(f"SELECT count(*) FROM {part.rows} WHERE {LOG} = 0")
        part.left_out = part.files.rows - int(here) - kept.untouched_of_files
    return int(part.engine.one(f"SELECT count(*) FROM ({part.accepted})")) + untouched


def _prefer_log(part: TableIngest) -> None:
    """Leave out the file's row of an event that the service's log holds too: no rule is broken."""
    part.reject(
        IN_LOG,
        f"SELECT rowid FROM {part.rows} WHERE {LOG} = 0 AND {BROKEN} IS NULL AND {c.EVENT_ID} IN"
        f" (SELECT {c.EVENT_ID} FROM {part.rows} WHERE {LOG} = 1 AND {BROKEN} IS NULL)",
    )
    again = f"SELECT count(*) FROM {part.rows} WHERE {BROKEN} = {quote(IN_LOG)}"
    part.warn(IN_LOG, part.engine.one(again))


def event_rule(now: int) -> str:
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


def from_files(part: TableIngest, kept: KeptEvents | None = None) -> int:
    """How many accepted rows of a table come from files."""
    here = int(part.engine.one(f"SELECT count(*) FROM ({part.accepted}) WHERE {LOG} = 0"))
    return here + (kept.untouched_of_files if kept else 0)


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


def make_users(engine: DuckEngine, events: str, lists: str | None, path: Path) -> int:
    """Number the users of some queries in the order in which they come in; how many there are.

    Those of one moment are in the byte order of their ids. So the number of a user does not change
    with those who come later, and what was made of earlier events stays good. `events` and `lists` give
    (user, timestamp), several times for one user.
    """
    together = f"SELECT {c.USER_ID}, {c.TIMESTAMP}, true AS acted FROM ({events})"
    if lists is not None:
        together += f" UNION ALL SELECT {c.USER_ID}, {c.TIMESTAMP}, false AS acted FROM ({lists})"
    engine.run(
        f"CREATE TABLE user_vocabulary AS SELECT {c.USER_ID}, CAST(row_number() OVER"
        f" (ORDER BY min({c.TIMESTAMP}), {c.USER_ID}) - 1 AS INTEGER) AS {USER_INDEX},"
        f" min({c.TIMESTAMP}) FILTER (acted) AS {FIRST_EVENT} FROM ({together}) GROUP BY {c.USER_ID}"
    )
    engine.write(f"SELECT * FROM user_vocabulary ORDER BY {USER_INDEX}", path)
    return int(engine.one("SELECT count(*) FROM user_vocabulary"))
