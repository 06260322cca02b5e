"""Events and shown lists that a released model is evaluated on: read and checked as a night does.

Rows that break a rule are left out and counted. An item that the model has never heard of breaks
none here: whoever acted on it wanted something the model could not give, and that counts as a miss.

Shapes: E events, L shown lists, n shown items of all lists.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import DataRefused
from recsys.data_schemas.tables import EVENTS, IMPRESSIONS, Table
from recsys.features.impressions import Impressions, propensities
from recsys.features.interactions import Interactions
from recsys.features.packed_strings import PackedStrings
from recsys.features.ragged import list_column

if TYPE_CHECKING:
    from recsys.ingestion.tables.table_ingest import TableIngest
    from recsys.recommender import LoadedRelease

UNKNOWN_ITEM = "unknown_item"


@dataclass(frozen=True)
class EvaluationEvents:
    """Accepted events in the order of time."""

    events: Interactions
    """Users coded by `events.user_ids`; items beyond the catalogue are unknown to the model."""
    item_ids: npt.NDArray[np.object_]
    """str[E]."""
    unknown: int
    """Events on unknown items."""
    rejected: dict[str, int]
    """Rows left out, by the rule they broke."""
    where: str


class ShownEvents(NamedTuple):
    """Accepted lists in the order of time."""

    lists: Impressions
    """Users coded by `user_ids`."""
    user_ids: npt.NDArray[np.object_]
    """str[U], ascending."""
    rejected: dict[str, int]
    ruled: int
    """Lists left out because a rule of the shop moved some of their items: their places say nothing of
    the model."""


def read_events(place: str, loaded: "LoadedRelease") -> EvaluationEvents:
    """Events of a Parquet file, a folder or a glob.

    Raises:
        UsageError: there is no such file.
        DataRefused: it cannot be read as events, or none of them is positive.
    """
    from recsys.ingestion.tables.events import stage_events

    with _part(place, EVENTS, "--events", loaded) as part:
        stage_events(part, time.time_ns() // 1000)
        rejected = _rejected(part)
        rejected.pop(UNKNOWN_ITEM, 0)  # they count, as misses
        table = part.engine.arrow(
            f"SELECT {c.USER_ID}, {c.ITEM_ID}, {c.EVENT_TYPE}, epoch_us({c.TIMESTAMP}) AS moment,"
            f" {c.VALUE} FROM {part.rows} WHERE {_usable()} ORDER BY moment"
        )
        where = part.files.where
    events = _coded(table, loaded)
    unknown = int((events.item >= loaded.state.catalogue.n_items).sum())
    if not (events.grade > 0).any():
        raise DataRefused(
            "no event of the evaluation window can be used",
            where=where,
            found="; ".join(
                [
                    f"{len(events):,} events, none with a positive grade",
                    *(f"{rule}: {n:,}" for rule, n in rejected.items()),
                ]
            ),
            expected="positive events",
            fix="see `events.types` in the config for what counts as positive",
        )
    if unknown == len(events):
        raise DataRefused(
            "the model knows none of the items of the evaluation window",
            where=where,
            found=f"{unknown:,} events, the first on item {table[c.ITEM_ID][0].as_py()!r}",
            expected=f"item ids such as {loaded.state.catalogue.id_of(0)!r}",
            fix="give events with the item ids that the model was trained with",
        )
    return EvaluationEvents(events, table[c.ITEM_ID].to_numpy(), unknown, rejected, where)


def read_shown(place: str, loaded: "LoadedRelease") -> ShownEvents:
    """Impressions of a Parquet file, a folder or a glob; lists with an unknown item are left out, and
    so are those in which a rule of the shop moved something.

    Raises:
        UsageError: there is no such file.
        DataRefused: it cannot be read as impressions, or no list is left.
    """
    from recsys.ingestion.tables.impression_rows import stage_impressions

    with _part(place, IMPRESSIONS, "--impressions", loaded) as part:
        accepted = stage_impressions(part, time.time_ns() // 1000)
        rejected = _rejected(part)
        if not accepted:
            raise DataRefused(
                "no shown list can be used",
                where=part.files.where,
                found="; ".join(f"{rule}: {n:,}" for rule, n in rejected.items()) or "no row",
                expected="lists of known items",
            )
        table = part.engine.arrow(
            f"SELECT {c.USER_ID}, epoch_us({c.TIMESTAMP}) AS moment, {c.ITEM_IDS},"
            f" CAST({c.PROPENSITIES} AS FLOAT[]) AS {c.PROPENSITIES}, {c.SURFACE},"
            f" {c.CONTEXT}"
            f" FROM ({part.accepted}) WHERE {c.RULES} IS NULL ORDER BY moment"
        ).combine_chunks()
        ruled = accepted - len(table)
    if not len(table):
        raise DataRefused(
            "no shown list can be used",
            where=place,
            found=f"{ruled:,} lists, a rule of the shop moved items of each",
            expected="lists as the model made them",
            fix="evaluate lists of a time or a surface without rules",
        )
    offsets, ids = list_column(table[c.ITEM_IDS])
    users, user = np.unique(table[c.USER_ID].to_numpy().astype(str), return_inverse=True)
    lists = Impressions.of(
        offsets,
        loaded.state.catalogue.indices_of(ids.cast(pa.large_string())),
        table["moment"].to_numpy(),
        user=user,
        propensity=propensities(table[c.PROPENSITIES], offsets),
        surface=np.array(table[c.SURFACE].to_pylist(), object),
        context=np.array(table[c.CONTEXT].to_pylist(), object),
    )
    return ShownEvents(lists, users.astype(object), rejected, ruled)


@contextmanager
def _part(
    place: str, table: Table, option: str, loaded: "LoadedRelease"
) -> "Iterator[TableIngest]":
    """A table on its way in, with the model's items as the vocabulary."""
    from recsys.ingestion.tables.duck import engine, quote
    from recsys.ingestion.tables.readers import find_files, open_source
    from recsys.ingestion.tables.table_ingest import TableIngest

    source = open_source(find_files(place, Path.cwd(), table, option), table)
    with tempfile.TemporaryDirectory(prefix="recsys-evaluate-") as name:
        folder = Path(name)
        with engine(folder) as duck:
            known = folder / "vocabulary.parquet"
            pq.write_table(pa.table({c.ITEM_ID: loaded.state.catalogue.item_ids}), known)
            duck.run(f"CREATE TABLE vocabulary AS FROM read_parquet({quote(str(known))})")
            duck.run(
                f"CREATE TABLE forgotten ({c.USER_ID} VARCHAR, until_time BIGINT,"
                " until_place BIGINT)"
            )
            yield TableIngest(duck, table, source, None, folder)


def _rejected(part: "TableIngest") -> dict[str, int]:
    from recsys.ingestion.tables.table_ingest import BROKEN

    return part.engine.counts(
        f"SELECT {BROKEN}, count(*) FROM {part.rows} WHERE {BROKEN} IS NOT NULL"
        f" GROUP BY {BROKEN} ORDER BY {BROKEN}"
    )


def _usable() -> str:
    from recsys.ingestion.tables.table_ingest import BROKEN

    return f"({BROKEN} IS NULL OR {BROKEN} = '{UNKNOWN_ITEM}')"


def _coded(table: Any, loaded: "LoadedRelease") -> Interactions:
    """The rows as `Interactions` of their own users, items beyond the catalogue numbered on."""
    known = loaded.state.catalogue.n_items
    item = loaded.state.catalogue.indices_of(table[c.ITEM_ID].cast(pa.large_string()))
    ids = table[c.ITEM_ID].to_numpy()
    strangers, code = np.unique(ids[item < 0].astype(str), return_inverse=True)
    item[item < 0] = known + code
    users, user = np.unique(table[c.USER_ID].to_numpy().astype(str), return_inverse=True)
    kinds = table[c.EVENT_TYPE].combine_chunks().dictionary_encode()
    kinds = kinds.chunk(0) if isinstance(kinds, pa.ChunkedArray) else kinds
    names, kind = kinds.dictionary.to_pylist(), kinds.indices.to_numpy()
    value = table[c.VALUE].to_numpy().astype(np.float64)
    weight, grade = loaded.state.meaning.of(names, kind, value)
    return Interactions(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        kind=kind.astype(np.int16),
        time=table["moment"].to_numpy(),
        value=value.astype(np.float32),
        weight=weight,
        grade=grade,
        position=np.arange(len(item), dtype=np.int64),
        user_ids=PackedStrings.of(users.tolist()),
        kinds=tuple(names),
        n_items=known + len(strangers),
    )
