"""Items: cleaned, numbered once and for all, and merged with what the service was told.

Where several say something of an item, the newest wins column by column: the log's latest word,
then the file, then (for items gone from the files) what an earlier run knew. An item the file no
longer has stays in the vocabulary, unavailable, unless the service was told of it.
"""

from collections.abc import Set
from pathlib import Path

import pyarrow as pa

from recsys.data_schemas import columns as c
from recsys.data_schemas.tables import (
    CATEGORY_LIMIT,
    DESCRIPTION_LIMIT,
    TAG_LIMIT,
    TITLE_LIMIT,
)
from recsys.ingestion.tables.duck import DuckEngine, name, quote
from recsys.ingestion.tables.readers import FILE, ROW
from recsys.ingestion.tables.table_ingest import (
    BROKEN,
    LOG,
    PLACE,
    TableIngest,
    blank,
)
from recsys.ingestion.tables.types import group

CONTROL = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F]"
"""Control characters that no text needs (tab, line feed and carriage return may stay)."""
_OURS = {*c.ITEM_STANDARD, c.POSITION, c.RECEIVED_AT, c.ITEM_INDEX}


def stage_items(part: TableIngest, previous: Path | None) -> int:
    """Make the table `vocabulary` of all items in vocabulary order; how many there are.

    `previous` is an earlier run's items.parquet: its items keep their places.
    """
    attributes = attribute_columns(part)
    part.stage(f"CASE WHEN {blank(c.ITEM_ID)} THEN 'missing_item_id' END AS {BROKEN}", attributes)
    part.attributes = keep_attributes(part, attributes)
    part.reject_repeats("duplicate_item_id", c.ITEM_ID, c.ITEM_ID, f"{LOG} = 0")
    _count_texts(part)
    _merge(part, previous, part.attributes)
    return int(part.engine.one("SELECT count(*) FROM vocabulary"))


def write_items(engine: DuckEngine, path: Path) -> None:
    """Write the vocabulary, in order."""
    engine.copy(f"SELECT * FROM vocabulary ORDER BY {c.ITEM_INDEX}", path)


def attribute_columns(part: TableIngest, standard: Set[str] = _OURS) -> list[str]:
    """Columns beyond the standard ones that may be attributes, by type."""
    kinds: dict[str, str] = {}
    spelled = {column.lower(): column for column in standard}
    for side, source, _ in part.sides():
        partitions = {p.split("=", 1)[0] for f in source.files for p in f.parts if "=" in p}
        for column, kind in source.kinds.items():
            coarse = _coarse(kind)
            if column in standard or column in partitions:
                continue
            if spelled.setdefault(column.lower(), column) != column:
                part.notes.append(f"column `{column}` is left out: another differs only in case")
                continue
            if coarse == "other":
                part.notes.append(f"column `{column}` ({kind}) is left out: no attribute type")
            elif kinds.setdefault(column, coarse) != coarse:
                side_name = "the service's log" if side else "the files"
                part.notes.append(
                    f"column `{column}` is {coarse} in {side_name} but {kinds[column]} elsewhere:"
                    " left out"
                )
                kinds[column] = "conflict"
    return [column for column, coarse in kinds.items() if coarse not in ("conflict", "null")]


def _coarse(kind: pa.DataType) -> str:
    named = group(kind)
    if named in ("integer", "float"):
        return "number"
    return named if named in ("bool", "string", "null") else "other"


def keep_attributes(part: TableIngest, attributes: list[str]) -> list[str]:
    """Leave string columns out that have too many values to be an attribute."""
    kept = []
    types = part.engine.describe(part.rows)
    for column in attributes:
        if types[column] == "VARCHAR":
            distinct = part.engine.one(
                f"SELECT approx_count_distinct({name(column)}) FROM {part.rows}"
            )
            if distinct <= 2 * CATEGORY_LIMIT:
                distinct = part.engine.one(
                    f"SELECT count(DISTINCT {name(column)}) FROM {part.rows}"
                )
            if distinct > CATEGORY_LIMIT:
                part.notes.append(
                    f"column `{column}` has more than {CATEGORY_LIMIT:,} distinct texts:"
                    " left out; shorten it to categories to use it as an attribute"
                )
                continue
        kept.append(column)
    return kept


def _count_texts(part: TableIngest) -> None:
    """Count what cleaning will change and what is empty."""
    tags = f"list_filter({c.TAGS}, lambda t: coalesce(trim(t), '') <> '')"
    joined = (
        f"concat_ws(' ', {c.TITLE}, {c.DESCRIPTION}, {c.CATEGORY}, array_to_string({c.TAGS}, ' '))"
    )
    counts = {
        "title_cut": f"length({c.TITLE}) > {TITLE_LIMIT}",
        "description_cut": f"length({c.DESCRIPTION}) > {DESCRIPTION_LIMIT}",
        "tags_cut": f"len({tags}) > {TAG_LIMIT}",
        "control_characters": f"regexp_matches({joined}, {quote(CONTROL)})",
        "no_title": f"{blank(c.TITLE)} AND {LOG} = 0",
        "no_text": f"trim({joined}) = '' AND {LOG} = 0",
    }
    selected = ", ".join(f"count(*) FILTER ({test})" for test in counts.values())
    values = part.engine.rows(f"SELECT {selected} FROM ({part.accepted})")[0]
    for warning, count in zip(counts, values, strict=True):
        part.warn(warning, count)


def _text(column: str, limit: int) -> str:
    """SQL: a text without control characters, within its limit, never null."""
    cleaned = f"regexp_replace(left({column}, {limit}), {quote(CONTROL)}, ' ', 'g')"
    return f"coalesce({cleaned}, '')"


def _tags(column: str) -> str:
    """SQL: tags trimmed, without blanks or nulls, never null."""
    cleaned = (
        f"list_transform({column}, lambda t: trim(regexp_replace(t, {quote(CONTROL)}, ' ', 'g')))"
    )
    kept = f"list_filter({cleaned}, lambda t: coalesce(t, '') <> '')[:{TAG_LIMIT}]"
    return f"coalesce({kept}, CAST([] AS VARCHAR[]))"


def _merge(part: TableIngest, previous: Path | None, attributes: list[str]) -> None:
    """The table `vocabulary`: every item of previous run, log and files, once, numbered."""
    engine = part.engine
    columns = [c.TITLE, c.DESCRIPTION, c.TAGS, c.CATEGORY, c.CREATED_AT, c.AVAILABLE, *attributes]
    known = _previous(engine, previous, part, columns)
    engine.run(f"CREATE TABLE items_file AS SELECT * FROM ({part.accepted}) WHERE {LOG} = 0")
    latest = ", ".join(
        f"arg_max({name(column)}, ({PLACE}, {ROW})) AS {name(column)}" for column in columns
    )
    engine.run(
        f"CREATE TABLE items_log AS SELECT {c.ITEM_ID}, min({PLACE}) AS {PLACE},"
        f" min({c.RECEIVED_AT}) AS {c.RECEIVED_AT}, {latest}"
        f" FROM ({part.accepted}) WHERE {LOG} = 1 GROUP BY {c.ITEM_ID}"
    )
    values = {column: _newest(column) for column in columns}
    values[c.TITLE] = _text(values[c.TITLE], TITLE_LIMIT)
    values[c.DESCRIPTION] = _text(values[c.DESCRIPTION], DESCRIPTION_LIMIT)
    values[c.CATEGORY] = _text(values[c.CATEGORY], TITLE_LIMIT)
    values[c.TAGS] = _tags(values[c.TAGS])
    values[c.CREATED_AT] = f"coalesce({values[c.CREATED_AT]}, l.{c.RECEIVED_AT})"
    values[c.AVAILABLE] = (
        f"coalesce(l.{c.AVAILABLE}, f.{c.AVAILABLE}, l.{c.ITEM_ID} IS NOT NULL"
        f" OR f.{c.ITEM_ID} IS NOT NULL)"
    )
    for column in attributes:
        if engine.describe("items_file")[column] == "DOUBLE":
            number = values[column]
            values[column] = f"CASE WHEN isfinite({number}) THEN {number} END"
    selected = ", ".join(f"{sql} AS {name(column)}" for column, sql in values.items())
    engine.run(
        f"CREATE TABLE vocabulary AS WITH ids AS (SELECT {c.ITEM_ID} FROM {known}"
        f" UNION SELECT {c.ITEM_ID} FROM items_log UNION SELECT {c.ITEM_ID} FROM items_file)"
        f" SELECT CAST(row_number() OVER (ORDER BY p.{c.ITEM_INDEX} NULLS LAST,"
        f" l.{PLACE} NULLS LAST, f.{FILE}, f.{ROW}) - 1 AS INTEGER) AS {c.ITEM_INDEX},"
        f" i.{c.ITEM_ID}, {selected} FROM ids i LEFT JOIN {known} p USING ({c.ITEM_ID})"
        f" LEFT JOIN items_log l USING ({c.ITEM_ID}) LEFT JOIN items_file f USING ({c.ITEM_ID})"
    )
    part.warn(
        "withdrawn",
        engine.one(
            f"SELECT count(*) FROM {known} p WHERE NOT EXISTS (SELECT 1 FROM items_file f"
            f" WHERE f.{c.ITEM_ID} = p.{c.ITEM_ID}) AND NOT EXISTS (SELECT 1 FROM items_log l"
            f" WHERE l.{c.ITEM_ID} = p.{c.ITEM_ID})"
        ),
    )


def _newest(column: str) -> str:
    """SQL: the log's latest word, then the file's; an earlier run's only for items in neither."""
    named = name(column)
    gone = f"CASE WHEN l.{c.ITEM_ID} IS NULL AND f.{c.ITEM_ID} IS NULL THEN p.{named} END"
    return f"coalesce(l.{named}, f.{named}, {gone})"


def _previous(
    engine: DuckEngine, previous: Path | None, part: TableIngest, columns: list[str]
) -> str:
    """Name of a table holding the earlier vocabulary with today's columns."""
    types = engine.describe(part.rows)
    source = f"read_parquet({quote(str(previous))})" if previous else ""
    there = engine.describe(source) if previous else {}
    selected = ", ".join(
        f"{name(x) if there.get(x) == types[x] else f'CAST(NULL AS {types[x]})'} AS {name(x)}"
        for x in columns
    )
    if previous:
        rows = f"SELECT {c.ITEM_INDEX}, {c.ITEM_ID}, {selected} FROM {source}"
    else:
        rows = (
            f"SELECT CAST(NULL AS INTEGER) AS {c.ITEM_INDEX}, CAST(NULL AS VARCHAR)"
            f" AS {c.ITEM_ID}, {selected} LIMIT 0"
        )
    engine.run(f"CREATE TABLE items_previous AS {rows}")
    return "items_previous"
