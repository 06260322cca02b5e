"""All that a workspace and the log hold of one person, for that person to have."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys.data_schemas import columns as c
from recsys.data_schemas.api import to_time
from recsys.data_schemas.config import RecsysConfig
from recsys.operations.user_ids import require_id
from recsys.storage.eventlog import written_log
from recsys.storage.opt_outs import all_wishes
from recsys.storage.tombstones import times_of_forgetting
from recsys.storage.user_rows import rows_of
from recsys.storage.workspace import Workspace

CHUNK = 20_000
"""Records of the log read at a time."""


def export_user(config: RecsysConfig, user_id: str) -> dict[str, Any]:
    """What is kept of a person, as JSON values; times are ISO 8601 in UTC.

    `tables` holds the rows of the newest tables by file (events, impressions, users, what was set
    aside), `log` the records of the service's log, those included that no night has read yet.

    Raises:
        UsageError: the id is empty.
    """
    require_id(user_id)
    workspace = Workspace(config.workspace_path)
    wish = all_wishes(config).get(user_id)
    return {
        "user_id": user_id,
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "opted_out": to_time(wish.at).isoformat() if wish is not None and wish.out else None,
        "forgotten": times_of_forgetting(workspace).get(user_id),
        "tables": _of_tables(workspace, user_id),
        "log": _of_log(config, user_id),
    }


def _of_tables(workspace: Workspace, user_id: str) -> dict[str, list[dict[str, Any]]]:
    """Rows by file of the newest output of the tables' stage."""
    newest = workspace.newest_output("tables")
    found: dict[str, list[dict[str, Any]]] = {}
    if newest is None:
        return found
    for file in sorted(newest.rglob("*.parquet")):
        if rows := rows_of(file, user_id):
            found[file.relative_to(newest).with_suffix("").as_posix()] = rows
    return found


def _of_log(config: RecsysConfig, user_id: str) -> list[dict[str, Any]]:
    """The person's records in the order of the log."""
    found, after = [], 0
    with written_log(config) as log:
        while log is not None and (chunk := log.read(after, CHUNK)):
            after = chunk[-1].position
            found += [
                {"position": r.position, "kind": r.kind, **_readable(r.payload)}
                | {c.RECEIVED_AT: to_time(r.received_at).isoformat()}
                for r in chunk
                if r.payload.get(c.USER_ID) == user_id
            ]
    return found


def _readable(payload: Any) -> dict[str, Any]:
    row = dict(payload)
    if isinstance(row.get(c.TIMESTAMP), int):
        row[c.TIMESTAMP] = to_time(row[c.TIMESTAMP]).isoformat()
    return row


def as_text(exported: dict[str, Any]) -> str:
    """One JSON document."""
    return json.dumps(exported, indent=2, ensure_ascii=False, default=str) + "\n"


def write_export(exported: dict[str, Any], out: Path) -> None:
    """Write it where its owner alone may read it."""
    from recsys.storage.files import atomic_write

    atomic_write(out, as_text(exported), mode=0o600)
