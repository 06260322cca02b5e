"""Items: cleaned, numbered once and for all, and merged with what the service was told.

Where several say something of an item, the newest wins column by column: the log's latest word,
then the file, then (for items gone from the files) what an earlier run knew. An item the file no
longer has stays in the vocabulary, unavailable, unless the service was told of it.
"""

from pathlib import Path

from recsys.data_schemas import columns as c
from recsys.data_schemas.limits import DESCRIPTION_LENGTH, TAG_COUNT, TEXT_LENGTH, TITLE_LENGTH
from recsys.ingestion.tables.attribute_columns import (
    attribute_columns,
    count_losses,
    keep_attributes,
)
from recsys.ingestion.tables.cells import blank
from recsys.ingestion.tables.duck import name, quote
from recsys.ingestion.tables.readers import FILE, ROW
from recsys.ingestion.tables.table_ingest import (
    BROKEN,
    LOG,
    PLACE,
    TableIngest,
    id_faults,
)
from recsys.ingestion.tables.vector_column import check_vectors, drop_other_vectors

_COLUMNS = (c.TITLE, c.DESCRIPTION, c.TAGS, c.CATEGORY, c.CREATED_AT, c.AVAILABLE, c.VECTOR)
CONTROL = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F]"
"""Control characters that no text needs (tab, line feed and carriage return may stay)."""


def stage_items(part: TableIngest, previous: Path | None) -> int:
    """Make the table `vocabulary` of all items in vocabulary order; how many there are.

    `previous` is an earlier run's items.parquet: its items keep their places.
    """
    part.attributes = attribute_columns(part)
    part.stage(f"CASE {id_faults(c.ITEM_ID, 'missing_item_id')} END AS {BROKEN}")
    count_losses(part)
    keep_attributes(part)
    part.warn_where(part.rows, {"created_at_beyond": f"NOT isfinite({c.CREATED_AT})"})
    part.reject_repeats("duplicate_item_id", c.ITEM_ID, c.ITEM_ID, f"{LOG} = 0")
    _count_texts(part)
    length = check_vectors(part)
    _merge(part, previous)
    drop_other_vectors(part, length)
    return int(part.engine.one("SELECT count(*) FROM vocabulary"))


def write_items(part: TableIngest, path: Path) -> None:
    """Write the vocabulary, in order, attributes under their owner's names."""
    given = part.engine.one(f"SELECT count({c.VECTOR}) FROM vocabulary")
    columns = _COLUMNS if given else _COLUMNS[:-1]
    standard = ", ".join((c.ITEM_INDEX, c.ITEM_ID, *columns))
    own = "".join(f", {a.inner} AS {name(a.name)}" for a in part.attributes)
    part.engine.copy(f"SELECT {standard}{own} FROM vocabulary ORDER BY {c.ITEM_INDEX}", path)


def _count_texts(part: TableIngest) -> None:
    """Count what cleaning will change and what is empty."""
    tags = f"list_filter({c.TAGS}, lambda t: coalesce(trim(t), '') <> '')"
    joined = (
        f"concat_ws(' ', {c.TITLE}, {c.DESCRIPTION}, {c.CATEGORY}, array_to_string({c.TAGS}, ' '))"
    )
    tests = {
        "title_cut": f"length({c.TITLE}) > {TITLE_LENGTH}",
        "description_cut": f"length({c.DESCRIPTION}) > {DESCRIPTION_LENGTH}",
        "category_cut": f"length({c.CATEGORY}) > {TEXT_LENGTH}",
        "tags_cut": f"len({tags}) > {TAG_COUNT}",
        "control_characters": f"regexp_matches({joined}, {quote(CONTROL)})",
        "no_title": f"{blank(c.TITLE)} AND {LOG} = 0",
        "no_text": f"trim({joined}) = '' AND {LOG} = 0",
    }
    part.warn_where(f"({part.accepted})", tests)


def _text(column: str, limit: int) -> str:
    """SQL: a text without control characters, within its limit, never null."""
    cleaned = f"regexp_replace(left({column}, {limit}), {quote(CONTROL)}, ' ', 'g')"
    return f"coalesce({cleaned}, '')"


def _tags(column: str) -> str:
    """SQL: tags trimmed, without blanks or nulls, never null."""
    cleaned = (
        f"list_transform({column}, lambda t:"
        f" trim(regexp_replace(left(t, {TEXT_LENGTH}), {quote(CONTROL)}, ' ', 'g')))"
    )
    kept = f"list_filter({cleaned}, lambda t: coalesce(t, '') <> '')[:{TAG_COUNT}]"
    return f"coalesce({kept}, CAST([] AS VARCHAR[]))"


def _merge(part: TableIngest, previous: Path | None) -> None:
    """The table `vocabulary`: every item of previous run, log and files, once, numbered."""
    engine = part.engine
    columns = [*_COLUMNS, *(a.inner for a in part.attributes)]
    known = _previous(part, previous)
    engine.run(f"CREATE TABLE items_file AS SELECT * FROM ({part.accepted}) WHERE {LOG} = 0")
    latest = ", ".join(f"arg_max({x}, ({PLACE}, {ROW})) AS {x}" for x in columns)
    engine.run(
        f"CREATE TABLE items_log AS SELECT {c.ITEM_ID}, min({PLACE}) AS {PLACE},"
        f" min({c.RECEIVED_AT}) AS {c.RECEIVED_AT}, {latest}"
        f" FROM ({part.accepted}) WHERE {LOG} = 1 GROUP BY {c.ITEM_ID}"
    )
    values = {column: _newest(column) for column in columns}
    values[c.TITLE] = _text(values[c.TITLE], TITLE_LENGTH)
    values[c.DESCRIPTION] = _text(values[c.DESCRIPTION], DESCRIPTION_LENGTH)
    values[c.CATEGORY] = _text(values[c.CATEGORY], TEXT_LENGTH)
    values[c.TAGS] = _tags(values[c.TAGS])
    created = values[c.CREATED_AT]
    values[c.CREATED_AT] = (
        f"coalesce(CASE WHEN isfinite({created}) THEN {created} END, l.{c.RECEIVED_AT})"
    )
    values[c.AVAILABLE] = (
        f"coalesce(l.{c.AVAILABLE}, f.{c.AVAILABLE}, l.{c.ITEM_ID} IS NOT NULL"
        f" OR f.{c.ITEM_ID} IS NOT NULL)"
    )
    selected = ", ".join(f"{sql} AS {column}" for column, sql in values.items())
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
    gone = f"CASE WHEN l.{c.ITEM_ID} IS NULL AND f.{c.ITEM_ID} IS NULL THEN p.{column} END"
    return f"coalesce(l.{column}, f.{column}, {gone})"


def _previous(part: TableIngest, previous: Path | None) -> str:
    """Name of a table holding the earlier vocabulary with today's columns."""
    engine = part.engine
    types = engine.describe(part.rows)
    source = f"read_parquet({quote(str(previous))})" if previous else ""
    there = engine.describe(source) if previous else {}
    columns = {x: x for x in _COLUMNS} | {a.inner: a.name for a in part.attributes}
    selected = ", ".join(
        f"{name(theirs) if there.get(theirs) == types[x] else f'CAST(NULL AS {types[x]})'} AS {x}"
        for x, theirs in columns.items()
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
