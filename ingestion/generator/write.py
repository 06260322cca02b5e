"""Writing a generated world: tables as day-partitioned Parquet, truth beside them, a config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.features.interactions import DAY
from recsys.ingestion.generator.simulate import Chunk, examination, simulate_day
from recsys.ingestion.generator.topics import NAMES
from recsys.ingestion.generator.world import (
    TEXT_SPREAD,
    World,
    item_texts,
    make_world,
)
from recsys.ingestion.generator.world_settings import BEHAVIOURS, WorldSettings
from recsys.ingestion.tables.init_folder import refuse_occupied
from recsys.storage.files import atomic_folder, write_json
from recsys.storage.progress import Reporter

ITEM_CHUNK = 200_000
_TIME = pa.timestamp("us", tz="UTC")
_CONFIG = """\
# Generated: {users:,} users, {items:,} items, {days:,} days, seed {seed}. What was drawn is in truth/.
data:
  items: data/items.parquet
  events: data/events
  impressions: data/impressions
  users: data/users.parquet
workspace: work
name: generated
clock: end_of_data
"""


def generate(settings: WorldSettings, folder: Path, reporter: Reporter) -> dict[str, int]:
    """Write tables, truth and recsys.yaml into a new or empty folder; rows by table.

    The same settings give the same bytes. Memory grows with users and items, not with events.

    Raises:
        UsageError: the folder holds something.
    """
    refuse_occupied(folder, "generate --to")
    with atomic_folder(folder, "the generated tables") as aside:
        world = make_world(settings)
        data = aside / "data"
        data.mkdir()
        _write_items(world, data / "items.parquet")
        _write_users(world, data / "users.parquet")
        counts = {"items": settings.items, "users": settings.users, "events": 0, "impressions": 0}
        with reporter.task("generating days", settings.days) as task:
            for day in range(settings.days):
                _write_day(world, day, data, counts)
                task.advance(note=f"{counts['events']:,} events")
        _write_truth(world, aside, counts)
        (aside / "recsys.yaml").write_text(_CONFIG.format(**settings.as_dict()), encoding="utf-8")
    return counts


def _write_day(world: World, day: int, data: Path, counts: dict[str, int]) -> None:
    """Append a day's partitions; numbers of events and lists go on from `counts`."""
    date = np.datetime64(world.settings.start + day * DAY, "us").astype("datetime64[D]")
    for part, chunk in enumerate(simulate_day(world, day)):
        tables = {
            "impressions": _impressions(world, chunk, counts["impressions"]),
            "events": _events(world, chunk, counts["impressions"], counts["events"]),
        }
        for name, table in tables.items():
            folder = data / name / f"day={date}"
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, folder / f"part-{part}.parquet", store_schema=False)
            counts[name] += table.num_rows


def _numbers(prefix: str, numbers: Any) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")


def _events(world: World, chunk: Chunk, lists: int, events: int) -> pa.Table:
    """Events in order of time; `lists` and `events` are how many came before the chunk."""
    kinds = pa.array([behaviour.name for behaviour in BEHAVIOURS])
    return pa.table(
        {
            c.USER_ID: world.user_ids.take(pa.array(chunk.user[chunk.event_list])),
            c.ITEM_ID: world.item_ids.take(pa.array(chunk.item[chunk.event_place])),
            c.EVENT_TYPE: kinds.take(pa.array(chunk.event_kind)),
            c.TIMESTAMP: pa.array(chunk.event_time).cast(_TIME),
            c.IMPRESSION_ID: _numbers("p", chunk.event_list.astype(np.int64) + lists),
            c.EVENT_ID: _numbers("e", np.arange(events, events + len(chunk.event_time))),
        }
    )


def _impressions(world: World, chunk: Chunk, lists: int) -> pa.Table:
    offsets = pa.array(np.concatenate([[0], chunk.length.cumsum()]).astype(np.int32))
    items = world.item_ids.take(pa.array(chunk.item))
    return pa.table(
        {
            c.IMPRESSION_ID: _numbers("p", np.arange(lists, lists + len(chunk.user))),
            c.USER_ID: world.user_ids.take(pa.array(chunk.user)),
            c.TIMESTAMP: pa.array(chunk.shown_at).cast(_TIME),
            c.ITEM_IDS: pa.ListArray.from_arrays(offsets, items),
            c.PROPENSITIES: pa.ListArray.from_arrays(offsets, pa.array(chunk.propensity)),
            c.MODEL_VERSION: pa.repeat("policy", len(chunk.user)),
        }
    )


def _write_items(world: World, path: Path) -> None:
    writer = None
    try:
        for low in range(0, world.settings.items, ITEM_CHUNK):
            high = min(low + ITEM_CHUNK, world.settings.items)
            table = pa.table(
                {
                    c.ITEM_ID: world.item_ids[low:high],
                    **item_texts(world, low, high),
                    c.CREATED_AT: pa.array(world.created_at[low:high]).cast(_TIME),
                    "price": pa.array(world.price[low:high]),
                }
            )
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _write_users(world: World, path: Path) -> None:
    """Users with an attribute that tells of their interest and one that tells of nothing."""
    draw = np.random.default_rng([world.settings.seed, 3])
    count = world.settings.users
    honest = draw.random(count) < 0.7
    strongest = world.user_topics.argmax(axis=1)
    stated = np.where(honest, strongest, draw.integers(0, len(NAMES), count)).astype(np.int32)
    countries = pa.array(["de", "fr", "it", "es"])
    table = {
        c.USER_ID: world.user_ids,
        "hobby": pa.array(NAMES).take(pa.array(stated)),
        "country": countries.take(pa.array(draw.integers(0, 4, count))),
    }
    pq.write_table(pa.table(table), path)


def _write_truth(world: World, folder: Path, counts: Mapping[str, int]) -> None:
    """What was drawn: truth.json and the arrays as Parquet."""
    truth = folder / "truth"
    truth.mkdir()
    looked = examination(world.settings)
    tables: dict[str, dict[str, Any]] = {
        "items": {
            c.ITEM_ID: world.item_ids,
            "topics": _lists(world.item_topics),
            "hidden": _lists(world.item_hidden),
            "quality": world.quality,
        },
        "users": {
            c.USER_ID: world.user_ids,
            "topics": _lists(world.user_topics),
            "hidden": _lists(world.user_hidden),
            "activity": world.activity,
            "joined_day": world.joined,
        },
        "position_bias": {"place": np.arange(len(looked)), "examined": looked},
        "topic_popularity": {
            "day": np.arange(world.settings.days),
            "log_popularity": _lists(world.topic_popularity),
        },
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), truth / f"{name}.parquet")
    write_json(
        folder / "truth.json",
        {
            "settings": world.settings.as_dict(),
            "rows": dict(counts),
            "topics": list(NAMES),
            "position_bias": [round(float(p), 6) for p in looked],
            "behaviours": [vars(behaviour) for behaviour in BEHAVIOURS],
            "affinity": f"sqrt(text_share) * (topics_u . topics_i * K - 1) / {TEXT_SPREAD}"
            " + sqrt(1 - text_share) * hidden_u . hidden_i + quality_i",
            "files": {name: f"truth/{name}.parquet" for name in tables},
        },
    )


def _lists(matrix: Any) -> pa.Array:
    """Rows of a matrix as fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
