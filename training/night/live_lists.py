"""What the lists that were shown led to, version by version; a sure fall is an alarm, or the way back."""

import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.errors import RecsysError
from recsys.evaluation.experiment_statistics import Settings
from recsys.evaluation.live_outcomes import CLICK, DAY, Flags, Rows, as_json, live_report
from recsys.evaluation.logged_lists import LoggedLists, before_lists, read_events, read_lists
from recsys.features.feature_set import FeatureSet
from recsys.ingestion.tables.event_partitions import event_files
from recsys.ingestion.tables.load import meaning_of, read_summary
from recsys.retrieval.fitted_source import FEW_EVENTS
from recsys.storage.bundle import open_bundle
from recsys.storage.files import write_json
from recsys.storage.registry import Registry
from recsys.storage.registry.version_tags import PREVIOUS
from recsys.training.night.inputs import VOCABULARY
from recsys.training.night.night_context import Night
from recsys.training.night.served_parity import read_samples

SAMPLES: Final = 5_000
"""Served lists whose feature rows are compared, the latest."""
ROLLBACK: Final = "rollback"
Pair = tuple[str | None, str | None]


def check(night: Night) -> dict[str, Any] | None:
    """Join logged lists with what followed, for the report, /metrics and /ops; None without lists.

    A sure fall of the champion against the version before it is an alarm. With `live.on_live_loss:
    rollback` that version comes back at once, and tonight's candidate is held against it.
    """
    drained, registry = night.drained, night.registry
    if drained is None or night.runner.dry_run or night.until is not None:
        return None
    pair = champions(registry)
    found = joined(night.config, drained.product, night.tables.product, registry, pair)
    if not found["versions"]:
        return None
    write_json(night.workspace.live, found)
    fall = found["fall"]
    if fall is not None:
        night.alarm(fall)
        if night.config.live.on_live_loss == ROLLBACK:
            _go_back(night, registry, pair, fall)
    return found


def champions(registry: Registry) -> Pair:
    """(the champion, the champion before it)"""
    champion = registry.champion()
    changes = [change for change in registry.history() if change.version == champion]
    before = changes[-1].before if changes else None
    return (None if champion is None else str(champion), None if before is None else str(before))


def _go_back(night: Night, registry: Registry, pair: Pair, fall: str) -> None:
    """Return to the version before, where it is the one that would come back."""
    if pair[1] is None or str(registry.alias(PREVIOUS)) != pair[1]:
        night.alarm(f"version {pair[1]} cannot come back: it is no longer the one before")
        return
    registry.rollback(f"live.on_live_loss: {fall}")
    night.alarm(f"version {pair[1]} is the champion again (live.on_live_loss: rollback)")


def joined(
    config: RecsysConfig, drained: Path, tables: Path, registry: Registry, pair: Pair
) -> dict[str, Any]:
    """The lists of the last days and what came of them, as plain values."""
    file = drained / "impressions.parquet"
    end = _latest(file)
    if end is None:
        return {"versions": []}
    lists = read_lists([file], end - config.live.days * DAY, end + 1)
    events = read_events([drained / "events.parquet", *event_files(tables)], lists, 1 << 62)
    meaning = meaning_of(config, read_summary(tables))
    _, grade = meaning.of(events.kinds, events.kind, events.value)
    report = live_report(
        lists,
        events,
        grade,
        event=config.live.event or CLICK,
        within=int(config.experiments.attribution_hours * 3600 * 1_000_000),
        until=time.time_ns() // 1000,
        cold=_cold(tables, lists),
        catalogue=pq.read_metadata(tables / VOCABULARY).num_rows,
        champion=pair[0],
        before=pair[1],
        features={v: _features(file, v, registry) for v in pair if v is not None},
        limits=config.drift,
        settings=Settings(tightest_at=float(config.experiments.expected_clusters)),
    )
    return as_json(report, config.live.days)


def _latest(file: Path) -> int | None:
    """µs of the latest list; None where there is none."""
    times = pq.read_table(file, columns=[c.TIMESTAMP])[c.TIMESTAMP]
    found = pc.max(times.cast(pa.int64())).as_py()
    return None if found is None else int(found)


def _cold(tables: Path, lists: LoggedLists) -> Flags:
    """Shown items with few events before the lists, bool by the lists' codes."""
    past = before_lists(event_files(tables), c.ITEM_ID, lists)
    place = pc.index_in(past, value_set=pa.array(lists.item_ids, pa.string()))
    known = place.drop_null().to_numpy()
    return np.asarray(np.bincount(known, minlength=len(lists.item_ids)) <= FEW_EVENTS)


def _features(file: Path, version: str, registry: Registry) -> Rows:
    """Feature → its values in the sampled rows that a version served."""
    samples = [s for s in read_samples(file, SAMPLES) if s.version == version]
    if not samples:
        return {}
    try:
        bundle = open_bundle(registry.local_path(int(version)), verify=False)
        names = FeatureSet.from_json(bundle.features).columns
    except (RecsysError, ValueError):
        return {}
    rows = [s.served.features for s in samples if s.served.features.shape[1] == len(names)]
    if not rows:
        return {}
    whole = np.concatenate(rows)
    return {name: whole[:, place] for place, name in enumerate(names)}
