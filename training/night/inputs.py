"""Draining the service's log, validating the tables, and planning the windows."""

import hashlib
import json
import shutil
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_schemas.config import RecsysConfig
from data_schemas.errors import UsageError
from data_schemas.meaning import EventMeaning
from data_schemas.tables import TABLES as TABLE_SPECS
from features.check import ITEMS_TRIED, require_sound
from features.impressions import Impressions
from features.interactions import Interactions
from features.users import UserTable
from recsys.encoder.text import item_texts
from recsys.evaluation.shown import ShownLists
from recsys.eventlog import EventLog
from recsys.files import hash_file, hash_json
from recsys.stages import StageResult
from recsys.tables.ingest import ITEMS_FILE, USERS_FILE, ingest
from recsys.tables.load import Tables, load_tables, read_summary
from recsys.tables.report import findings
from recsys.tables.sources import find_files
from recsys.workspace import Workspace
from training.night import planned
from training.night.context import Night
from training.windows import Windows

VOCABULARY = ITEMS_FILE
TABLES = "tables"
Column = npt.NDArray[Any]


@dataclass(frozen=True)
class Inputs:
    """What a night learns from."""

    stage: StageResult
    tables: Tables
    interactions: Interactions
    """All accepted events before the night's `until`; graded so that something is positive."""
    known: Interactions
    """All accepted events, those after `until` too: what the online state holds, which is read as of
    the moment asked for."""
    meaning: EventMeaning
    """What those events mean, and those that a service will see after them."""
    windows: Windows
    config: RecsysConfig
    earlier: "Inputs | None" = None
    """The same up to the first tested cut, over the items and users as they were when the windows were
    planned: what the ranker's windows are learned from. None where nothing has changed since."""

    @property
    def tables_folder(self) -> Path:
        return self.stage.path / TABLES

    @property
    def key(self) -> str:
        return hash_json([self.stage.key, self.windows.end])

    @property
    def n_items(self) -> int:
        return self.interactions.n_items

    @cached_property
    def _keys(self) -> dict[int, str]:
        return {}

    def key_before(self, now: int) -> str:
        """What identifies everything known strictly before a time: events, lists shown, catalogue,
        users' attributes. Later events do not change it, so what was made of it stays good."""
        if now not in self._keys:
            digest = hashlib.blake2b(digest_size=16)
            names, columns = _events_before(self.interactions, now)
            said, shown = self._shown_before(now)
            digest.update(json.dumps([self._attributes_key, names, said]).encode())
            for column in (*columns, *shown):
                digest.update(column.data)
            self._keys[now] = digest.hexdigest()
        return self._keys[now]

    def _shown_before(self, now: int) -> tuple[list[str | None] | None, list[Column]]:
        """What requests said and the other columns of the lists shown before a time; (None, none)
        where lists are not recorded at all, which is not the same as that none was shown yet."""
        shown = self.tables.impressions
        if shown is None:
            return None, []
        early = shown.before(now)
        return early.context.tolist(), [
            early.user,
            early.time,
            early.offsets,
            early.item,
            early.propensity,
        ]

    @cached_property
    def attributes(self) -> dict[str, str]:
        """SHA-256 by file of what is known of items and, where there is any, of users apart from what
        they did."""
        files = [self.tables_folder / name for name in (ITEMS_FILE, USERS_FILE)]
        return {file.name: hash_file(file) for file in files if file.exists()}

    @cached_property
    def _attributes_key(self) -> str:
        return hash_json([self.attributes.get(name) for name in (ITEMS_FILE, USERS_FILE)])

    @cached_property
    def texts(self) -> list[str]:
        """One text per item, in vocabulary order."""
        return item_texts(self.tables.catalogue, self.config.encoder.template)

    @cached_property
    def texts_key(self) -> str:
        """What identifies the texts."""
        return hash_json(self.texts)


def _events_before(events: Interactions, now: int) -> tuple[list[str], list[Column]]:
    """The names of users and types, and the columns, of all events strictly before a time."""
    count = int(np.searchsorted(events.time, now))
    columns = [
        column[:count]
        for column in (
            events.user,
            events.item,
            events.kind,
            events.time,
            events.value,
            events.weight,
            events.grade,
        )
    ]
    users = events.user_ids[: int(columns[0].max(initial=-1)) + 1]
    return [*users, *events.kinds], columns


def log_uri(config: RecsysConfig) -> str:
    """Where the durable log is: the configured PostgreSQL, or SQLite in the workspace."""
    return config.serving.log or str(config.workspace_path / "log" / "log.sqlite")


def drain(night: Night) -> StageResult | None:
    """Export the service's log up to now; None where the service has never written one.

    The export always holds the whole log up to a position and is kept under that position, so
    nothing is drained twice or lost whenever the night is killed.
    """
    uri = log_uri(night.config)
    if "://" not in uri and not Path(uri).exists():
        night.reporter.say("drain: the service has written nothing yet")
        return None
    log = EventLog.open(uri)
    try:
        until = log.last_position()
        return night.runner.run(
            "drain",
            {"log": uri, "until": until},
            lambda out: {**log.export(0, until, out), "until": until},
            code=("recsys.eventlog",),
        )
    finally:
        log.close()


def validate(night: Night, drained: StageResult | None) -> StageResult:
    """Validate the caller's tables and the drained log into the workspace's tables."""
    config = night.config
    previous = _vocabulary(night.workspace)
    forgotten = forgotten_users(night.workspace)
    result = night.runner.run(
        "tables",
        {
            "files": fingerprints(config),
            "data": night.section("data"),
            "drained": drained.key if drained else None,
            "forgotten": hash_json(sorted(forgotten)),
        },
        lambda out: ingest(
            config,
            out / TABLES,
            previous_vocabulary=previous,
            drained=drained.path if drained else None,
            forgotten=forgotten,
        ),
        code=("recsys.tables", "data_schemas.tables"),
    )
    if not night.runner.dry_run:
        for line in findings(read_summary(result.path / TABLES)):
            night.reporter.warn(line)
        _keep_vocabulary(night.workspace, result.path / TABLES)
    return result


def fingerprints(config: RecsysConfig) -> dict[str, str]:
    """SHA-256 of every file the tables are read from; of a database connection, the moment.

    A database cannot be fingerprinted without reading it, so its tables are read every night.
    """
    if config.data.connection is not None:
        return {config.data.connection: str(time.time_ns())}
    return {
        str(file): hash_file(file)
        for name, table in TABLE_SPECS.items()
        if (place := getattr(config.data, name)) is not None
        for file in find_files(place, config.path("."), table)
    }


def split(night: Night, stage: StageResult) -> Inputs:
    """Load the tables and plan the windows."""
    tables = load_tables(stage.path / TABLES, night.config)
    _check_segments(tables, night.config)
    interactions, meaning = graded(tables.interactions, night.config.events.meaning())
    if interactions is not tables.interactions:
        night.alarm(
            "no event type is graded positive (only "
            + ", ".join(interactions.kinds)
            + "), so every event counts as grade 1; set events.types in the config to change this"
        )
    known = interactions
    if night.until is not None:
        interactions = interactions.before(night.until)
    plan = planned.windows_of(night, interactions, tables.resolution.ordinal_until)
    night.reporter.say(f"split: {plan.windows.why}")
    inputs = Inputs(stage, tables, interactions, known, meaning, plan.windows, night.config)
    return replace(inputs, earlier=planned.attributes_of_plan(night, inputs, plan))


def _check_segments(tables: Tables, config: RecsysConfig) -> None:
    """Refuse a column to report by that does not exist, before hours of work.

    Raises:
        UsageError: neither items nor users have it, or its values are no categories.
    """
    users = user_table(tables)
    known = {*tables.catalogue.categorical_names, *(users.categorical if users else ())}
    for column in config.evaluation.segments:
        if column not in known:
            raise UsageError(
                "there is no such column to report by",
                where="evaluation.segments",
                found=column,
                expected=", ".join(sorted(known)) or "a column of items or users with categories",
            )


def graded(interactions: Interactions, meaning: EventMeaning) -> tuple[Interactions, EventMeaning]:
    """The same events and meaning; where no event is graded positive, every event that is not a
    dislike counts as grade 1, and so do those that come later."""
    if (interactions.grade > 0).any() or not len(interactions):
        return interactions, meaning
    grade = np.where(interactions.weight > 0, np.int8(1), interactions.grade)
    types = {
        name: (weight, 1 if weight > 0 else low) for name, (weight, low) in meaning.types.items()
    }
    return replace(interactions, grade=grade.astype(np.int8)), EventMeaning(types)


def forgotten_users(workspace: Workspace) -> set[str]:
    """Users that asked to be forgotten; their rows are kept out whenever files are read again."""
    from recsys.forgetting import forgotten

    return forgotten(workspace)


def _vocabulary(workspace: Workspace) -> Path | None:
    file = workspace.tables / VOCABULARY
    return file if file.exists() else None


def _keep_vocabulary(workspace: Workspace, tables: Path) -> None:
    """Remember the item numbering, which only ever grows; an older table set does not shrink it."""
    import pyarrow.parquet as pq

    new, kept = tables / "items.parquet", workspace.tables / VOCABULARY
    if kept.exists() and pq.read_metadata(kept).num_rows > pq.read_metadata(new).num_rows:
        return
    part = kept.with_name(f".{kept.name}.part")
    shutil.copyfile(new, part)
    part.replace(kept)


def require_sound_features(night: Night, stage: StageResult) -> None:
    """Try windows and features of one's own on real items, before anything expensive is done.

    Raises:
        UsageError: one cannot be used; the first wrong row is shown.
    """
    import pyarrow.parquet as pq

    config = night.config
    items = pq.read_table(stage.path / TABLES / VOCABULARY).slice(0, ITEMS_TRIED)
    require_sound(config.features, types=tuple(config.events.meaning().types), table=items)


def user_table(tables: Tables) -> UserTable | None:
    """Attributes of users as features read them."""
    return None if tables.users is None else UserTable.from_table(tables.users)


def shown_lists(tables: Tables) -> Impressions | None:
    """What was shown, as counters read it."""
    shown = tables.impressions
    if shown is None:
        return None
    return Impressions(shown.time, shown.position, shown.offsets, shown.item)


def lists_of_users(tables: Tables) -> ShownLists | None:
    """What was shown to whom, as the bias of places and the ranker's groups read it."""
    shown = tables.impressions
    if shown is None:
        return None
    return ShownLists(shown.offsets, shown.item, shown.user, shown.time, shown.propensity)


def summary(inputs: Inputs) -> dict[str, Any]:
    """Data facts for the report and the manifest."""
    events = inputs.interactions
    return {
        **inputs.tables.summary,
        "until": int(events.time.max()) if len(events) else None,
        "events_used": len(events),
        "windows": inputs.windows.facts(),
    }
