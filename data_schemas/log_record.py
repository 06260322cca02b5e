"""What the log holds: one append-only sequence of records of six kinds."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from recsys.data_schemas.columns import TIMESTAMP

EVENT: Final = "event"
ITEM: Final = "item"
IMPRESSION: Final = "impression"
USER: Final = "user"
"""What a person is: the attributes that changed, `{user_id, attributes}`; others keep their values."""
FORGET: Final = "forget"
"""A user asked to be forgotten; the payload holds the user_id and nothing else."""
OPT_OUT: Final = "opt_out"
"""A user wants nothing to be learned from them, or takes that back; the payload says who, which and
when by the wall clock."""
ERASED: Final = "erased"
"""What is left of a forgotten user's record: its position and event_id, no payload. Never read."""

CLOCK_SPAN: Final = 300 * 1_000_000
"""µs by which clocks may disagree (assumed: clocks kept by NTP are within seconds); beyond, one of
them is wrong, and nothing is stamped."""

KNOWN_POSITION: Final = "known_position"
"""Log position up to which the state had been folded when a list was ranked."""


class LogRecord(NamedTuple):
    """One record as a reader sees it."""

    position: int
    """Place in the log, from 1, strictly increasing in the order of becoming visible; gaps occur."""
    kind: str
    payload: Mapping[str, Any]
    """Columns of the row; times are int µs UTC."""
    received_at: int
    """The service's clock when the record came in, µs UTC."""


class Tombstone(NamedTuple):
    """When a person was last forgotten."""

    position: int
    received_at: int

    def covers(self, impression: Mapping[str, Any]) -> bool:
        """Whether a list was made before: of a state that did not know of the wish yet, or, where
        the list does not say what it knew, at a time before it."""
        known = impression.get(KNOWN_POSITION)
        if known is not None:
            return int(known) < self.position
        return int(impression[TIMESTAMP]) <= self.received_at


class Write(NamedTuple):
    """One record on its way into the log."""

    kind: str
    payload: Mapping[str, Any]
    received_at: int
    key: str | None = None
    """Idempotency key: a second record with the same key is not written."""
    user_id: str | None = None


class LogMark(NamedTuple):
    """A place in a log by which it is known again: kept in snapshots and drained exports."""

    identity: str
    """Of the log; empty where it was not kept, and any log will do."""
    position: int
    """Records up to it were read; at or below 0 none was."""
    witness: str | None = None
    """Digest of the key of the record at the position; None where it has none."""


class Entry(NamedTuple):
    """Where a written record lies."""

    position: int
    fresh: bool
    """False when the event_id was there already; the position is then the first record's. Also of a
    list made before its person was forgotten, which is not written: the tombstone's position."""
