"""Amazon reviews in the layouts of 2014, 2018 and 2023, plain or gzipped.

A metadata file (its name has `meta` in it) and review files. Reviews are JSON lines. 2014 and 2018:
reviewerID, asin, overall, unixReviewTime; 2023: user_id, parent_asin, rating, timestamp in
milliseconds. Ratings alone come as CSV: with a header of those names (2023), or as item, user or user,
item, then rating and time without one (2018, 2014). Metadata of 2014 are Python dictionaries.
"""

import ast
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.ingestion.importers.layout import Job, listed
from recsys.ingestion.tables.duck import quote

_JSON = ("*.json", "*.json.gz", "*.jsonl", "*.jsonl.gz")
_CSV = ("*.csv", "*.csv.gz")
_LARGEST = 64 * 1024 * 1024
"""Bytes of one line at most."""
_META = {
    "asin": "VARCHAR",
    "parent_asin": "VARCHAR",
    "title": "VARCHAR",
    "description": "JSON",
    "feature": "JSON",
    "features": "JSON",
    "category": "JSON",
    "categories": "JSON",
    "main_category": "VARCHAR",
    "main_cat": "VARCHAR",
    "brand": "VARCHAR",
    "store": "VARCHAR",
    "price": "VARCHAR",
}
_REVIEWS = {
    "reviewerID": "VARCHAR",
    "user_id": "VARCHAR",
    "asin": "VARCHAR",
    "parent_asin": "VARCHAR",
    "overall": "DOUBLE",
    "rating": "DOUBLE",
    "unixReviewTime": "BIGINT",
    "timestamp": "BIGINT",
}
_PRICE = (
    r"^[^0-9A-Za-z.,]{0,4}([0-9][0-9,]*\.?[0-9]*|\.[0-9]+)(\s*-\s*[^0-9A-Za-z.,]{0,4}[0-9.,]+)?$"
)
"""A price, or the lower of a range. Pages were scraped: style sheets stand where prices should."""


def convert(job: Job) -> None:
    """Write items and events."""
    meta = [f for f in job.look(*_JSON) if "meta" in f.name.lower()]
    reviews = [f for f in job.look(*_JSON, *_CSV) if f not in meta]
    if not meta and not reviews:
        job.find(*_JSON, *_CSV, why="reviews and metadata")
    for kind, found in (("metadata, with `meta` in its name", meta), ("reviews", reviews)):
        if not found:
            raise UsageError(
                "a file of the amazon layout is missing",
                where=str(job.source),
                found=", ".join(f.name for f in meta + reviews),
                expected=f"a file of {kind}",
                fix="put reviews and metadata of one category into one folder",
            )
    _items(job, meta)
    _events(job, reviews)
    job.notes.append("Amazon reviews: research use; see the terms of the release.")


def _read(files: list[Path], columns: dict[str, str]) -> str:
    """SQL that reads JSON lines; keys a line lacks are null."""
    listed_columns = ", ".join(f"{name}: '{kind}'" for name, kind in columns.items())
    return (
        f"read_json({listed(files)}, format = 'newline_delimited',"
        f" columns = {{{listed_columns}}}, maximum_object_size = {_LARGEST})"
    )


def _text(column: str) -> str:
    """SQL: a JSON string, or the strings of a JSON list, as one text."""
    return (
        f"CASE json_type({column}) WHEN 'ARRAY' THEN"
        f" array_to_string(CAST({column} AS VARCHAR[]), ' ') ELSE {column} ->> '$' END"
    )


def _items(job: Job, meta: list[Path]) -> None:
    told = "coalesce(category, categories)"
    path = (
        f"CASE WHEN json_type({told}) = 'ARRAY' AND json_type({told}, '$[0]') = 'ARRAY'"
        f" THEN CAST({told} -> '$[0]' AS VARCHAR[])"
        f" WHEN json_type({told}) = 'ARRAY' THEN CAST({told} AS VARCHAR[]) END"
    )
    description = f"nullif(trim(concat_ws(' ', {_text('description')}, {_text('coalesce(feature, features)')})), '')"
    price = f"TRY_CAST(replace(regexp_extract(trim(price), '{_PRICE}', 1), ',', '') AS DOUBLE)"
    # Where a page's script was scraped for a title, nothing is known of it.
    title = "CASE WHEN contains(title, 'getTime()') THEN '' ELSE title END"
    # A department shown as a picture is named in its text.
    main = "CASE WHEN main_cat LIKE '%<img%' THEN regexp_extract(main_cat, 'alt=\"([^\"]*)\"', 1) ELSE main_cat END"
    brand = "nullif(trim(regexp_replace(coalesce(brand, store), '\\s+', ' ', 'g')), '')"
    job.write(
        "items",
        f"SELECT * FROM (SELECT coalesce(parent_asin, asin) AS {c.ITEM_ID}, {title} AS {c.TITLE},"
        f" {description} AS {c.DESCRIPTION}, coalesce({path}, CAST([] AS VARCHAR[])) AS {c.TAGS},"
        f" coalesce(main_category, nullif({main}, ''), ({path})[1]) AS {c.CATEGORY},"
        f" {price} AS price, {brand} AS brand FROM {_read(_as_json(job, meta), _META)})"
        f" QUALIFY row_number() OVER (PARTITION BY {c.ITEM_ID}) = 1 ORDER BY {c.ITEM_ID}",
        meta,
    )


def _as_json(job: Job, meta: list[Path]) -> list[Path]:
    """The metadata as JSON lines: those of 2014, Python dictionaries, are rewritten aside."""
    files = []
    for number, file in enumerate(meta):
        if not _is_python(file):
            files.append(file)
            continue
        target = job.target / ".scratch" / f"meta-{number}.jsonl"
        lost = _rewritten(file, target)
        job.notes.append(f"{file.name} holds Python dictionaries (the release of 2014).")
        if lost:
            job.notes.append(f"{lost:,} lines of {file.name} are left out: they are none.")
        files.append(target)
    return files


def _opened(file: Path) -> IO[str]:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8", errors="replace")
    return file.open(encoding="utf-8", errors="replace")


def _is_python(file: Path) -> bool:
    """Whether the first line with something in it is a Python dictionary and no JSON object."""
    try:
        with _opened(file) as lines:
            first = next((line for line in lines if line.strip()), "")
    except (OSError, EOFError):
        return False  # DuckDB says what is wrong with it.
    try:
        json.loads(first)
    except ValueError:
        return _dictionary(first) is not None
    return False


def _dictionary(line: str) -> dict[str, Any] | None:
    """A line that is a Python dictionary; None for any other."""
    try:
        value = ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    return value if isinstance(value, dict) else None


def _rewritten(file: Path, target: Path) -> int:
    """Write the known keys of a file of dictionaries as JSON lines; how many lines were none."""
    lost = 0
    with _opened(file) as lines, target.open("w", encoding="utf-8") as out:
        for line in lines:
            if not line.strip():
                continue
            found = _dictionary(line) if len(line) < _LARGEST else None
            if found is None:
                lost += 1
            else:
                kept = {name: value for name, value in found.items() if name in _META}
                out.write(json.dumps(kept, default=str) + "\n")
    return lost


def _events(job: Job, reviews: list[Path]) -> None:
    columns = f"{c.USER_ID}, {c.ITEM_ID}, 'rating' AS {c.EVENT_TYPE}, {c.VALUE}, {c.TIMESTAMP}"
    parts = " UNION ALL ".join(_parts(job, reviews))
    job.write(
        "events",
        f"SELECT {columns} FROM ({parts}) ORDER BY {c.TIMESTAMP}, {c.USER_ID}, {c.ITEM_ID}",
        reviews,
    )
    if not job.duck.one(
        f"SELECT count({c.USER_ID}) FROM read_parquet({quote(str(job.path('events')))})"
    ):
        raise DataRefused(
            "the files are not in the amazon layout",
            where=str(reviews[0]),
            found="no line with a user",
            expected="JSON lines with reviewerID, asin, overall, unixReviewTime (2014, 2018) or"
            " user_id, parent_asin, rating, timestamp (2023); or a CSV of ratings",
            fix="give the review files as published",
        )


def _parts(job: Job, reviews: list[Path]) -> Iterator[str]:
    """SQL of (user, item, value, time) of each sort of file."""
    lines = [f for f in reviews if ".csv" not in f.suffixes]
    tables = [f for f in reviews if ".csv" in f.suffixes]
    if lines:
        yield (
            f"SELECT coalesce(user_id, reviewerID) AS {c.USER_ID},"
            f" coalesce(parent_asin, asin) AS {c.ITEM_ID}, coalesce(rating, overall) AS {c.VALUE},"
            f" coalesce(to_timestamp(unixReviewTime), make_timestamptz(timestamp * 1000))"
            f" AS {c.TIMESTAMP} FROM {_read(lines, _REVIEWS)}"
        )
    for file in tables:
        yield _ratings(job, file)


def _ratings(job: Job, file: Path) -> str:
    """SQL of a CSV of ratings. Times are seconds, or milliseconds where they are that large.

    Raises:
        DataRefused: it is none.
    """
    with _opened(file) as lines:
        head = next(lines, "").strip().lower().split(",")
    names = {name: place for place, name in enumerate(head)}
    there = "user_id" in names and "rating" in names
    item = "parent_asin" if "parent_asin" in names else "asin"
    if not there and len(head) != 4:
        raise DataRefused(
            "this CSV is none of Amazon's ratings",
            where=str(file),
            found="columns " + ", ".join(head)[:200],
            expected="user_id, parent_asin, rating, timestamp (2023); four columns without a"
            " header (2014, 2018)",
            fix="leave only files as published in the folder",
        )
    columns = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(len(head)))
    read = (
        f"read_csv({listed([file])}, header = {str(there).lower()}, columns = {{{columns}}},"
        " auto_detect = false, delim = ',', quote = '\"', escape = '\"')"
    )
    places = [names.get(name, 0) for name in ("user_id", item, "rating", "timestamp")]
    if not there:
        places = [*_order(job, read, file), 2, 3]
    user, asin, rating, time = (f"c{place}" for place in places)
    number = f"CAST({time} AS BIGINT)"
    return (
        f"SELECT {user} AS {c.USER_ID}, {asin} AS {c.ITEM_ID}, CAST({rating} AS DOUBLE) AS"
        f" {c.VALUE}, CASE WHEN {number} > 100000000000 THEN make_timestamptz({number} * 1000)"
        f" ELSE to_timestamp({number}) END AS {c.TIMESTAMP} FROM {read}"
    )


def _order(job: Job, read: str, file: Path) -> tuple[int, int]:
    """(place of the user, place of the item) in a CSV without a header: items are those of the
    metadata."""
    items = f"SELECT {c.ITEM_ID} FROM read_parquet({quote(str(job.path('items')))})"
    first = job.count(f"SELECT count(*) FROM {read} WHERE c0 IN ({items})", [file])
    second = job.count(f"SELECT count(*) FROM {read} WHERE c1 IN ({items})", [file])
    return (1, 0) if first > second else (0, 1)
