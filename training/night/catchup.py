"""Which nights were missed: one for each day with events since the last night's data ended."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import RecsysConfig
from recsys.features.interactions import DAY
from recsys.ingestion.tables.event_partitions import event_files
from recsys.storage.progress import Reporter
from recsys.storage.stages import StageRunner
from recsys.storage.workspace import Workspace
from recsys.training.night import read_data
from recsys.training.night.night_context import Night
from recsys.training.night.publish import last_end


def missed(config: RecsysConfig, until: int | None) -> list[int | None]:
    """The nights to run up to a moment (µs), in order, the moment itself last.

    One night alone without `until`, in a workspace without an earlier night, and where `until` lies
    before the last night's data. The tables are drained and validated to see which days have
    events; the first of the nights finds that done.
    """
    end = last_end(config)
    if until is None or end is None or until <= end:
        return [until]
    workspace, reporter = Workspace(config.workspace_path), Reporter()
    with workspace.lock() as note:
        if note:
            reporter.warn(note)
        night = Night(config, workspace, StageRunner(workspace, reporter), reporter)
        night.drained = read_data.drain(night)
        tables = read_data.validate(night).product
    midnights = [(day + 1) * DAY for day in days_with_events(tables, end, until)]
    return [*(midnight for midnight in midnights if midnight < until), until]


def days_with_events(tables: Path, start: int, until: int) -> list[int]:
    """Days since 1970 (UTC) with an event in [start, until), in order."""
    days: set[int] = set()
    for file in event_files(tables):
        column = pq.read_table(file, columns=[c.TIMESTAMP])[c.TIMESTAMP]
        times = column.cast(pa.int64()).to_numpy()
        days.update(np.unique(times[(times >= start) & (times < until)] // DAY).tolist())
    return sorted(days)
