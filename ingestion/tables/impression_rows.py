"""Impressions and users: what was shown, and who to."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.data_schemas.limits import LIST_LENGTH, PROPENSITY, TEXT
from recsys.data_schemas.tables import ITEM_INDICES, RULED, USER_INDEX
from recsys.ingestion.tables.attribute_columns import (
    attribute_columns,
    count_losses,
    keep_attributes,
    shown,
)
from recsys.ingestion.tables.duck import name
from recsys.ingestion.tables.events import numbered
from recsys.ingestion.tables.readers import FILE, ROW
from recsys.ingestion.tables.table_ingest import (
    BROKEN,
    LOG,
    PLACE,
    TableIngest,
    id_faults,
    time_faults,
)

BATCH = 65_536
"""Lists mapped at a time."""


def stage_impressions(part: TableIngest, now: int) -> int:
    """Check the impressions against the table `vocabulary`; how many are accepted."""
    part.stage(
        f"CASE {id_faults(c.IMPRESSION_ID, 'missing_impression_id')}"
        f" {id_faults(c.USER_ID, 'missing_user_id')} {time_faults(now)}"
        f" WHEN coalesce(len({c.ITEM_IDS}), 0) = 0 THEN 'empty_list'"
        f" WHEN len({c.PROPENSITIES}) <> len({c.ITEM_IDS}) THEN 'unequal_lists'"
        f" WHEN len(list_filter({c.PROPENSITIES}, lambda p: coalesce(p >= {PROPENSITY} AND p <= 1, false)))"
        f" < len({c.PROPENSITIES}) THEN 'propensity_range' END AS {BROKEN}"
    )
    part.warn_where(part.rows, {"long_lists": f"len({c.ITEM_IDS}) > {LIST_LENGTH}"})
    part.reject(
        "unknown_item",
        f"SELECT row FROM (SELECT rowid AS row, unnest({c.ITEM_IDS}) AS shown FROM {part.rows}"
        f" WHERE {BROKEN} IS NULL) s WHERE shown IS NULL OR NOT EXISTS (SELECT 1 FROM vocabulary v"
        f" WHERE v.{c.ITEM_ID} = shown)",
    )
    part.reject_repeats("duplicate_impression_id", c.IMPRESSION_ID, c.IMPRESSION_ID)
    return int(part.engine.one(f"SELECT count(*) FROM ({part.accepted})"))


def write_impressions(
    part: TableIngest,
    path: Path,
    item_ids: pa.Array,
    log_base: int,
    sessions: int | None = None,
) -> None:
    """Write the accepted impressions sorted by (timestamp, position), items as indices too.

    Rows are numbered as events are, on the same base; `item_ids` is the vocabulary in order.
    Context and surface of lists before `sessions` (µs UTC) are left out.
    """
    told = "true"
    if sessions is not None:
        told = f"{c.TIMESTAMP} >= to_timestamp({sessions} / 1000000.0)"
    of_session = ", ".join(f"CASE WHEN {told} THEN {x} END AS {x}" for x in (c.SURFACE, c.CONTEXT))
    engine = part.engine
    engine.run(
        f"CREATE TABLE impressions_sorted AS SELECT {LOG}, {PLACE}, {c.IMPRESSION_ID},"
        f" {c.USER_ID}, u.{USER_INDEX}, {c.TIMESTAMP}, {c.ITEM_IDS},"
        f" CAST({c.PROPENSITIES} AS FLOAT[]) AS {c.PROPENSITIES}, {c.MODEL_VERSION}, {of_session},"
        f" {c.RULES} IS NOT NULL AS {RULED}"
        f" FROM ({part.accepted}) JOIN user_vocabulary u USING ({c.USER_ID})"
        f" ORDER BY {LOG}, {c.TIMESTAMP}, {FILE}, {ROW}"
    )
    unmapped = part.scratch / "impressions_sorted.parquet"
    engine.copy(numbered(engine, "impressions_sorted", log_base), unmapped)
    _map_items(unmapped, path, item_ids)
    unmapped.unlink()


def _map_items(unmapped: Path, path: Path, item_ids: pa.Array) -> None:
    """Copy a file of impressions, adding each list as item indices."""
    with pq.ParquetFile(unmapped) as source:
        schema = source.schema_arrow.append(pa.field(ITEM_INDICES, pa.list_(pa.int32())))
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for batch in source.iter_batches(BATCH):
                lists = batch.column(c.ITEM_IDS)
                indices = pc.index_in(lists.flatten(), value_set=item_ids).cast(pa.int32())
                offsets = pc.subtract(lists.offsets, lists.offsets[0])
                mapped = pa.ListArray.from_arrays(offsets, indices)
                columns = [*batch.columns, mapped]
                writer.write_batch(pa.record_batch(columns, schema=schema))


def stage_users(part: TableIngest, least_people: int = 1) -> int:
    """Check the users table, completed by what the service was told; how many rows are accepted.

    A text that fewer than `least_people` users share is unknown from here on.
    """
    part.attributes = attribute_columns(part, {c.USER_ID})
    part.stage(f"CASE {id_faults(c.USER_ID, 'missing_user_id')} END AS {BROKEN}")
    count_losses(part)
    keep_attributes(part)
    part.reject_repeats("duplicate_user_id", c.USER_ID, c.USER_ID, f"{LOG} = 0")
    _take_the_logs_word(part)
    _without_rare_texts(part, least_people)
    return int(part.engine.one(f"SELECT count(*) FROM ({part.accepted})"))


def _take_the_logs_word(part: TableIngest) -> None:
    """One row for each person: the log's value where it has one, else the file's."""
    both = f"({part.accepted} AND {LOG} = 0)"
    values = ", ".join(f"{a.inner} = coalesce({part.rows}.{a.inner}, f.{a.inner})"
                       for a in part.attributes)  # fmt: skip
    if part.log is None:
        return
    if values:
        part.engine.run(
            f"UPDATE {part.rows} SET {values} FROM {both} f"
            f" WHERE {part.rows}.{LOG} = 1 AND {part.rows}.{c.USER_ID} = f.{c.USER_ID}"
        )
    part.engine.run(
        f"DELETE FROM {part.rows} WHERE {LOG} = 0 AND {BROKEN} IS NULL AND {c.USER_ID} IN"
        f" (SELECT {c.USER_ID} FROM {part.rows} WHERE {LOG} = 1 AND {BROKEN} IS NULL)"
    )


def _without_rare_texts(part: TableIngest, least_people: int) -> None:
    """Texts that tell who somebody is become unknown; a note says how many, and none of them."""
    for attribute in part.attributes:
        if attribute.kind != TEXT or least_people <= 1:
            continue
        rare = (
            f"SELECT {attribute.inner} FROM ({part.accepted}) WHERE {attribute.inner} IS NOT NULL"
            f" GROUP BY {attribute.inner} HAVING count(*) < {least_people}"
        )
        count = int(part.engine.one(f"SELECT count(*) FROM ({rare})"))
        if count:
            part.engine.run(
                f"UPDATE {part.rows} SET {attribute.inner} = NULL WHERE {attribute.inner} IN ({rare})"
            )
            part.notes.append(
                f"column `{shown(attribute.name)}`: {count:,} values that fewer than {least_people}"
                " users share count as unknown (privacy.least_people)"
            )


def write_users(part: TableIngest, path: Path) -> None:
    """Write the accepted users and their attributes in the byte order of their ids."""
    columns = "".join(f", {a.inner} AS {name(a.name)}" for a in part.attributes)
    part.engine.copy(
        f"SELECT {c.USER_ID}{columns} FROM ({part.accepted}) ORDER BY {c.USER_ID}", path
    )


def vocabulary_ids(path: Path) -> pa.Array:
    """Item ids in vocabulary order, of an items.parquet just written."""
    return pq.read_table(path, columns=[c.ITEM_ID]).column(0).combine_chunks()
