"""Ingested tables as the arrays that every later stage works on."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.data_schemas.meaning import EventMeaning
from recsys.data_schemas.tables import (
    ITEM_INDICES,
    OLDEST_READABLE,
    RULED,
    SCHEMA_VERSION,
    USER_INDEX,
)
from recsys.features.catalogue import Catalogue
from recsys.features.impressions import Impressions, propensities
from recsys.features.interactions import Floats, Interactions
from recsys.features.on_disk import empty
from recsys.features.packed_strings import PackedStrings
from recsys.features.ragged import list_column
from recsys.ingestion.tables.event_partitions import (
    EventPositions,
    event_files,
    position_columns,
)
from recsys.ingestion.tables.ingest import (
    IMPRESSIONS_FILE,
    ITEMS_FILE,
    SUMMARY_FILE,
    USER_VOCABULARY_FILE,
    USERS_FILE,
)
from recsys.ingestion.tables.resolution import Resolution


@dataclass(frozen=True)
class Tables:
    """Everything one ingestion gave."""

    catalogue: Catalogue
    interactions: Interactions
    impressions: Impressions | None
    """All that was shown, as what is counted by item reads it."""
    users: pa.Table | None
    """Attributes by user_id; users need not have events."""
    summary: dict[str, Any]
    resolution: Resolution
    meaning: EventMeaning
    """What the config says of event types, with the scales recognised in these events."""

    @cached_property
    def ranked_lists(self) -> Impressions | None:
        """What was shown as the ranker made it, as whatever learns from lists reads it; `evaluate
        --impressions` leaves the others out too."""
        return None if self.impressions is None else self.impressions.as_ranked()


def load_tables(folder: Path, config: RecsysConfig) -> Tables:
    """Load what `ingest` wrote; weights and grades come from the config's `events:`.

    Raises:
        UsageError: the folder holds no ingested tables, or those of another schema version.
    """
    summary = read_summary(folder)
    resolution = Resolution(**summary["resolution"])
    shown = folder / IMPRESSIONS_FILE
    meaning = meaning_of(config, summary)
    return Tables(
        catalogue=Catalogue.from_parquet(folder / ITEMS_FILE),
        interactions=_interactions(folder, meaning, summary),
        impressions=_impressions(shown) if shown.exists() else None,
        users=read_users(folder),
        summary=summary,
        resolution=resolution,
        meaning=meaning,
    )


def meaning_of(config: RecsysConfig, summary: Mapping[str, Any]) -> EventMeaning:
    """What events mean: the config's word, and the scales found in the tables of a summary."""
    found = {
        name: None if scale is None else (float(scale[0]), float(scale[1]))
        for name, scale in summary.get("scales", {}).items()
        if name in config.events.unscaled()
    }
    return config.events.meaning().with_scales(found)


def read_users(folder: Path) -> pa.Table | None:
    """Attributes of users as ingested; None where there are none."""
    file = folder / USERS_FILE
    return pq.read_table(file) if file.exists() else None


def read_summary(folder: Path) -> dict[str, Any]:
    """summary.json of an ingestion, its version checked."""
    file = folder / SUMMARY_FILE
    if not file.is_file():
        raise UsageError(
            "there are no ingested tables here",
            where=str(folder),
            fix="run `recsys nightly` with this config first",
        )
    summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    version = summary["schema_version"]
    if not OLDEST_READABLE <= version <= SCHEMA_VERSION:
        raise UsageError(
            "the ingested tables have a version this release does not read",
            where=str(file),
            found=version,
            expected=f"{OLDEST_READABLE} to {SCHEMA_VERSION}",
            fix="ingest again with `recsys nightly`",
        )
    return summary


def _interactions(folder: Path, meaning: EventMeaning, summary: Mapping[str, Any]) -> Interactions:
    """Events file by file and row group by row group into arrays of their final size."""
    size, n_items = int(summary["events"]), int(summary["items"])
    user, item = empty(size, np.int32), empty(size, np.int32)
    kind, time = empty(size, np.int16), empty(size, np.int64)
    value, position = empty(size, np.float32), empty(size, np.int64)
    codes: dict[str, int] = {}
    place = EventPositions(int(summary["positions"]["log_base"]))
    low = 0
    for rows in _row_groups(folder):
        part = slice(low, low + rows.num_rows)
        low = part.stop
        user[part] = rows[USER_INDEX].to_numpy()
        item[part] = rows[c.ITEM_INDEX].to_numpy()
        kind[part] = _codes(rows[c.EVENT_TYPE], codes)
        time[part] = rows[c.TIMESTAMP].cast(pa.int64()).to_numpy()
        value[part] = rows[c.VALUE].fill_null(np.nan).to_numpy()
        position[part] = place.of(rows)
    kinds = tuple(codes)
    weight, grade = _meaning(meaning, kinds, kind, value)
    return Interactions(
        user=user,
        item=item,
        kind=kind,
        time=time,
        value=value,
        weight=weight,
        grade=grade,
        position=position,
        user_ids=_user_ids(folder),
        kinds=kinds,
        n_items=n_items,
        ordered=True,
    )


def _user_ids(folder: Path) -> PackedStrings:
    """Some at a time: Arrow's own array of all of them would be as large again."""
    with pq.ParquetFile(folder / USER_VOCABULARY_FILE) as parquet:
        some = parquet.iter_batches(batch_size=CHUNK, columns=[c.USER_ID])
        return PackedStrings.joined(batch.column(0) for batch in some)


def _row_groups(folder: Path) -> Iterator[pa.Table]:
    """What arrays are made of, in the order of the events."""
    columns = [USER_INDEX, c.ITEM_INDEX, c.EVENT_TYPE, c.TIMESTAMP, c.VALUE]
    for file in event_files(folder):
        with pq.ParquetFile(file, read_dictionary=[c.EVENT_TYPE]) as parquet:
            wanted = [*columns, *position_columns(parquet.schema_arrow.names)]
            for number in range(parquet.num_row_groups):
                yield parquet.read_row_group(number, columns=wanted)


CHUNK = 1_000_000
"""Events whose meaning is computed, or ids that are read, at a time; bounds what is temporary."""


def _meaning(
    meaning: EventMeaning, kinds: tuple[str, ...], kind: npt.NDArray[np.int16], value: Floats
) -> tuple[Floats, npt.NDArray[np.int8]]:
    """Weights and grades of all events."""
    weight, grade = empty(len(kind), np.float32), empty(len(kind), np.int8)
    for low in range(0, len(kind), CHUNK):
        part = slice(low, low + CHUNK)
        weight[part], grade[part] = meaning.of(kinds, kind[part], value[part])
    return weight, grade


def _codes(column: pa.ChunkedArray, codes: dict[str, int]) -> npt.NDArray[np.int16]:
    """Event types as codes in the order of their first appearance; `codes` grows.

    Raises:
        RecsysError: there are more event types than a code can hold.
    """
    parts = []
    for chunk in column.chunks:
        indices = chunk.indices.to_numpy()
        names = chunk.dictionary.to_pylist()
        used, first = np.unique(indices, return_index=True)
        for place in used[np.argsort(first)]:
            codes.setdefault(names[place], len(codes))
        if len(codes) > np.iinfo(np.int16).max:
            raise RecsysError(
                "there are too many event types",
                found=f"{len(codes):,} distinct values of {c.EVENT_TYPE}",
                expected="a handful, such as view, click and purchase",
            )
        table = np.array([codes.get(n, 0) for n in names], np.int16)
        parts.append(table[indices])
    return np.concatenate(parts) if parts else np.empty(0, np.int16)


def _impressions(file: Path) -> Impressions:
    """Lists row group by row group into arrays of their final size; ids are not among them."""
    columns = [USER_INDEX, c.TIMESTAMP, c.POSITION, ITEM_INDICES, c.PROPENSITIES, c.CONTEXT, RULED]
    with pq.ParquetFile(file) as parquet:
        groups = range(parquet.num_row_groups)
        lists, shown = parquet.metadata.num_rows, 0
        for number in groups:
            items = parquet.read_row_group(number, columns=[ITEM_INDICES])[ITEM_INDICES]
            shown += int(list_column(items)[0][-1])
        offsets, user = np.zeros(lists + 1, np.int64), empty(lists, np.int32)
        time, position = empty(lists, np.int64), empty(lists, np.int64)
        context, ruled = np.empty(lists, object), np.zeros(lists, bool)
        items, propensity = empty(shown, np.int32), empty(shown, np.float32)
        said: dict[str | None, str | None] = {}
        low, first = 0, 0
        for number in groups:
            rows = parquet.read_row_group(number, columns=columns)
            part = slice(low, low + rows.num_rows)
            bounds, values = list_column(rows[ITEM_INDICES])
            inside = slice(first, first + int(bounds[-1]))
            low, first = part.stop, inside.stop
            offsets[part.start + 1 : part.stop + 1] = inside.start + bounds[1:]
            items[inside] = values.cast(pa.int32()).to_numpy()
            propensity[inside] = propensities(rows[c.PROPENSITIES], bounds)
            user[part] = rows[USER_INDEX].to_numpy()
            time[part] = rows[c.TIMESTAMP].cast(pa.int64()).to_numpy()
            position[part] = rows[c.POSITION].to_numpy()
            # Many requests say the same: one text for all of them.
            context[part] = [said.setdefault(text, text) for text in rows[c.CONTEXT].to_pylist()]
            ruled[part] = rows[RULED].to_numpy()
    return Impressions(
        offsets, items, time, user, position, propensity, context=context, ruled=ruled
    )


def impression_ids(folder: Path) -> pa.ChunkedArray:
    """Ids of the lists that were shown, in their order."""
    return pq.read_table(folder / IMPRESSIONS_FILE, columns=[c.IMPRESSION_ID]).column(0)
