"""One table on its way in: its files and its part of the log, rows set aside, things counted."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import DataRefused
from recsys.data_schemas.limits import ID_LENGTH
from recsys.data_schemas.tables import RULES, Column, Kind, Table
from recsys.ingestion.tables.cells import (
    AttributeCell,
    attribute_expression,
    blank,
    expression,
    sound,
)
from recsys.ingestion.tables.duck import DuckEngine, name, quote
from recsys.ingestion.tables.readers import (
    FILE,
    ROW,
    Source,
    needs_recoding,
    recode,
    type_notes,
    view,
)
from recsys.ingestion.tables.types import group
from recsys.storage.files import is_disk_full

LOG = "__log"
"""Whether a row comes from the service's log."""
PLACE = "__place"
"""Log position of a row of the log, number of the row within its file otherwise."""
EXAMPLES = 3
"""Rows shown per broken rule."""
BROKEN = "__rule"
"""Name of the rule a row breaks; null where it breaks none."""
IN_LOG = "in_log_already"
"""In the place of a rule: the row of a file is left out because the log holds the event; none is broken."""
SHOWN_CHARACTERS = 60
"""Length at which a cell of an example is cut."""
_NOT_THE_FILES = (
    duckdb.ParserException,
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.InternalException,
    duckdb.OutOfMemoryException,
)
"""Errors that say nothing about the caller's files."""
_BAD_TEXT = "invalid string encoding"


class StartAgain(Exception):
    """What an earlier ingestion left cannot be built upon after all."""


@dataclass
class StillHolds:
    """What of an earlier ingestion of a table is as it would be made now."""

    files: dict[str, int]
    """Files that are the same, by label, with their number now."""
    log_until: int
    """Last position of the log's rows that are the same."""
    lost: dict[str, dict[str, int]]
    """Cells that could not be read by warning and by file, "" for the log."""
    quarantine: Path
    """Folder of the rows that were set aside."""


@dataclass
class TableIngest:
    """One table of an ingestion. `log` is its part of the service's log, if there is any."""

    engine: DuckEngine
    table: Table
    files: Source
    log: Source | None
    scratch: Path
    warnings: dict[str, int] = field(default_factory=dict)
    """Counts by warning."""
    log_warnings: dict[str, int] = field(default_factory=dict)
    """Those of them that the log's rows make up."""
    notes: list[str] = field(default_factory=list)
    attributes: list[AttributeCell] = field(default_factory=list)
    """Columns beyond the standard ones that are kept."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Rows of the caller's files by the rule they broke."""
    rejected_log: dict[str, int] = field(default_factory=dict)
    """Rows of the log by the rule they broke; they do not count towards the limit."""
    since: int | None = None
    """Time (µs UTC) before which rows are too old to be kept; None keeps all."""
    left_out: int = 0
    """Rows of users to be forgotten or who opted out, and rows that are too old."""
    holds: StillHolds | None = None
    """What need not be read again; None reads everything."""
    lost: dict[str, dict[str, int]] = field(default_factory=dict)
    """As `StillHolds.lost`, of this ingestion."""
    recoded: bool = False
    """Whether texts had to be repaired."""
    set_aside: dict[int, Path] = field(default_factory=dict)
    """Quarantine of files (0) and log (1), where rows were set aside."""

    @property
    def rows(self) -> str:
        """Table of the rows in our own types, with the rule they break or null."""
        return f"{self.table.name}_rows"

    def sides(self) -> Iterator[tuple[int, Source, str]]:
        """(0 for files or 1 for the log, source, name of its raw view)."""
        yield 0, self.files, f"{self.table.name}_raw"
        if self.log is not None:
            yield 1, self.log, f"{self.table.name}_log_raw"

    def stage(self, select: str) -> None:
        """Make `rows` of both sides: the known columns, `attributes`, and `select`, the SQL of
        further columns over the known ones' names (among them `BROKEN`)."""
        self._make_views()
        try:
            self._stage(select)
        except duckdb.Error as error:
            if _BAD_TEXT in str(error).lower():
                self._recode_all()
                self._stage(select)
            elif isinstance(error, _NOT_THE_FILES) or is_disk_full(error):
                raise
            else:
                raise self._damaged(error) from error

    def _damaged(self, error: duckdb.Error) -> DataRefused:
        """The message for a file whose footer is whole and whose rows are not."""
        label = self.files.where
        for _, source, _ in self.sides():
            for file, shown in zip(source.files, source.labels, strict=True):
                try:
                    self.engine.run(f"SELECT max(hash(r)) FROM read_parquet({quote(str(file))}) r")
                except duckdb.Error:
                    label = shown
                    break
        return DataRefused(
            "a file is damaged: its rows cannot be read",
            where=label,
            found=str(error).splitlines()[0][:200],
            expected="a complete Parquet file",
            fix="export or copy it again",
        )

    def _make_views(self) -> None:
        for _, source, raw in self.sides():
            self.notes += type_notes(source)
            if needs_recoding(source):
                self._recode_all()
                return
            self._view(source, raw, bool(source is self.log))

    def _view(self, source: Source, raw: str, log: bool) -> None:
        """A view of the rows that have to be read."""
        if self.holds is None:
            view(self.engine, source, raw)
        elif log:
            whole = f"{raw}_whole"
            view(self.engine, source, whole)
            place = f"CAST({source.inner(c.POSITION)} AS BIGINT)"
            self.engine.run(
                f"CREATE VIEW {raw} AS SELECT * FROM {whole}"
                f" WHERE coalesce({place} > {self.holds.log_until}, true)"
            )
        else:
            same = set(self.holds.files.values())
            fresh = [number for number in range(len(source.files)) if number not in same]
            view(self.engine, source, raw, fresh)

    def _recode_all(self) -> None:
        """Replace both sides by copies that are valid UTF-8."""
        if self.holds is not None:
            raise StartAgain
        self.recoded = True
        changed = 0
        for side, source, raw in self.sides():
            clean, wrong = recode(source, self.scratch / f"recoded-{raw}")
            self.files, self.log = (clean, self.log) if side == 0 else (self.files, clean)
            changed += wrong
            self.engine.run(f"DROP VIEW IF EXISTS {raw}; DROP TABLE IF EXISTS {raw}_files")
            view(self.engine, clean, raw)
        self.warn("invalid_utf8", changed)

    def _stage(self, select: str) -> None:
        parts = []
        for side, source, raw in self.sides():
            known = ", ".join(
                f"{expression(source, column)} AS {name(column.name)}"
                for column in self.table.columns
                if column.name != c.RECEIVED_AT
            )
            place = f"CAST({source.inner(c.POSITION)} AS BIGINT)" if side else ROW
            received = "NULL"
            if group(source.kinds.get(c.RECEIVED_AT, pa.null())) in ("timestamp with zone", "date"):
                received = expression(source, Column(c.RECEIVED_AT, Kind.TIME))
            others = "".join(
                f", {attribute_expression(source, a)} AS {a.inner}" for a in self.attributes
            )
            parts.append(
                f"SELECT {side} AS {LOG}, {FILE}, {ROW}, {place} AS {PLACE}, {known},"
                f" CAST({received} AS TIMESTAMPTZ) AS {name(c.RECEIVED_AT)}{others} FROM {raw}"
            )
        self.engine.run(f"DROP TABLE IF EXISTS {self.rows}")
        self.engine.run(
            f"CREATE TABLE {self.rows} AS SELECT *, {select} FROM ({' UNION ALL '.join(parts)}) r"
            + (f" WHERE {self.admitted()}" if c.USER_ID in self.table.names else "")
        )
        if c.USER_ID in self.table.names:
            kept = self.engine.one(f"SELECT count(*) FROM {self.rows} WHERE {LOG} = 0")
            self.left_out = self.files.rows - int(kept)

    def admitted(self) -> str:
        """SQL of a row `r`: it is not of a user before being forgotten, and not too old.

        The table `forgotten` holds (user_id, until_time µs, until_place); null means at any time. Rows
        without a time are never too old; they break a rule.
        """
        timed = c.TIMESTAMP in self.table.names
        at = f"epoch_us(r.{c.TIMESTAMP})" if timed else "NULL"
        old = ""
        if self.since is not None:
            limit = f"to_timestamp({self.since} / 1000000.0)"
            old = f" AND coalesce(r.{c.TIMESTAMP} >= {limit}, true)"
        return (
            f"NOT EXISTS (SELECT 1 FROM forgotten g WHERE g.{c.USER_ID} = r.{c.USER_ID}"
            f" AND CASE WHEN r.{LOG} = 0 THEN coalesce({at} <= g.until_time, true)"
            f" ELSE coalesce(r.{PLACE} < g.until_place, true) END){old}"
        )

    def reject(self, rule: str, rows: str) -> None:
        """Set further rows aside: `rows` is a query of the rowids of `self.rows`."""
        self.engine.run(
            f"UPDATE {self.rows} SET {BROKEN} = {quote(rule)} WHERE rowid IN ({rows}) AND {BROKEN} IS NULL"
        )

    def reject_repeats(self, rule: str, key: str, exact: str, when: str = "true") -> None:
        """Set every row aside whose key was met earlier; the log's rows come first, then files.

        Rows are first grouped by the 64-bit hash of `key`, so that only the few that share one
        are compared by `exact` (a comma-separated list of columns).
        """
        candidates = f"FROM {self.rows} WHERE {BROKEN} IS NULL AND {when}"
        self.engine.run(
            f"CREATE TEMP TABLE repeated AS SELECT h FROM (SELECT hash({key}) AS h {candidates})"
            f" GROUP BY h HAVING count(*) > 1"
        )
        self.reject(
            rule,
            f"SELECT rowid FROM (SELECT rowid, row_number() OVER"
            f" (PARTITION BY {exact} ORDER BY {LOG} DESC, {FILE}, {PLACE}, {ROW}) AS nth"
            f" {candidates} AND hash({key}) IN (SELECT h FROM repeated)) WHERE nth > 1",
        )
        self.engine.run("DROP TABLE repeated")

    @property
    def accepted(self) -> str:
        """Query of the rows that broke no rule."""
        return f"SELECT * FROM {self.rows} WHERE {BROKEN} IS NULL"

    def _rejects(self, side: int) -> str:
        """Query of (FILE, ROW, rule) of the rows set aside on one side."""
        return (
            f"SELECT {FILE}, {ROW}, {BROKEN} FROM {self.rows}"
            f" WHERE {BROKEN} IS NOT NULL AND {BROKEN} <> {quote(IN_LOG)} AND {LOG} = {side}"
        )

    def warn(self, warning: str, count: int, side: int = 0) -> None:
        """Count a warning of the files (0) or the log (1)."""
        if count:
            self.warnings[warning] = self.warnings.get(warning, 0) + int(count)
            if side:
                self.log_warnings[warning] = self.log_warnings.get(warning, 0) + int(count)

    def warn_where(self, rows: str, tests: dict[str, str]) -> None:
        """Count the rows of a relation, of the files and of the log, for which a test (SQL) holds, by
        warning."""
        counts = ", ".join(f"count(*) FILTER ({test})" for test in tests.values())
        found = self.engine.rows(
            f"SELECT {LOG}, {counts} FROM {rows} GROUP BY {LOG} ORDER BY {LOG}"
        )
        for side, *values in found:
            for warning, count in zip(tests, values, strict=True):
                self.warn(warning, count, side)

    def warn_lost(self, warning: str, column: str) -> None:
        """Count the cells of a known column that hold something which cannot be read."""
        known = next(known for known in self.table.columns if known.name == column)
        found = dict(self.holds.lost.get(warning, {})) if self.holds else {}
        for side, source, raw in self.sides():
            if group(source.kinds.get(column, pa.null())) != "null":
                lost = f"{source.inner(column)} IS NOT NULL AND {expression(source, known)} IS NULL"
                counted = self.engine.rows(
                    f"SELECT {FILE}, count(*) FROM {raw} WHERE {lost} GROUP BY {FILE} ORDER BY {FILE}"
                )
                for file, count in counted:
                    label = "" if side else source.labels[file]
                    found[label] = found.get(label, 0) + int(count)
        self.lost[warning] = found
        for label, count in found.items():
            self.warn(warning, count, 0 if label else 1)

    def settle(self, out: Path, limit: float) -> None:
        """Count what was set aside, write it to the quarantine, and refuse if it is too much.

        Raises:
            DataRefused: more than `limit` of the file's rows broke a rule, or no row is left.
        """
        self.rejected, self.rejected_log = (
            self.engine.counts(
                f"SELECT {BROKEN}, count(*) FROM ({self._rejects(side)}) GROUP BY {BROKEN} ORDER BY {BROKEN}"
            )
            for side in (0, 1)
        )
        for side, source, raw in self.sides():
            if self.rejected_log if side else self.rejected:
                out.mkdir(exist_ok=True)
                file = out / f"{'log_' if side else ''}{self.table.name}.parquet"
                self.engine.write(self._quarantined(side, source, raw), file)
                self.set_aside[side] = file
        share = sum(self.rejected.values()) / max(self.files.rows - self.left_out, 1)
        if share > limit:
            raise self._refusal(share, limit)

    def _quarantined(self, side: int, source: Source, raw: str) -> str:
        """Query of the rows set aside, as they were, with rule, file and row in front."""
        labels = ", ".join(f"({i}, {quote(label)})" for i, label in enumerate(source.labels))
        shown = {column: _shown_as(column) for column in _apart(source)}
        self.engine.run(f"CREATE TEMP TABLE {raw}_aside AS {self._rejects(side)}")
        before = self._quarantined_before(side, raw, shown) if self.holds else ""
        cells = "".join(
            f", {_storable('r.' + source.inner(column), kind)} AS {name(shown[column])}"
            for column, kind in _apart(source).items()
        )
        query = (
            f"SELECT x.{FILE}, x.{ROW}, x.{BROKEN}{cells} FROM {self._read_again(side, source, raw)} r"
            f" JOIN {raw}_aside x ON x.{FILE} = r.{FILE} AND x.{ROW} = r.{ROW}"
        )
        if before:
            types = self.engine.describe(f"({query})")
            casts = "".join(f", CAST({name(x)} AS {types[x]}) AS {name(x)}" for x in shown.values())
            query += f" UNION ALL SELECT {FILE}, {ROW}, {BROKEN}{casts} FROM {before}"
        columns = "".join(f", {name(x)}" for x in shown.values())
        return (
            f"SELECT {BROKEN} AS {c.RULE}, l.label AS {c.SOURCE_FILE}, {ROW} AS {c.SOURCE_ROW}"
            f"{columns} FROM ({query}) q"
            f" JOIN (VALUES {labels}) l(file, label) ON l.file = q.{FILE} ORDER BY {FILE}, {ROW}"
        )

    def _quarantined_before(self, side: int, raw: str, shown: dict[str, str]) -> str:
        """Make a table of the cells of rows that were set aside earlier and are now, and take them out
        of `…_aside`; its name, or nothing where there are none."""
        assert self.holds is not None
        file = self.holds.quarantine / f"{'log_' if side else ''}{self.table.name}.parquet"
        if not file.exists():
            return ""
        same = ", ".join(f"({quote(x)}, {i})" for x, i in self.holds.files.items())
        cells = "".join(f", b.{name(x)}" for x in shown.values())
        number, join = "0", ""
        if not side:
            if not same:
                return ""
            number = f"f.{FILE}"
            join = f" JOIN (VALUES {same}) f(label, {FILE}) ON f.label = b.{c.SOURCE_FILE}"
        self.engine.run(
            f"CREATE TEMP TABLE {raw}_before AS SELECT x.{FILE}, x.{ROW}, x.{BROKEN}{cells}"
            f" FROM read_parquet({quote(str(file))}) b{join} JOIN {raw}_aside x"
            f" ON x.{FILE} = {number} AND x.{ROW} = b.{c.SOURCE_ROW}"
        )
        self.engine.run(
            f"DELETE FROM {raw}_aside x USING {raw}_before b"
            f" WHERE x.{FILE} = b.{FILE} AND x.{ROW} = b.{ROW}"
        )
        return f"{raw}_before"

    def _read_again(self, side: int, source: Source, raw: str) -> str:
        """The raw rows among which those of `…_aside` are: of files that were kept too, where a row that
        was accepted is set aside now."""
        if self.holds is None:
            return raw
        if side:
            return f"{raw}_whole"
        rows = self.engine.rows(f"SELECT DISTINCT {FILE} FROM {raw}_aside")
        view(self.engine, source, f"{raw}_again", [int(row[0]) for row in rows])
        return f"{raw}_again"

    def examples(self) -> list[dict[str, Any]]:
        """A few rows of each broken rule: rule, file, row and the cells that messages show."""
        found = []
        for side, source, _ in self.sides():
            if side not in self.set_aside:
                continue
            keys = [x.name for x in self.table.columns if x.required and x.name in source.kinds]
            cells = ", ".join(
                f"left(CAST(q.{name(k)} AS VARCHAR), {SHOWN_CHARACTERS})" for k in keys
            )
            labels = ", ".join(f"({i}, {quote(label)})" for i, label in enumerate(source.labels))
            within = f"l.{FILE}, q.{c.SOURCE_ROW}"
            rows = self.engine.rows(
                f"SELECT q.{c.RULE}, q.{c.SOURCE_FILE}, q.{c.SOURCE_ROW}, {cells}"
                f" FROM read_parquet({quote(str(self.set_aside[side]))}) q"
                f" JOIN (VALUES {labels}) l({FILE}, label) ON l.label = q.{c.SOURCE_FILE}"
                f" QUALIFY row_number() OVER (PARTITION BY q.{c.RULE} ORDER BY {within}) <= {EXAMPLES}"
                f" ORDER BY q.{c.RULE}, {within}"
            )
            found += [
                {
                    c.RULE: rule,
                    c.SOURCE_FILE: file,
                    c.SOURCE_ROW: row,
                    "cells": dict(zip(keys, cells, strict=True)),
                    "log": bool(side),
                }
                for rule, file, row, *cells in rows
            ]
        return found

    def _refusal(self, share: float, limit: float) -> DataRefused:
        total = sum(self.rejected.values())
        broken = "; ".join(
            f"{rule}: {count:,} ({RULES[rule].says})"
            for rule, count in sorted(self.rejected.items(), key=lambda pair: -pair[1])
        )
        of_files = [example for example in self.examples() if not example["log"]]
        shown = "".join("\n              " + say_example(e) for e in of_files[:6])
        worst = max(self.rejected, key=lambda rule: self.rejected[rule])
        if worst == "unknown_item":
            ids = self.engine.rows(f"SELECT {c.ITEM_ID} FROM vocabulary LIMIT {EXAMPLES}")
            known = ", ".join(repr(str(row[0])[:SHOWN_CHARACTERS]) for row in ids)
            shown += f"\n              while ids of the items table look like {known}"
        return DataRefused(
            f"{total:,} of {self.files.rows:,} rows of the {self.table.name} table break a rule",
            where=self.files.where,
            found=f"{broken}; for instance{shown}",
            expected=f"at most {limit:.1%} (data.quarantine_limit); these are {share:.1%}",
            fix=f"{RULES[worst].do}; or raise data.quarantine_limit if such rows are expected",
        )

    def summary(self, accepted: int) -> dict[str, Any]:
        """What `summary.json` says of this table."""
        return {
            "files": len(self.files.files),
            "source": self.files.where,
            "rows": self.files.rows,
            "log_rows": self.log.rows if self.log else 0,
            "accepted": accepted,
            "quarantined": sum(self.rejected.values()),
            "forgotten": self.left_out,
            "rules": self.rejected,
            "log_rules": self.rejected_log,
            "warnings": dict(sorted(self.warnings.items())),
            "log_warnings": dict(sorted(self.log_warnings.items())),
            "notes": self.notes,
            "examples": self.examples(),
        }


def _shown_as(column: str) -> str:
    """Name of a column in the quarantine, where three are ours."""
    ours = (c.RULE, c.SOURCE_FILE, c.SOURCE_ROW)
    return f"original_{column}" if column.lower() in ours else column


def _apart(source: Source) -> dict[str, Any]:
    """Columns and types without those that SQL takes for another: case does not count there."""
    first = {column.lower(): column for column in reversed(list(source.kinds))}
    return {column: source.kinds[column] for column in source.kinds if column in first.values()}


def _storable(cell: str, kind: Any) -> str:
    """A raw cell in a type that Parquet can hold: nulls of no type become strings, ids that are no
    text hexadecimal."""
    if group(kind) == "null":
        return f"CAST({cell} AS VARCHAR)"
    if group(kind) == "string":
        return shown_id(f"CAST({cell} AS VARCHAR)")
    return f"CAST({cell} AS VARCHAR[])" if group(kind) == "list<null>" else cell


def shown_id(cell: str) -> str:
    """SQL: a text as it is shown; behind `readers.MARK` stand an id's bytes."""
    return f"CASE WHEN starts_with({cell}, chr(0)) THEN 'hex:' || {cell}[2:] ELSE {cell} END"


def say_example(example: dict[str, Any]) -> str:
    """One line for one example row."""
    cells = ", ".join(f"{key} = {value!r}" for key, value in example["cells"].items())
    place = f"{Path(example[c.SOURCE_FILE]).name}, row {example[c.SOURCE_ROW]}"
    if example["log"]:
        place = f"the log's {place}"
    return f"{example[c.RULE]}: {place}: {cells}"


def id_faults(column: str, missing: str) -> str:
    """SQL of a CASE: the rules that an id can break; `missing` is the rule of one that is not there.

    One pattern tells the sound ones, which are nearly all.
    """
    return (
        f"WHEN NOT {sound(column, ID_LENGTH)} THEN CASE WHEN {blank(column)} THEN {quote(missing)}"
        f" WHEN starts_with({column}, chr(0)) THEN 'id_not_utf8' ELSE 'unfit_id' END"
    )


def time_faults(now: int) -> str:
    """SQL of a CASE: the rules that a timestamp can break; after `now` (µs) lies the future."""
    time = f"epoch_us({c.TIMESTAMP})"
    return (
        f"WHEN {c.TIMESTAMP} IS NULL THEN 'missing_timestamp'"
        f" WHEN NOT isfinite({c.TIMESTAMP}) THEN 'beyond_time'"
        f" WHEN {time} < 0 THEN 'before_1970' WHEN {time} > {now} THEN 'in_the_future'"
    )
