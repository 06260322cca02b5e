"""Vectors that items bring: as many finite numbers for every item, or a refusal that names one.

The files decide how many numbers a vector has. What the service was told, or an earlier run knew, of
another length is dropped: it is another model's.
"""

from typing import Any

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import DataRefused
from recsys.data_schemas.limits import NUMBER, VECTOR_LENGTH
from recsys.ingestion.tables.table_ingest import BROKEN, LOG, SHOWN_CHARACTERS, TableIngest

_UNFIT = f"x IS NULL OR NOT isfinite(x) OR abs(x) > {NUMBER}"
_UNUSABLE = f"len(list_filter({c.VECTOR}, lambda x: {_UNFIT})) > 0"


def check_vectors(part: TableIngest) -> int:
    """How many numbers an item's vector has, 0 where no item brings one. An empty list is none.

    Raises:
        DataRefused: vectors of the files differ in length, are too long, or hold a number that is none.
    """
    engine, rows = part.engine, part.rows
    engine.run(f"UPDATE {rows} SET {c.VECTOR} = NULL WHERE len({c.VECTOR}) = 0")
    there = f"FROM {rows} WHERE {BROKEN} IS NULL AND {c.VECTOR} IS NOT NULL"
    lengths = _lengths(part, f"{there} AND {LOG} = 0")
    if lengths:
        _require_one_length(part, lengths)
        _require_numbers(part, f"{there} AND {LOG} = 0")
    told = _lengths(part, f"{there} AND {LOG} = 1 AND NOT ({_UNUSABLE})")
    length = int((lengths or told or [(0,)])[0][0])
    late = f"{LOG} = 1 AND {c.VECTOR} IS NOT NULL AND (len({c.VECTOR}) <> {length} OR {_UNUSABLE})"
    count = engine.one(f"SELECT count(*) FROM {rows} WHERE {late}")
    part.warn("vector_of_another_length", count, 1)
    engine.run(f"UPDATE {rows} SET {c.VECTOR} = NULL WHERE {late}")
    return length


def drop_other_vectors(part: TableIngest, length: int) -> None:
    """Leave out of the vocabulary what an earlier run knew of another length."""
    other = f"{c.VECTOR} IS NOT NULL AND len({c.VECTOR}) <> {length}"
    if length:
        part.warn(
            "vector_of_another_length",
            part.engine.one(f"SELECT count(*) FROM vocabulary WHERE {other}"),
        )
        part.engine.run(f"UPDATE vocabulary SET {c.VECTOR} = NULL WHERE {other}")


def _lengths(part: TableIngest, rows: str) -> list[tuple[Any, ...]]:
    """(length, items, one of them) of the vectors of some rows, the most frequent length first."""
    return part.engine.rows(
        f"SELECT len({c.VECTOR}) AS length, count(*), min(left({c.ITEM_ID}, {SHOWN_CHARACTERS}))"
        f" {rows} GROUP BY length ORDER BY count(*) DESC, length DESC"
    )


def _require_one_length(part: TableIngest, lengths: list[tuple[Any, ...]]) -> None:
    length, items, _ = lengths[0]
    if len(lengths) > 1:
        other, others, item_id = lengths[1]
        raise _refused(
            part,
            f"the vector of item {item_id!r} has {other} numbers"
            + (f", as {others - 1:,} more items have" if others > 1 else ""),
            f"{length} numbers, as the vectors of {items:,} items have",
            "write the vectors of one model, and null for items without one",
        )
    if length > VECTOR_LENGTH:
        raise _refused(
            part,
            f"vectors of {length:,} numbers",
            f"at most {VECTOR_LENGTH:,}",
            "reduce them where they are made, by a projection on their main directions say",
        )


def _require_numbers(part: TableIngest, rows: str) -> None:
    found = part.engine.rows(
        f"SELECT left({c.ITEM_ID}, {SHOWN_CHARACTERS}),"
        f" list_position(list_transform({c.VECTOR}, lambda x: {_UNFIT}), true), {c.VECTOR}"
        f" {rows} AND {_UNUSABLE} ORDER BY {c.ITEM_ID} LIMIT 1"
    )
    for item_id, place, vector in found:
        raise _refused(
            part,
            f"the vector of item {item_id!r} holds {_said(vector[place - 1])} at place {place - 1}",
            f"finite numbers up to ±{NUMBER:.0e}",
            "correct it where it is made, or write null for the whole vector",
        )


def _said(number: float | None) -> str:
    return "null, or a number too large for a float" if number is None else f"{number}"


def _refused(part: TableIngest, found: str, expected: str, fix: str) -> DataRefused:
    return DataRefused(
        "the items' vectors cannot be compared",
        where=f"{part.files.where}, column `{c.VECTOR}`",
        found=found,
        expected=expected,
        fix=fix,
    )
