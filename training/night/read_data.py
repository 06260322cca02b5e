"""Draining the service's log, validating the tables, and planning the windows."""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from glob import has_magic
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import RecsysConfig, SqlTable
from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.data_schemas.log_record import LogMark
from recsys.data_schemas.meaning import EventMeaning
from recsys.data_schemas.tables import EVENTS
from recsys.data_schemas.tables import TABLES as TABLE_SPECS
from recsys.features.features_check import ITEMS_TRIED, require_sound
from recsys.features.interactions import DAY, Interactions
from recsys.ingestion.tables.ingest import ingest
from recsys.ingestion.tables.kept_events import FilePrint, KnownInputs, LogPart
from recsys.ingestion.tables.load import Tables, load_tables, read_summary
from recsys.ingestion.tables.readers import find_files
from recsys.ingestion.tables.remote_files import labels, list_remote
from recsys.ingestion.tables.validation_report import findings
from recsys.rules import Caps
from recsys.storage.eventlog import (
    EventLog,
    LogUnavailable,
    export,
    log_address,
    never_written,
    open_log,
)
from recsys.storage.eventlog.adopt import drop_drained
from recsys.storage.eventlog.known import (
    ROWS,
    drained_before,
    marks,
    purge_adopted,
    read_adopted,
    require_log,
)
from recsys.storage.eventlog.retention import Retention
from recsys.storage.file_systems import is_remote
from recsys.storage.files import atomic_file, hash_file, hash_json
from recsys.storage.opt_outs import keep_wishes
from recsys.storage.stages import Stage, StageResult, folder
from recsys.storage.tombstones import forgotten
from recsys.storage.workspace import Workspace
from recsys.training.night import window_plan
from recsys.training.night.inputs import (
    BASIS,
    TABLES,
    VOCABULARY,
    Inputs,
    tables_folder,
    user_table,
)
from recsys.training.night.night_context import Night


def drain(night: Night) -> StageResult[Path] | None:
    """Export the service's log up to now; None where the service has never written one.

    The export always holds the whole log up to a position and is kept under that position, so
    nothing is drained twice or lost whenever the night is killed. What an earlier night's export holds
    is taken from there, and only what is new is read from the log.

    Raises:
        LogReplaced: the log does not continue what earlier nights drained.
    """
    uri = log_address(night.config)
    adopted = read_adopted(night.workspace)
    known = marks(night.workspace)
    if never_written(uri):
        require_log(uri, known)
        night.reporter.say("drain: the service has written nothing yet")
        return None
    with open_log(uri) as log:
        for mark in known:
            log.expect(mark)
        if not night.runner.dry_run:
            purge_adopted(log, adopted)
            _expire(night, log)
        last, revision = log.mark(), log.revision()
        before = drained_before(night.workspace, log, adopted)
        return night.runner.run(
            Stage(
                "drain",
                {"log": last.identity, "until": last.position, "revision": revision},
                lambda out: {
                    **export(log, 0, last.position, out, before),
                    "until": last.position,
                    "made_of": [ROWS, revision],
                    "log": {"identity": last.identity, "witness": last.witness},
                },
                folder,
                code=("recsys.storage.eventlog",),
            )
        )


def retention(night: Night) -> Retention:
    """What `privacy:` says is too old, as of today."""
    return Retention.of(night.config.privacy, time.time_ns() // 1000)


def _expire(night: Night, log: EventLog) -> None:
    """Take what is too old out of the log and of what former logs left."""
    limits = retention(night)
    if not limits:
        return
    count = log.expire(limits)
    count += limits.purge(sorted(night.workspace.adopted.glob("*.parquet")))
    if count:
        night.reporter.say(f"drain: {count:,} records older than `privacy:` allows were emptied")


def drop(night: Night) -> None:
    """Let the log's drained days go that are older than `serving.log_days`; the last step of a night,
    when the snapshot in use holds them."""
    days, drained = night.config.serving.log_days, night.drained
    if days is None or drained is None or night.until is not None:
        return
    with open_log(log_address(night.config)) as log:
        before = (time.time_ns() // 1000 // DAY - days) * DAY
        try:
            until = drop_drained(night.workspace, log, drained.product, mark_of(drained), before)
        except LogUnavailable as error:
            night.reporter.warn(str(error))
            return
        if until:
            night.reporter.say(f"drain: days up to position {until} were dropped from the log")


def mark_of(drained: StageResult[Path] | None) -> LogMark:
    """Up to where the log was drained; before its first record where there is none."""
    if drained is None:
        return LogMark("", -1)
    log = drained.facts["log"]
    return LogMark(log["identity"], drained.facts["until"], log["witness"])


def validate(night: Night) -> StageResult[Path]:
    """Validate the caller's tables and the drained log into the workspace's tables."""
    config = night.config
    previous = _vocabulary(night.workspace)
    left_out = forgotten(night.workspace)
    drained = night.drained
    export_folder = drained.path if drained else None
    unwilling = keep_wishes(night.workspace, export_folder, write=not night.runner.dry_run)
    limits = retention(night)
    files = list(_prints(config))
    result = night.runner.run(
        Stage(
            "tables",
            {
                "files": _by_place(config, files),
                "data": night.section("data"),
                "drained": drained.key if drained else None,
                "forgotten": hash_json(sorted(left_out)),
                # Named only where there is something, so that other workspaces keep their tables.
                **({"opted_out": hash_json(sorted(unwilling))} if unwilling else {}),
                **({"kept since": list(limits)} if limits else {}),
                "least_people": config.privacy.least_people,
            },
            lambda out: ingest(
                config,
                out / TABLES,
                previous_vocabulary=previous,
                drained=export_folder,
                forgotten=left_out,
                opted_out=unwilling,
                limits=limits,
                known=_known(night, files),
            ),
            tables_folder,
            code=(*BASIS, "recsys.data_schemas.tables", "recsys.ingestion.tables"),
        )
    )
    if not night.runner.dry_run:
        for line in findings(read_summary(result.product)):
            night.reporter.warn(line)
        _keep_vocabulary(night.workspace, result.product)
    return result


def fingerprints(config: RecsysConfig) -> dict[str, str]:
    """What the tables are read from, by its place within what the config names: SHA-256 of local files,
    size and time of those in object storage; of a database connection or a query, the moment.

    A database cannot be fingerprinted without reading it, so its tables are read every night.
    """
    return _by_place(config, list(_prints(config)))


class _Print(NamedTuple):
    """What identifies the content of one file."""

    table: str
    place: str
    """Within what the config names."""
    label: str
    """As messages and the ingestion name it."""
    content: str


def _by_place(config: RecsysConfig, files: Sequence[_Print]) -> dict[str, str]:
    if config.data.connection is not None:
        return {config.data.connection: str(time.time_ns())}
    found = {f"{file.table}: {file.place}": file.content for file in files}
    for name in TABLE_SPECS:
        place = getattr(config.data, name)
        if isinstance(place, SqlTable):
            found[f"{name}: {place.query}"] = str(time.time_ns())
    return found


def _prints(config: RecsysConfig) -> Iterator[_Print]:
    """Of every file of the tables; none of a database's and of queries."""
    if config.data.connection is not None:
        return
    for name, table in TABLE_SPECS.items():
        place = getattr(config.data, name)
        if place is None or isinstance(place, SqlTable):
            continue
        if is_remote(place):
            found = list_remote(place, table)
            for remote, label in zip(found, labels(place, found), strict=True):
                content = f"{remote.size} bytes of {remote.changed} ns"
                yield _Print(name, remote.name, label, content)
            continue
        root = _root_of(config.path(place))
        for file in find_files(place, config.path("."), table):
            yield _Print(name, str(file.relative_to(root)), str(file), hash_file(file))


def _known(night: Night, files: Sequence[_Print]) -> KnownInputs:
    """What tells the ingestion which events it need not read again."""
    newest, log = night.workspace.newest_output("tables"), None
    drained = night.drained.facts if night.drained else {}
    if "made_of" in drained:
        which = hash_json([drained["log"]["identity"], list(drained["made_of"])])
        log = LogPart(which, int(drained["until"]))
    return KnownInputs(
        {f.label: FilePrint(f.place, f.content) for f in files if f.table == EVENTS.name},
        log,
        newest / TABLES if newest else None,
    )


def _root_of(place: Path) -> Path:
    """The folder that holds all files of a path, folder or glob."""
    while has_magic(str(place)) or place.is_file():
        place = place.parent
    return place


def load(folder: Path, config: RecsysConfig) -> Tables:
    """The validated tables, once they hold what the config names and something that can be listed.

    Raises:
        UsageError: there is no such column to report by, or items cannot be counted by one to cap.
        DataRefused: no item is available.
    """
    tables = load_tables(folder, config)
    _check(tables, config)
    return tables


def split(night: Night, tables: Tables) -> Inputs:
    """Plan the windows over the tables' events."""
    interactions, meaning = graded(tables.interactions, tables.meaning)
    if interactions is not tables.interactions:
        night.alarm(
            "no event type is graded positive (only "
            + ", ".join(interactions.kinds)
            + "), so every event counts as grade 1; set events.types in the config to change this"
        )
    known = interactions
    if night.until is not None:
        interactions = interactions.before(night.until)
    plan = window_plan.windows_of(
        interactions, tables.resolution, night.config, night.workspace.window_plan
    )
    night.reporter.say(f"split: {plan.windows.why}")
    inputs = Inputs(night.tables, tables, interactions, known, meaning, plan.windows, night.config)
    return replace(inputs, earlier=window_plan.attributes_of_plan(night, inputs, plan))


def refuse_unusable(tables: Tables, config: RecsysConfig) -> None:
    """What every night would refuse of validated tables before its work, for who only checks them.

    Raises:
        DataRefused, UsageError: see `load` and `plan_windows`.
    """
    _check(tables, config)
    events, _ = graded(tables.interactions, tables.meaning)
    window_plan.new_windows(events, tables.resolution, config)


def _check(tables: Tables, config: RecsysConfig) -> None:
    """What `load` refuses."""
    _refuse_nothing_to_list(tables)
    _check_segments(tables, config)
    # A cap on a column that items cannot be counted by is refused before hours of work, too.
    Caps(tables.catalogue, config.serving.caps, np.empty(0, np.int32))


def _refuse_nothing_to_list(tables: Tables) -> None:
    """Refuse a catalogue of which nothing may be in a list, before hours of work."""
    blocked = tables.catalogue.blocked
    if blocked.all():
        raise DataRefused(
            "no item is available, so that every list would be empty",
            where=f"items.{c.AVAILABLE}",
            found=f"none of {len(blocked):,} items",
            expected="true, or no value, for the items that may be listed",
            fix=f"correct `{c.AVAILABLE}` where the table is exported, or leave the column out",
        )


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
    return replace(interactions, grade=grade.astype(np.int8)), replace(meaning, types=types)


def _vocabulary(workspace: Workspace) -> Path | None:
    file = workspace.tables / VOCABULARY
    return file if file.exists() else None


def _keep_vocabulary(workspace: Workspace, tables: Path) -> None:
    """Remember the item numbering, which only ever grows; an older table set does not shrink it."""
    import pyarrow.parquet as pq

    new, kept = tables / "items.parquet", workspace.tables / VOCABULARY
    if kept.exists() and pq.read_metadata(kept).num_rows > pq.read_metadata(new).num_rows:
        return
    with atomic_file(kept) as aside:
        shutil.copyfile(new, aside)


def require_sound_features(night: Night) -> None:
    """Try windows and features of one's own on real items, before anything expensive is done.

    Raises:
        UsageError: one cannot be used; the first wrong row is shown.
    """
    import pyarrow.parquet as pq

    config = night.config
    items = pq.read_table(night.tables.product / VOCABULARY).slice(0, ITEMS_TRIED)
    require_sound(config.features, types=tuple(config.events.meaning().types), table=items)
