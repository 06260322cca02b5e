"""Amazon reviews, JSON lines, plain or gzipped, in the layouts of 2018 and 2023.

A metadata file (its name has `meta` in it) and review files. 2018: reviewerID, asin, overall,
unixReviewTime; 2023: user_id, parent_asin, rating, timestamp in milliseconds.
"""

from pathlib import Path

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.ingestion.importers.layout import Job, listed

_FILES = ("*.json", "*.json.gz", "*.jsonl", "*.jsonl.gz")
_LARGEST = 64 * 1024 * 1024
"""Bytes of one line at most."""


def convert(job: Job) -> None:
    """Write items and events."""
    files = job.find(*_FILES, why="reviews and metadata")
    meta = [f for f in files if "meta" in f.name.lower()]
    reviews = [f for f in files if f not in meta]
    for kind, found in (("metadata, with `meta` in its name", meta), ("reviews", reviews)):
        if not found:
            raise UsageError(
                "a file of the amazon layout is missing",
                where=str(job.source),
                found=", ".join(f.name for f in files),
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
    columns = {
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
    told = "coalesce(category, categories)"
    path = (
        f"CASE WHEN json_type({told}) = 'ARRAY' AND json_type({told}, '$[0]') = 'ARRAY'"
        f" THEN CAST({told} -> '$[0]' AS VARCHAR[])"
        f" WHEN json_type({told}) = 'ARRAY' THEN CAST({told} AS VARCHAR[]) END"
    )
    description = f"nullif(trim(concat_ws(' ', {_text('description')}, {_text('coalesce(feature, features)')})), '')"
    price = "TRY_CAST(regexp_extract(replace(price, ',', ''), '[0-9]+\\.?[0-9]*') AS DOUBLE)"
    job.write(
        "items",
        f"SELECT * FROM (SELECT coalesce(parent_asin, asin) AS {c.ITEM_ID}, title AS {c.TITLE},"
        f" {description} AS {c.DESCRIPTION}, coalesce({path}, CAST([] AS VARCHAR[])) AS {c.TAGS},"
        f" coalesce(main_category, main_cat, ({path})[1]) AS {c.CATEGORY},"
        f" {price} AS price, coalesce(brand, store) AS brand FROM {_read(meta, columns)})"
        f" QUALIFY row_number() OVER (PARTITION BY {c.ITEM_ID}) = 1 ORDER BY {c.ITEM_ID}",
        meta,
    )


def _events(job: Job, reviews: list[Path]) -> None:
    columns = {
        "reviewerID": "VARCHAR",
        "user_id": "VARCHAR",
        "asin": "VARCHAR",
        "parent_asin": "VARCHAR",
        "overall": "DOUBLE",
        "rating": "DOUBLE",
        "unixReviewTime": "BIGINT",
        "timestamp": "BIGINT",
    }
    job.write(
        "events",
        f"SELECT coalesce(user_id, reviewerID) AS {c.USER_ID},"
        f" coalesce(parent_asin, asin) AS {c.ITEM_ID}, 'rating' AS {c.EVENT_TYPE},"
        f" coalesce(rating, overall) AS {c.VALUE},"
        f" coalesce(to_timestamp(unixReviewTime), make_timestamptz(timestamp * 1000))"
        f" AS {c.TIMESTAMP} FROM {_read(reviews, columns)}"
        f" ORDER BY {c.TIMESTAMP}, {c.USER_ID}, {c.ITEM_ID}",
        reviews,
    )
    if not job.duck.one(f"SELECT count({c.USER_ID}) FROM '{job.target}/data/events.parquet'"):
        raise DataRefused(
            "the files are not in the amazon layout",
            where=str(reviews[0]),
            found="no line with a user",
            expected="JSON lines with reviewerID, asin, overall, unixReviewTime (2018) or user_id,"
            " parent_asin, rating, timestamp (2023)",
            fix="give the review files as published, not a ratings-only CSV",
        )
