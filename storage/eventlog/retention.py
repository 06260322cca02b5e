"""How long rows about persons are kept (`privacy:`), in the log and in what was drained of it.

A day's limit is counted from the start of today (UTC), so that nights of one day agree.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import PrivacyConfig
from recsys.data_schemas.log_record import EVENT, IMPRESSION
from recsys.storage.files import atomic_file

DAY: Final = 86_400 * 1_000_000
FEATURES: Final = "features"
"""Feature rows of a served list, as the log keeps them on a sample."""
OF_SESSION: Final = (c.CONTEXT, c.SURFACE, FEATURES)
"""What an impression tells of the session in which it was asked for."""


class Retention(NamedTuple):
    """Times (µs UTC) before which nothing is kept; None keeps everything."""

    events: int | None
    impressions: int | None
    sessions: int | None
    """For the context, surface and logged feature rows of an impression."""

    @classmethod
    def of(cls, privacy: PrivacyConfig, now: int) -> "Retention":
        """As a config says, at a moment (µs UTC)."""
        today = now // DAY * DAY
        days = (privacy.events_days, privacy.impressions_days, privacy.sessions_days)
        return cls(*(None if kept is None else today - kept * DAY for kept in days))

    def __bool__(self) -> bool:
        return any(limit is not None for limit in self)

    def covers(self, kind: str, payload: Any, received_at: int) -> bool:
        """Whether a record is too old to be kept."""
        limit = {EVENT: self.events, IMPRESSION: self.impressions}.get(kind)
        return limit is not None and _time(payload, received_at) < limit

    def thinned(self, kind: str, payload: Any, received_at: int) -> dict[str, Any] | None:
        """A list's payload without what it tells of its session; None where nothing is to go."""
        told = [name for name in OF_SESSION if payload.get(name) is not None]
        if kind != IMPRESSION or self.sessions is None or not told:
            return None
        if _time(payload, received_at) >= self.sessions:
            return None
        return {name: value for name, value in payload.items() if name not in OF_SESSION}

    def purge(self, files: Sequence[Path]) -> int:
        """Rewrite drained tables, told apart by name, without what is too old; how many rows."""
        rows = 0
        for file in files:
            limit = {"events": self.events, "impressions": self.impressions}.get(file.stem)
            with contextlib.suppress(FileNotFoundError):
                rows += without_older(file, limit, self.sessions)
        return rows


NO_LIMITS: Final = Retention(None, None, None)


def _time(payload: Any, received_at: int) -> int:
    return int(payload.get(c.TIMESTAMP, received_at))


def without_older(file: Path, limit: int | None, sessions: int | None) -> int:
    """Rewrite a Parquet file without rows before `limit`, and without the session's columns of rows
    before `sessions` (µs UTC); how many rows went or changed."""
    schema = pq.read_schema(file)
    if c.TIMESTAMP not in schema.names or (limit is None and sessions is None):
        return 0
    table = pq.read_table(file)
    time = pc.cast(table[c.TIMESTAMP], pa.int64())
    changed = 0
    if sessions is not None:
        old = pc.less(time, sessions)
        for name in set(OF_SESSION) & set(schema.names):
            told = pc.and_(old, pc.is_valid(table[name]))
            if count := int(pc.sum(told).as_py() or 0):
                changed = max(changed, count)
                place = schema.get_field_index(name)
                bare = pc.if_else(old, pa.scalar(None, schema.field(name).type), table[name])
                table = table.set_column(place, schema.field(name), bare)
    if limit is not None:
        kept = pc.greater_equal(time, limit)
        gone = len(table) - int(pc.sum(kept).as_py() or 0)
        changed += gone
        table = table.filter(kept) if gone else table
    if changed:
        with atomic_file(file) as aside:
            pq.write_table(table, aside)
    return changed
