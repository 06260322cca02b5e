"""Accepted events as files by the calendar; those of an earlier ingestion that did not change are linked."""

from collections import Counter
from pathlib import Path
from typing import Any, Final

from recsys.data_schemas import columns as c
from recsys.data_schemas.tables import EXACT_VALUE, LOG_POSITION, USER_INDEX
from recsys.ingestion.tables.duck import quote
from recsys.ingestion.tables.event_partitions import (
    DAY_US,
    EVENTS_FOLDER,
    Period,
    periods,
    write_period,
)
from recsys.ingestion.tables.kept_events import (
    ASIDE_FILE,
    STATE_FILE,
    Basis,
    KeptEvents,
    KnownInputs,
    log_columns,
    made_of,
)
from recsys.ingestion.tables.readers import FILE, ROW
from recsys.ingestion.tables.table_ingest import BROKEN, LOG, PLACE, TableIngest
from recsys.storage.files import hash_json, link_or_copy, write_json

SORTED: Final = "events_sorted"
Facts = dict[str, dict[str, Any]]
"""What is in each file of events, by the name of its period: rows by `days` (since 1970) and by the place of
their `files`, and those of the `log`."""


def write_events(
    part: TableIngest, out: Path, known: KnownInputs | None, kept: KeptEvents | None
) -> Facts:
    """Write the accepted events below `out`, those of each file sorted by (timestamp, position).

    Needs the tables `vocabulary` and `user_vocabulary`.
    """
    engine, folder = part.engine, out / EVENTS_FOLDER
    folder.mkdir()
    wanted = periods(_by_day(part, kept))
    stale = kept.renumbered() if kept else set()
    linked = {p.name: kept.untouched[p.name] for p in wanted
              if kept and p.name in kept.untouched and p.name not in stale}  # fmt: skip
    carried = [name for name in kept.untouched if name not in linked] if kept else []
    rows = part.accepted
    if kept is not None and carried:
        rows += f" UNION ALL BY NAME ({kept.carried(carried)})"
    _sort(part, rows, _places(part, known))
    engine.run(f"DROP TABLE {part.rows}")
    made = [period for period in wanted if period.name not in linked]
    for period in made:
        write_period(engine, period, SORTED, folder)
    for name in linked:
        assert kept is not None
        link_or_copy(kept.file(name), folder / f"{name}.parquet")
    return {**_facts(part, made), **linked}


def _by_day(part: TableIngest, kept: KeptEvents | None) -> Counter[int]:
    """Accepted events by day since 1970."""
    rows = part.engine.rows(
        f"SELECT epoch_us({c.TIMESTAMP}) // {DAY_US}, count(*) FROM ({part.accepted}) GROUP BY 1"
    )
    found = Counter({int(day): int(n) for day, n in rows})
    for facts in kept.untouched.values() if kept else ():
        found.update({int(day): n for day, n in facts["days"].items()})
    return found


def _places(part: TableIngest, known: KnownInputs | None) -> str:
    """SQL: (number, place) of each file; null where nobody told its place."""
    prints = known.prints if known else {}
    told = [prints[label].place if label in prints else None for label in part.files.labels]
    rows = ", ".join(f"({i}, {quote(x) if x else 'NULL::VARCHAR'})" for i, x in enumerate(told))
    return f"(VALUES {rows}) l(number, place)"


def _sort(part: TableIngest, rows: str, places: str) -> None:
    """The table of the rows that are written, as the files hold them."""
    exact = f"CASE WHEN CAST(CAST({c.VALUE} AS FLOAT) AS DOUBLE) <> {c.VALUE} THEN {c.VALUE} END"
    part.engine.run(
        f"CREATE TABLE {SORTED} AS SELECT a.{c.USER_ID}, u.{USER_INDEX}, a.{c.ITEM_ID},"
        f" v.{c.ITEM_INDEX}, {c.EVENT_TYPE}, {c.TIMESTAMP}, CAST({c.VALUE} AS FLOAT) AS {c.VALUE},"
        f" {c.IMPRESSION_ID}, {c.EVENT_ID}, {c.RECEIVED_AT},"
        f" CASE WHEN {LOG} = 1 THEN {PLACE} END AS {LOG_POSITION}, {exact} AS {EXACT_VALUE},"
        f" CASE WHEN {LOG} = 0 THEN l.place END AS {c.SOURCE_FILE}, {ROW} AS {c.SOURCE_ROW}"
        f" FROM ({rows}) a"
        f" JOIN (SELECT {c.ITEM_ID}, {c.ITEM_INDEX} FROM vocabulary) v USING ({c.ITEM_ID})"
        f" JOIN user_vocabulary u USING ({c.USER_ID})"
        f" JOIN {places} ON l.number = CASE WHEN {LOG} = 0 THEN {FILE} ELSE 0 END"
        f" ORDER BY {c.TIMESTAMP}, {LOG}, CASE WHEN {LOG} = 1 THEN {PLACE} END, {FILE}, {ROW}"
    )


def _facts(part: TableIngest, made: list[Period]) -> Facts:
    """What is in the files that were written."""
    found: Facts = {p.name: {"days": {}, "files": {}, "log": 0} for p in made}
    of_day = {day: period.name for period in made for day in range(period.first, period.end)}
    rows = part.engine.rows(
        f"SELECT epoch_us({c.TIMESTAMP}) // {DAY_US}, coalesce({c.SOURCE_FILE}, ''), count(*),"
        f" count({LOG_POSITION}) FROM {SORTED} GROUP BY ALL"
    )
    for day, place, count, logged in rows:
        facts = found[of_day[int(day)]]
        facts["days"][str(day)] = facts["days"].get(str(day), 0) + int(count)
        facts["log"] += int(logged)
        if count > logged:
            facts["files"][place] = facts["files"].get(place, 0) + int(count - logged)
    return found


def write_aside(part: TableIngest, out: Path, known: KnownInputs | None) -> None:
    """Keep what was not accepted as it was judged, for an ingestion that builds upon this one."""
    places = _places(part, known)
    columns = [x.name for x in part.table.columns if x.name != c.RECEIVED_AT]
    query = (
        f"SELECT {LOG}, {ROW}, {PLACE}, {', '.join(columns)}, {c.RECEIVED_AT},"
        f" CASE WHEN {LOG} = 0 THEN l.place END AS {c.SOURCE_FILE}, {BROKEN} FROM {part.rows} r"
        f" JOIN {places} ON l.number = CASE WHEN {LOG} = 0 THEN {FILE} ELSE 0 END"
        f" WHERE {BROKEN} IS NOT NULL ORDER BY {LOG}, {FILE}, {ROW}"
    )
    if part.engine.one(f"SELECT count(*) FROM {part.rows} WHERE {BROKEN} IS NOT NULL"):
        part.engine.write(query, out / ASIDE_FILE)


def can_be_kept(part: TableIngest, known: KnownInputs | None) -> bool:
    """Whether a later ingestion may build upon this one."""
    logged = part.log is None or (
        known is not None and known.log is not None and len(part.log.files) == 1
    )
    return known is not None and not part.recoded and logged


def write_state(
    part: TableIngest, known: KnownInputs, basis: Basis, facts: Facts, kinds: list[str], out: Path
) -> None:
    """Say what the events were made of and what is in their files."""
    log = None if part.log is None or known.log is None else [*known.log, log_columns(part)]
    write_json(
        out / STATE_FILE,
        {
            "made_of": hash_json(made_of(part)),
            **basis._asdict(),
            "files": {label: known.prints.get(label) for label in part.files.labels},
            "log": log,
            "periods": facts,
            "lost": part.lost,
            "kinds": sorted(kinds),
        },
    )
