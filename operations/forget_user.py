"""Removing a person from everything in a workspace and the log, with a receipt of what was done."""

import html
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.data_schemas import columns as c
from recsys.data_schemas.addresses import redacted
from recsys.data_schemas.config import RecsysConfig
from recsys.operations.user_ids import require_id
from recsys.storage.files import PART, human_bytes, write_json
from recsys.storage.opt_outs import forget_wish
from recsys.storage.registry import Registry
from recsys.storage.registry.version_tags import STALE_TAG
from recsys.storage.stages.identity import MARKER
from recsys.storage.tombstones import write_tombstone
from recsys.storage.user_rows import holds_user, rows_of, without_users
from recsys.storage.workspace import SIMULATION_PLAN, STATE_MARKER, Workspace, remove

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from recsys.features.catalogue import Codes
    from recsys.features.user_table import UserTable

REPORT_SUFFIXES = frozenset({".html", ".json", ".csv", ".parquet"})


@dataclass(frozen=True)
class Place:
    """One line of a receipt."""

    where: str
    removed: str
    remains: str


@dataclass
class Receipt:
    """What forgetting a person did, place by place."""

    user_id: str
    at: str
    places: list[Place] = field(default_factory=list)
    retrain: list[int] = field(default_factory=list)
    """Model versions marked for retraining."""

    def add(self, where: str, removed: str, remains: str = "nothing") -> None:
        self.places.append(Place(where, removed, remains))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def forget_user(config: RecsysConfig, user_id: str) -> Receipt:
    """Remove a person from everything in the workspace and the log; repeating is safe.

    The tombstone comes first: whatever happens afterwards, no later night takes the person in.

    Raises:
        UsageError: the id is empty.
        WorkspaceBusy: a run is at work; it could write what was just removed.
    """
    require_id(user_id)
    workspace = Workspace(config.workspace_path)
    receipt = Receipt(user_id, datetime.now(UTC).isoformat(timespec="seconds"))
    with ExitStack() as locked:
        locked.enter_context(workspace.lock())
        simulated = Workspace(workspace.simulation)
        if simulated.path.is_dir():
            locked.enter_context(simulated.lock())
        write_tombstone(workspace, receipt.user_id, receipt.at)
        receipt.add(
            "your own files (items, events, impressions, users)",
            "nothing: they are yours and never rewritten",
            f"what you keep there; {workspace.tombstones.name} keeps it out of every later night",
        )
        own = _only_theirs(workspace, receipt.user_id)
        if forget_wish(workspace, receipt.user_id):
            receipt.add(
                workspace.opt_outs.name, "the wish not to be learned from: nothing is left to learn"
            )
        _from_log(config, receipt)
        _from_workspace(workspace, receipt)
        _from_store(config, workspace, receipt)
        _from_scratch(config, receipt)
        if simulated.path.is_dir():
            _from_simulation(workspace, simulated, receipt)
        _mark_models(config, receipt)
        _name_declarations(config, receipt, own)
        receipt.add(
            "backups and copies of the workspace, the log's database and artifact stores",
            "nothing: they lie where this command does not reach",
            "all that they held; delete them, or run this command again after restoring one",
        )
        receipt.add(
            "files you had written elsewhere (`recommend --out`, `evaluate --out`)",
            "nothing: they lie outside the workspace",
            "what you keep there",
        )
        _write_receipt(workspace, receipt)
    return receipt


def _from_workspace(workspace: Workspace, receipt: Receipt) -> None:
    _from_state(workspace, receipt)
    _from_stages(workspace, receipt)
    _from_tables(workspace, receipt)
    _from_reports(workspace, receipt)
    _from_traces(workspace, receipt)


def _from_simulation(workspace: Workspace, simulated: Workspace, receipt: Receipt) -> None:
    """The workspace of a backtest, which lies within and holds tables and states of its own."""
    within = Receipt(receipt.user_id, receipt.at)
    _from_workspace(simulated, within)
    lists = sum(remove(file) for file in simulated.path.glob("nights/*.npz"))
    place = simulated.path.relative_to(workspace.path)
    for found in within.places:
        receipt.add(f"{place}/ {found.where}", found.removed, found.remains)
    if lists:
        receipt.add(f"{place}/nights", f"whole lists by user, {human_bytes(lists)}")
    if (simulated.path / SIMULATION_PLAN).exists():
        (simulated.path / SIMULATION_PLAN).unlink()
        receipt.add(f"{place}/{SIMULATION_PLAN}", "the plan: the next backtest starts anew")


def _from_scratch(config: RecsysConfig, receipt: Receipt) -> None:
    """Lists that a killed run left half made, and states published for other machines."""
    from recsys.storage.engines.scratch_parts import forget_scratch
    from recsys.storage.scratch import scratch_of

    if folders := forget_scratch(config):
        receipt.add(
            f"scratch ({redacted(scratch_of(config).address)})",
            f"{folders} folders of unfinished lists and published releases, whole",
            "copies on an engine's other machines, for three days after their last use",
        )


def _from_store(config: RecsysConfig, workspace: Workspace, receipt: Receipt) -> None:
    """Publish the current snapshot anew, without the person, and remove the others."""
    from recsys.features.published_state import store_of

    store, current = store_of(config), workspace.current_snapshot()
    if store is None or current is None:
        return
    if removed := store.forget(current, config.serving.shards):
        receipt.add(
            f"published snapshots ({redacted(store.address)})",
            f"{removed} pieces that may hold the person; the current snapshot was published anew",
            "copies on workers' disks, until an hour after they have fetched the new one",
        )


def _from_log(config: RecsysConfig, receipt: Receipt) -> None:
    from recsys.storage.eventlog import written_log

    with written_log(config) as log:
        if log is None:
            return
        position = log.forget_user(receipt.user_id)
    receipt.add(
        "the service's log",
        "events and impressions of the person; running services follow within seconds",
        f"the erasure itself (user id and time, position {position})",
    )


def _from_state(workspace: Workspace, receipt: Receipt) -> None:
    """Fold the erasure into every state snapshot; counters lose the person's part too."""
    for marker in sorted(workspace.state.glob(f"*/{STATE_MARKER}")):
        folder = marker.parent
        known = _erase_from_snapshot(folder, receipt.user_id)
        receipt.add(
            str(folder.relative_to(workspace.path)),
            "history, attributes and share of the counters" if known else "nothing was there",
            "the id among the snapshot's forgotten, until the next night makes a new one",
        )


def _erase_from_snapshot(folder: Path, user_id: str) -> bool:
    """Rewrite a snapshot without a person; whether anything of the person was there."""
    from recsys.data_schemas.log_record import LogRecord
    from recsys.features.state import OnlineState

    state = OnlineState.open(folder)
    position = state.log_position
    known = state.knows_user(user_id) or bool(state.user_attributes(user_id))
    state.apply([LogRecord(position + 1, "forget", {c.USER_ID: user_id}, 0)])
    # Only the erasure is folded early: the records after the snapshot are still to come.
    state.log_position = position
    if state.users is not None:
        state.users = _attributes_without(state.users, user_id)
    state.save(folder)
    return known


def _only_theirs(workspace: Workspace, user_id: str) -> dict[str, str]:
    """Texts of the users' tables that nobody else has, by column."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    own: dict[str, str] = {}
    for file in sorted((workspace.path / "stages").glob("tables/*/tables/users.parquet")):
        table = pq.read_table(file)
        for row in rows_of(file, user_id):
            for name, value in row.items():
                if name == c.USER_ID or not isinstance(value, str):
                    continue
                if pc.sum(pc.equal(table[name], value)).as_py() == 1:
                    own[name] = value
    return own


def _name_declarations(config: RecsysConfig, receipt: Receipt, own: Mapping[str, str]) -> None:
    """Name the versions whose declarations of features hold a text that only this person has.

    Since `privacy.least_people` none is written; versions that were made before may hold some.
    """
    if not own:
        return
    said = {json.dumps(value, ensure_ascii=False) for value in own.values()}
    versions = [
        number
        for number, text in Registry(config).declarations()
        if any(value in text for value in said)
    ]
    if versions:
        receipt.add(
            f"features.json of the versions {', '.join(map(str, sorted(versions)))}",
            "nothing: a version's files are never changed",
            f"the person's own text of {', '.join(sorted(own))}, without the id, until nights have "
            "replaced these versions; earlier bundles that you copied elsewhere hold it too",
        )


def _attributes_without(users: "UserTable", user_id: str) -> "UserTable":
    import numpy as np

    from recsys.features.ids import IdIndex
    from recsys.features.user_table import UserTable

    mine = users.ids.index_of(user_id)
    if mine < 0:
        return users
    ids = users.ids.all()
    kept = np.arange(len(ids)) != mine
    return UserTable(
        IdIndex.build(ids.filter(kept)),
        {name: values[kept] for name, values in users.numeric.items()},
        {name: _codes_of(codes, kept) for name, codes in users.categorical.items()},
    )


def _codes_of(codes: "Codes", kept: "npt.NDArray[np.bool_]") -> "Codes":
    """The codes of those who stay, without the names of values that nobody has any more."""
    import numpy as np

    from recsys.features.catalogue import Codes

    values = codes.values[kept]
    used = np.unique(values[values >= 0])
    place = np.full(len(codes.names) + 1, -1, codes.values.dtype)
    place[used] = np.arange(len(used))
    return Codes([codes.names[int(code)] for code in used], place[values])


def _from_stages(workspace: Workspace, receipt: Receipt) -> None:
    """Remove the kept outputs that hold rows about persons; the next night makes them anew.

    Later stages know a person by number only, so where no table names the person, none has rows.
    """
    halves = [p for p in workspace.stages.glob("*/*") if p.name.endswith(PART)]
    freed, names = sum(remove(half) for half in halves), {half.parent.name for half in halves}
    files = workspace.stages.rglob("*.parquet")
    if not any(holds_user(file, receipt.user_id) for file in files):
        what = f"{len(halves)} half-written outputs, whose rows cannot be told"
        receipt.add("stages/", what if halves else "nothing was there")
        return
    for output in sorted(workspace.stages.glob("*/*")):
        if not output.is_dir() or not _personal(output):
            continue
        freed += remove(output)
        names.add(output.parent.name)
    # What learned from the person is not gone on from: the next fits start from scratch.
    (workspace.warm_starts).unlink(missing_ok=True)
    if names:
        receipt.add(
            f"stages/ ({', '.join(sorted(names))})",
            f"whole outputs, {human_bytes(freed)}: rows about persons are in them",
            "model weights without rows about persons, until their next refit",
        )


def _personal(output: Path) -> bool:
    """Whether an output may hold rows about persons; one that does not say so may."""
    try:
        marker = json.loads((output / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    return bool(marker.get("personal", True))


def _from_tables(workspace: Workspace, receipt: Receipt) -> None:
    """Rewrite tables and quarantine, and what former logs left, without the person's rows."""
    rows = 0
    left = workspace.adopted.glob("*.parquet")
    for file in [*sorted(workspace.tables.rglob("*.parquet")), *sorted(left)]:
        rows += without_users(file, [receipt.user_id])
    receipt.add("tables/ and quarantine", f"{rows} rows" if rows else "nothing was there")


def _from_reports(workspace: Workspace, receipt: Receipt) -> None:
    """Remove the person's rows from report tables, and the pages that name the person.

    An id of digits alone is a number like any other on a page: it proves nothing, and the page
    stays.
    """
    removed = []
    for file in _report_files(workspace):
        if file.suffix == ".parquet":
            if without_users(file, [receipt.user_id]):
                removed.append(file)
        elif not receipt.user_id.isdecimal() and _names(file, receipt.user_id):
            file.unlink()
            removed.append(file)
    receipt.add(
        "reports",
        f"{len(removed)} files or their rows" if removed else "nothing was there",
        "figures over all users, and figures by unnamed user number, whose names are removed above",
    )


def _from_traces(workspace: Workspace, receipt: Receipt) -> None:
    """Remove traces of failed commands that name the person."""
    traces = [
        file
        for file in sorted((workspace.path / "log").glob("trace-*.txt"))
        if _names(file, receipt.user_id)
    ]
    for file in traces:
        file.unlink()
    if traces:
        receipt.add("traces of failed commands", f"{len(traces)} files")


def _report_files(workspace: Workspace) -> Iterator[Path]:
    """Report pages and tables, those kept beside a registered version included."""
    for root in (workspace.reports, workspace.mlflow / "artifacts"):
        for file in sorted(root.rglob("*")) if root.is_dir() else []:
            parts = file.relative_to(root).parts
            if "data" not in parts and file.suffix in REPORT_SUFFIXES and file.is_file():
                yield file


def _names(file: Path, user_id: str) -> bool:
    """Whether a text file holds the id as a whole word, plain or HTML-escaped."""
    words = {re.escape(user_id), re.escape(html.escape(user_id))}
    pattern = rf"(?<![\w.-])(?:{'|'.join(sorted(words))})(?![\w.-])"
    return re.search(pattern, file.read_text(encoding="utf-8", errors="replace")) is not None


def _mark_models(config: RecsysConfig, receipt: Receipt) -> None:
    registry = Registry(config)
    for version in registry.list():
        registry.tag(version.version, {STALE_TAG: f"a person was forgotten at {receipt.at}"})
        receipt.retrain.append(version.version)
    if copies := registry.drop_reports():
        receipt.add("copies of reports in the artifact store", f"the reports of {copies} versions")
    if receipt.retrain:
        receipt.add(
            "registered models",
            "nothing: bundles hold no personal data, so rollback keeps working",
            "what the weights learned from the person among others, until the next refit; "
            "the versions are marked for retraining",
        )


def _write_receipt(workspace: Workspace, receipt: Receipt) -> None:
    """The receipt is named by time, not by person; it is the caller's proof and holds the id."""
    stamp = receipt.at.replace(":", "").replace("-", "")
    file = workspace.receipts / f"forgotten-{stamp}.json"
    write_json(file, receipt.as_json(), mode=0o600)
