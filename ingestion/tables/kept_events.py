"""Events of an earlier ingestion that need not be read again, and which of its files change all the same.

A row is judged by what it holds, by the items, and by the rows that share its key. So what an earlier
ingestion made of an unchanged file still holds, but where a row of the same key came or went, where its user
is forgotten since, where it became too old, or where the item that was unknown came in. All of these are
brought back among the rows of the new files, and are judged with them by the same rules; files of events
(`event_partitions`) in which none of them lies stay as they are. A test holds random sequences of such
changes against ingestions from scratch, byte for byte.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import duckdb
import pyarrow as pa

from recsys.data_schemas import columns as c
from recsys.data_schemas.limits import EVENT_TYPES
from recsys.data_schemas.tables import EXACT_VALUE, FIRST_EVENT, LOG_POSITION, USER_INDEX
from recsys.ingestion.tables.duck import DuckEngine, quote
from recsys.ingestion.tables.event_partitions import (
    DAY_US,
    EVENTS_FOLDER,
    period_of,
    relation,
)
from recsys.ingestion.tables.readers import FILE, ROW
from recsys.ingestion.tables.table_ingest import (
    BROKEN,
    IN_LOG,
    LOG,
    PLACE,
    StartAgain,
    StillHolds,
    TableIngest,
)
from recsys.storage.files import hash_json
from recsys.storage.stages import code_version

STATE_FILE: Final = "events.json"
"""What an ingestion's events were made of, and what is in each of their files."""
ASIDE_FILE: Final = "events_set_aside.parquet"
"""Rows that are not among the events, as they were judged: a later ingestion may judge otherwise."""
REPEATED: Final = "duplicate_event"
_BY_KEY: Final = (REPEATED, IN_LOG)
_DAY: Final = f"epoch_us({c.TIMESTAMP}) // {DAY_US}"
_PATH: Final = "__path"
_ROWS: Final = (
    c.USER_ID,
    c.ITEM_ID,
    c.EVENT_TYPE,
    c.TIMESTAMP,
    c.IMPRESSION_ID,
    c.EVENT_ID,
    c.RECEIVED_AT,
)


class LogPart(NamedTuple):
    """How much of which log there is."""

    which: str
    """What the log and its revision are called: equal for two exports of which one begins with the other."""
    until: int
    """Its last position."""


class FilePrint(NamedTuple):
    """What tells one file of a table from all others."""

    place: str
    """Within what the config names, so that the events' bytes do not depend on where that lies."""
    content: str
    """What identifies the content, such as its SHA-256."""


@dataclass(frozen=True)
class KnownInputs:
    """What an ingestion is told of its events, so that it can build upon an earlier one."""

    prints: Mapping[str, FilePrint] = field(default_factory=dict)
    """Of files by their labels; a file without one is always read."""
    log: LogPart | None = None
    earlier: Path | None = None
    """Folder of an earlier ingestion; None reads everything."""


class Basis(NamedTuple):
    """What decides how any row is judged, beside the items and the rows themselves."""

    now: int
    """Moment (µs) after which a timestamp lies in the future."""
    since: int | None
    forgotten: list[str]
    """Digests of the entries of the table `forgotten`."""


def basis_of(part: TableIngest, now: int) -> Basis:
    """Of this ingestion; makes the table `forgotten_keys`, with the digest of each entry."""
    part.engine.run(
        f"CREATE OR REPLACE TABLE forgotten_keys AS SELECT {c.USER_ID}, left(sha256(concat_ws('/',"
        f" {c.USER_ID}, coalesce(until_time, -1), coalesce(until_place, -1))), 32) AS digest FROM forgotten"
    )
    rows = part.engine.rows("SELECT DISTINCT digest FROM forgotten_keys ORDER BY digest")
    return Basis(now, part.since, [str(row[0]) for row in rows])


def made_of(part: TableIngest) -> dict[str, Any]:
    """Programs and types that decide the bytes of an ingestion's events."""
    return {
        "code": code_version(("recsys.ingestion.tables", "recsys.data_schemas")),
        "engines": [duckdb.__version__, pa.__version__],
        "columns": [[name, str(kind)] for name, kind in part.files.kinds.items()],
    }


def keep(
    part: TableIngest, known: KnownInputs | None, basis: Basis, quarantine: str
) -> "KeptEvents | None":
    """What of an earlier ingestion can be built upon; None where everything has to be read.

    Needs the tables `vocabulary` and `forgotten_keys`. `quarantine` is its folder's name.
    """
    if known is None or known.earlier is None:
        return None
    try:
        state = json.loads((known.earlier / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    held = [known.earlier / EVENTS_FOLDER / f"{name}.parquet" for name in state["periods"]]
    if state["made_of"] != hash_json(made_of(part)) or not all(file.is_file() for file in held):
        return None
    log_until = _same_log(part, known, state)
    if log_until is None or not _goes_on(state, basis) or not _same_items(part, known.earlier):
        return None
    same = {
        label: number
        for number, label in enumerate(part.files.labels)
        if label in known.prints and state["files"].get(label) == list(known.prints[label])
    }
    if not same and log_until < 0:
        return None
    lost = {
        warning: {
            label: n
            for label, n in by_file.items()
            if label in same or (not label and log_until >= 0)
        }
        for warning, by_file in state["lost"].items()
    }
    part.holds = StillHolds(same, log_until, lost, known.earlier / quarantine)
    places = {known.prints[label].place: number for label, number in same.items()}
    return KeptEvents(part, known.earlier, state, basis, places)


def _same_log(part: TableIngest, known: KnownInputs, state: dict[str, Any]) -> int | None:
    """Last position of the log's rows that are the same, -1 without any; None where they changed."""
    if state["log"] is None:
        return -1
    which, until, columns = state["log"]
    if part.log is None or known.log is None or len(part.log.files) > 1:
        return None
    same = known.log.which == which and known.log.until >= until and columns == log_columns(part)
    return int(until) if same else None


def log_columns(part: TableIngest) -> list[list[str]]:
    """Columns and types of the log's part."""
    kinds = part.log.kinds if part.log is not None else {}
    return [[name, str(kind)] for name, kind in kinds.items()]


def _goes_on(state: dict[str, Any], basis: Basis) -> bool:
    """Whether what was accepted then can only have become less since: by time, limits and wishes."""
    since = state["since"]
    fewer = since is None or (basis.since is not None and basis.since >= since)
    return state["now"] <= basis.now and fewer and set(state["forgotten"]) <= set(basis.forgotten)


def _same_items(part: TableIngest, earlier: Path) -> bool:
    """Whether every item of then has its number now."""
    items = relation([earlier / "items.parquet"])
    moved = part.engine.one(
        f"SELECT count(*) FROM {items} o LEFT JOIN vocabulary v USING ({c.ITEM_ID})"
        f" WHERE v.{c.ITEM_INDEX} IS DISTINCT FROM o.{c.ITEM_INDEX}"
    )
    return not moved


class KeptEvents:
    """Events of an earlier ingestion. `bring` puts those that are judged again among the part's rows; what
    lies in the files of `untouched` stays as it is.

    Args:
        part: the events' part of the ingestion, what is new staged or about to be.
        folder: of the earlier ingestion.
        state: its `STATE_FILE`.
        basis: what rows are judged by now.
        places: files that are the same, by place, with their number now.
    """

    def __init__(
        self,
        part: TableIngest,
        folder: Path,
        state: dict[str, Any],
        basis: Basis,
        places: Mapping[str, int],
    ) -> None:
        self.part, self.folder, self.state, self.basis = part, folder, state, basis
        self._places = places
        self.periods: dict[str, dict[str, Any]] = state["periods"]
        self.touched: set[str] = set()
        """Files of events whose rows are judged again."""

    @property
    def engine(self) -> DuckEngine:
        return self.part.engine

    @property
    def untouched(self) -> dict[str, dict[str, Any]]:
        """What is in the files of events that stay, by name."""
        return {name: facts for name, facts in self.periods.items() if name not in self.touched}

    @property
    def untouched_rows(self) -> int:
        return sum(int(n) for facts in self.untouched.values() for n in facts["days"].values())

    @property
    def untouched_of_files(self) -> int:
        """Of them, those that come from files."""
        return self.untouched_rows - sum(int(facts["log"]) for facts in self.untouched.values())

    def file(self, name: str) -> Path:
        """A file of events by the name of its period."""
        return self.folder / EVENTS_FOLDER / f"{name}.parquet"

    def bring(self, rule: str) -> None:
        """Add the earlier rows that have to be judged with the new ones; `rule` is the SQL of what a row
        breaks by itself.

        Raises:
            StartAgain: there may be too many event types, which are counted over everything.
        """
        same = ", ".join(f"({quote(x)}, {number})" for x, number in self._places.items())
        rows = f"VALUES {same}" if same else "SELECT NULL, NULL LIMIT 0"
        self.engine.run(f"CREATE TABLE kept_files AS SELECT * FROM ({rows}) f(place, {FILE})")
        self._load_aside(rule)
        self.engine.run("CREATE TABLE earlier_rows AS " + self._earlier([]))
        self._touch(self._left())
        self._make_touched_ids()
        self._touch({*self._of_days(), *self._of_ids()})
        self._insert()
        kinds = self.engine.rows(
            f"SELECT DISTINCT {c.EVENT_TYPE} FROM {self.part.rows} WHERE {BROKEN} IS NULL"
        )
        if 2 * len({*self.state["kinds"], *(str(row[0]) for row in kinds)}) > EVENT_TYPES:
            raise StartAgain

    def _load_aside(self, rule: str) -> None:
        """The table `aside_rows`: what was not accepted then, of what is the same now; `again` is the rule
        that a row breaks by itself now."""
        file = self.folder / ASIDE_FILE
        source = relation([file]) if file.exists() else f"({self._earlier([])})"
        broken = BROKEN if file.exists() else f"CAST(NULL AS VARCHAR) AS {BROKEN}"
        known = ", ".join((LOG, ROW, PLACE, *_ROWS, c.VALUE, c.SOURCE_FILE))
        self.engine.run(
            f"CREATE TABLE aside_rows AS SELECT *, {rule} AS again FROM (SELECT r.* EXCLUDE"
            f" ({c.SOURCE_FILE}), coalesce(k.{FILE}, 0) AS {FILE} FROM (SELECT {known}, {broken}"
            f" FROM {source}) r LEFT JOIN kept_files k ON k.place = r.{c.SOURCE_FILE}"
            f" WHERE (k.{FILE} IS NOT NULL OR r.{LOG} = 1) AND {self.part.admitted()})"
        )

    def _earlier(self, names: Sequence[str]) -> str:
        """Query of the accepted rows of some files of events, with whether they are `gone`."""
        nothing = not names
        # Any file tells the columns where no row is wanted.
        files = [self.file(name) for name in (names or list(self.periods)[:1])]
        rows = (
            f"SELECT CASE WHEN {LOG_POSITION} IS NULL THEN 0 ELSE 1 END AS {LOG}, coalesce(k.{FILE}, 0)"
            f" AS {FILE}, {c.SOURCE_ROW} AS {ROW}, coalesce({LOG_POSITION}, {c.SOURCE_ROW}) AS {PLACE},"
            f" {', '.join(_ROWS)}, coalesce({EXACT_VALUE}, CAST({c.VALUE} AS DOUBLE)) AS {c.VALUE},"
            f" {c.SOURCE_FILE}, {LOG_POSITION} IS NULL AND k.{FILE} IS NULL AS other_file"
            f" FROM {relation(files)} e LEFT JOIN kept_files k ON k.place = e.{c.SOURCE_FILE}"
        )
        gone = f"other_file OR NOT ({self.part.admitted()}) AS gone"
        return f"SELECT r.*, {gone} FROM ({rows}) r" + (" LIMIT 0" if nothing else "")

    def carried(self, names: Sequence[str]) -> str:
        """Query of the rows of files that stay, for other files than they lie in."""
        return f"SELECT * EXCLUDE (other_file, gone, {c.SOURCE_FILE}) FROM ({self._earlier(names)})"

    def _touch(self, names: set[str]) -> None:
        """Load the rows of further files of events."""
        fresh = sorted(names - self.touched)
        if fresh:
            self.engine.run("INSERT INTO earlier_rows BY NAME " + self._earlier(fresh))
        self.touched |= names

    def _left(self) -> set[str]:
        """Files of events that hold rows of files that changed, of people forgotten since, or too old ones."""
        found = {
            name
            for name, facts in self.periods.items()
            if not set(facts["files"]) <= self._places.keys()
        }
        since = self.basis.since
        if since is not None and since != self.state["since"]:
            found |= {name for name in self.periods if period_of(name).first * DAY_US < since}
        fresh = [key for key in self.basis.forgotten if key not in set(self.state["forgotten"])]
        if fresh:
            listed = ", ".join(map(quote, fresh))
            found |= self._holding(
                f"{c.USER_ID} IN (SELECT {c.USER_ID} FROM forgotten_keys WHERE digest IN ({listed}))"
            )
        return found

    def _holding(self, condition: str) -> set[str]:
        """Files of events not touched yet that hold such a row."""
        files = [self.file(name) for name in self.untouched]
        if not files:
            return set()
        source = relation(files)[:-1] + f", filename = '{_PATH}')"
        rows = self.engine.rows(f"SELECT DISTINCT {_PATH} FROM {source} WHERE {condition}")
        return {Path(str(row[0])).stem for row in rows}

    def _make_touched_ids(self) -> None:
        """The table `touched_ids`: ids of events of which a row came or went, so that all are judged again."""
        self.engine.run(
            f"CREATE TABLE touched_ids AS SELECT DISTINCT {c.EVENT_ID} FROM ("
            f"SELECT {c.EVENT_ID} FROM {self.part.rows} WHERE {BROKEN} IS NULL"
            f" UNION ALL SELECT {c.EVENT_ID} FROM earlier_rows WHERE gone"
            f" UNION ALL SELECT {c.EVENT_ID} FROM aside_rows WHERE again IS NULL AND {self._by_itself}"
            f") WHERE {c.EVENT_ID} IS NOT NULL"
        )

    @cached_property
    def _by_itself(self) -> str:
        """SQL: a row that was set aside broke a rule of its own, not by another row."""
        return f"{BROKEN} NOT IN ({', '.join(map(quote, _BY_KEY))})"

    def _of_days(self) -> set[str]:
        """Files of events in whose days a row came in, or may come back."""
        touched = f"{c.EVENT_ID} IN (SELECT {c.EVENT_ID} FROM touched_ids)"
        days = self.engine.rows(
            f"SELECT DISTINCT {_DAY} FROM (SELECT {c.TIMESTAMP} FROM {self.part.rows} WHERE {BROKEN} IS NULL"
            f" UNION ALL SELECT {c.TIMESTAMP} FROM aside_rows WHERE again IS NULL AND"
            f" ({self._by_itself} OR {touched}))"
        )
        return self._covering({int(row[0]) for row in days})

    def _covering(self, days: set[int]) -> set[str]:
        covered = [period_of(name) for name in self.untouched]
        return {p.name for p in covered if any(p.first <= day < p.end for day in days)}

    def _of_ids(self) -> set[str]:
        """Files of events that hold an event of which a row came or went."""
        if not self.engine.one("SELECT count(*) FROM touched_ids"):
            return set()
        return self._holding(f"{c.EVENT_ID} IN (SELECT {c.EVENT_ID} FROM touched_ids)")

    def _insert(self) -> None:
        """Put the earlier rows that are judged again among the part's rows, beside those set aside."""
        self.engine.run(
            f"INSERT INTO {self.part.rows} BY NAME SELECT * EXCLUDE (gone, other_file, {c.SOURCE_FILE}),"
            f" CAST(NULL AS VARCHAR) AS {BROKEN} FROM earlier_rows WHERE NOT gone"
        )
        others = (
            f"CASE WHEN {c.EVENT_ID} IS NULL THEN {self._inside(c.TIMESTAMP)}"
            f" ELSE {c.EVENT_ID} IN (SELECT {c.EVENT_ID} FROM touched_ids) END"
        )
        self.engine.run(
            f"INSERT INTO {self.part.rows} BY NAME SELECT * EXCLUDE ({BROKEN}, again),"
            f" CASE WHEN {self._by_itself} THEN again WHEN {others} THEN NULL ELSE {BROKEN} END"
            f" AS {BROKEN} FROM aside_rows"
        )

    def _inside(self, column: str) -> str:
        """SQL: a timestamp lies in a file of events whose rows are judged again."""
        return (
            f"({' OR '.join(period_of(x).holds(column) for x in sorted(self.touched)) or 'false'})"
        )

    def first_events(self) -> str:
        """Query of (user, timestamp) that holds the first event of everybody with one."""
        vocabulary = relation([self.folder / "user_vocabulary.parquet"])
        inside = self._inside(FIRST_EVENT)
        acted = f"SELECT * FROM {vocabulary} WHERE {FIRST_EVENT} IS NOT NULL"
        query = f"SELECT {c.USER_ID}, {c.TIMESTAMP} FROM ({self.part.accepted})"
        query += f" UNION ALL SELECT {c.USER_ID}, {FIRST_EVENT} FROM ({acted} AND NOT {inside})"
        files = [self.file(name) for name in self.untouched]
        if self.touched and files:
            # Whose first event lies in a file that changes may now begin later.
            query += (
                f" UNION ALL SELECT v.{c.USER_ID}, min(e.{c.TIMESTAMP}) FROM {relation(files)} e"
                f" JOIN ({acted} AND {inside}) v USING ({USER_INDEX}) GROUP BY 1"
            )
        return query

    def renumbered(self) -> set[str]:
        """Untouched files of events from the first on in which a user has another number now.

        Needs the table `user_vocabulary`.
        """
        vocabulary = relation([self.folder / "user_vocabulary.parquet"])
        first = self.engine.one(
            f"SELECT epoch_us(min(o.{FIRST_EVENT})) FROM {vocabulary} o LEFT JOIN user_vocabulary n"
            f" USING ({c.USER_ID}) WHERE n.{USER_INDEX} IS DISTINCT FROM o.{USER_INDEX}"
        )
        if first is None:
            return set()
        return {name for name in self.untouched if period_of(name).end * DAY_US > first}
