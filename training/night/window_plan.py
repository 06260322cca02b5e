"""Where the past is cut tonight, and the items and users as they were when the cuts were planned.

Cuts of an earlier night are kept while little has come since, so that what is fitted or collected as of
them is found again and costs nothing. Items are new or changed every day, and a fit is made over all
items: the ranker's windows therefore go on with the items and users of the night that planned them,
which is also what could be known then. The test's cuts and the release take tonight's.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from recsys.data_schemas.config import FeaturesConfig, RecsysConfig
from recsys.features.catalogue import Catalogue
from recsys.features.feature_set import FeatureSet
from recsys.features.interactions import Interactions
from recsys.features.time_buckets import BUCKETS
from recsys.features.user_table import UserTable
from recsys.ingestion.tables.ingest import ITEMS_FILE, USERS_FILE
from recsys.ingestion.tables.load import Tables, read_users
from recsys.ingestion.tables.resolution import Resolution
from recsys.storage.files import atomic_write, link_or_copy
from recsys.storage.stages import Stage
from recsys.training.night.inputs import Inputs, tables_folder
from recsys.training.night.night_context import Night
from recsys.training.windows import Windows, plan_windows

STAGE = "window-plan"
GROWTH, DAYS = 0.1, 7.0
"""Share of further events, against those since the first cut, and days of data, up to which the cuts
of an earlier night are kept (assumed: a tenth moves no cut by more than its own window, and a week is
the encoder's cadence)."""


@dataclass(frozen=True)
class Plan:
    """Tonight's windows."""

    windows: Windows
    """Those of an earlier night, the last one longer, while little has come since."""
    record: Mapping[str, Any]
    """What a later night goes on from."""


def new_windows(events: Interactions, resolution: Resolution, config: RecsysConfig) -> Windows:
    """The windows of a night that keeps none of an earlier one.

    Raises:
        DataRefused: see `plan_windows`.
    """
    return plan_windows(
        events,
        config.windows,
        ordinal_until=resolution.ordinal_until,
        bucket=BUCKETS[config.features.bucket],
        step=resolution.step,
        ordinal_step=resolution.ordinal_step,
    )


def windows_of(
    events: Interactions, resolution: Resolution, config: RecsysConfig, pointer: Path
) -> Plan:
    """The windows of an earlier night, kept in the file `pointer`, while they hold, otherwise new ones."""
    wishes = config.windows.model_dump(mode="json")
    windows = new_windows(events, resolution, config)
    try:
        record = json.loads(pointer.read_text(encoding="utf-8"))
        kept = Windows.parse(record["windows"])
    except (OSError, ValueError, KeyError, TypeError):
        record, kept = {}, windows
    same = (kept.scheme, kept.grid) == (windows.scheme, windows.grid)
    if record.get("wishes") == wishes and same and (kept.ranker or not windows.ranker):
        longer = kept.longer(windows.end, events.time, GROWTH, DAYS)
        if longer is not None:
            return Plan(longer, record)
    return Plan(windows, {"wishes": wishes, "windows": windows.facts()})


def attributes_of_plan(night: Night, inputs: Inputs, plan: Plan) -> Inputs | None:
    """The inputs up to the first tested cut, over the items and users of the night that planned the
    windows; None where these are tonight's, which are then kept for the nights to come."""
    tonight = inputs.attributes
    kept = plan.record.get("attributes", tonight)
    if kept != tonight:
        stage = night.runner.find(_attributes(inputs, kept))
        earlier = None if stage is None else _over(inputs, stage.product)
        if stage is not None and earlier is not None:
            count = earlier["tables"].catalogue.n_items
            night.reporter.say(
                f"split: the ranker's windows keep the {count:,} items, and the users, of the night "
                "that planned them"
            )
            return replace(inputs, stage=stage, **earlier)
    night.runner.run(_attributes(inputs, tonight))
    if not night.runner.dry_run:
        pointer = night.workspace.window_plan
        atomic_write(pointer, json.dumps({**plan.record, "attributes": tonight}))
    return None


def _attributes(inputs: Inputs, files: Mapping[str, str]) -> Stage[Path]:
    """Tables of items and users, by SHA-256 of each file, kept by themselves."""
    folder = inputs.tables_folder

    def keep(out: Path) -> None:
        (out / folder.name).mkdir()
        for name in files:
            link_or_copy(folder / name, out / folder.name / name)

    return Stage(STAGE, files, keep, tables_folder, personal=USERS_FILE in files)


def _over(inputs: Inputs, folder: Path) -> dict[str, Any] | None:
    """Tables and events of the ranker's windows over earlier attributes; None where these cannot
    stand for tonight's: another feature, other vectors, an item they lack among what was known then."""
    first = inputs.windows.test[0]
    catalogue, users = Catalogue.from_parquet(folder / ITEMS_FILE), read_users(folder)
    count, shown = catalogue.n_items, inputs.tables.impressions
    events = replace(inputs.interactions.before(first), n_items=count)
    shown = None if shown is None else shown.before(first)
    now = inputs.tables
    config = inputs.config.features
    if (
        _columns(config, events, catalogue, users)
        != _columns(config, events, now.catalogue, now.users)
        or now.catalogue.vector_length != catalogue.vector_length
        or not now.catalogue.item_ids.slice(0, count).equals(catalogue.item_ids)
        or int(events.item.max(initial=-1)) >= count
        or (shown is not None and int(shown.items.max(initial=-1)) >= count)
    ):
        return None
    tables = Tables(catalogue, events, shown, users, now.summary, now.resolution, now.meaning)
    return {"tables": tables, "interactions": events, "known": events}


def _columns(
    config: FeaturesConfig, events: Interactions, catalogue: Catalogue, users: pa.Table | None
) -> tuple[str, ...]:
    """The features that such tables give, apart from what no attribute decides."""
    table = None if users is None else UserTable.from_table(users)
    return FeatureSet.default(catalogue, events.kinds, (), config, users=table).columns
