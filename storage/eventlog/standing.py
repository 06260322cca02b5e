"""Whether a log is still the one that was read before: its identity, its end, and what lies there.

A log carries an identity of its own, a random one. Who reads it keeps a `LogMark`: the identity, a
position, and a digest of the record there. A log that was deleted and made anew has another
identity, one that was restored from a copy or taken over from a lagging replica ends before the
mark, or holds another record at its position. Records that are no longer kept prove nothing.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from recsys.data_schemas.errors import RecsysError
from recsys.data_schemas.log_record import CLOCK_SPAN, LogMark

IDENTITY: Final = "identity"
SALT: Final = "salt"
LAST_POSITION: Final = "last_position"
REVISION: Final = "revision"
LAST_STAMP: Final = "last_stamp"
CONTINUES: Final = "continues"
DROPPED: Final = "dropped"
"""Names in the log's table about itself."""
ERASED_KEY: Final = "erased:"
"""Begins the key of a record whose person was forgotten: only a digest of the former key is left."""


class LogUnavailable(RecsysError):
    """The store behind the log does not answer; nothing of the call was accepted."""


class LogReplaced(LogUnavailable):
    """The log is not the one that was read before, or lacks what was read from it."""


class LogDamaged(LogUnavailable):
    """The store behind the log is damaged; nothing is accepted until it is restored."""


class Standing(NamedTuple):
    """What a log says of itself at one moment."""

    about: Mapping[str, str]
    """Its table about itself."""
    end: int
    """The greatest position among the records that are kept; 0 for none, or where it was not asked for."""
    key: str | None
    """Key of the record at the position that was asked for; None where there is none."""
    clock: int | None = None
    """The store's own clock, µs; None where it has none."""

    @property
    def identity(self) -> str:
        return self.about[IDENTITY]

    @property
    def last_position(self) -> int:
        """The greatest position given so far, also where the records are no longer kept."""
        return max(self.end, int(self.about.get(LAST_POSITION, 0)))

    @property
    def dropped(self) -> int:
        """Records up to it were drained and dropped; 0 for none."""
        return int(self.about.get(DROPPED, 0))

    @property
    def last_stamp(self) -> int:
        """The latest time of receipt given so far, µs; 0 for none."""
        return int(self.about.get(LAST_STAMP, 0))

    @property
    def continues(self) -> dict[str, int]:
        """Logs that this one takes the place of on purpose: identity → last position there."""
        return {str(name): int(until) for name, until in json.loads(self.about[CONTINUES])}

    def digest(self, key: str | None) -> str | None:
        """What a mark keeps of a record's key."""
        return None if key is None else digest(key, self.about[SALT])


def require_possible(standing: Standing, latest: int) -> None:
    """Nothing, where the store's clock is not far behind a stamp that is to be written.

    Raises:
        LogUnavailable: it is; one of the two clocks is wrong.
    """
    if standing.clock is not None and latest > standing.clock + CLOCK_SPAN:
        raise LogUnavailable(
            "this machine's clock is ahead of the log's store",
            where="serving.log",
            found=f"{(latest - standing.clock) // 1_000_000} s",
            expected=f"at most {CLOCK_SPAN // 1_000_000} s",
            fix="set the clocks right; nothing of this call was accepted",
        )


def digest(key: str, salt: str) -> str:
    """Digest of a record's key, the same before and after its person was forgotten."""
    if key.startswith(ERASED_KEY):
        return key.removeprefix(ERASED_KEY)
    return hashlib.blake2b(key.encode(), digest_size=16, key=salt.encode()).hexdigest()


def require_continued(standing: Standing, mark: LogMark) -> None:
    """Nothing, where a log continues what was read up to a mark.

    Raises:
        LogReplaced: it is another log, ends before the mark, or holds another record there.
    """
    if mark.position <= 0:
        return
    if mark.identity not in ("", standing.identity):
        if standing.continues.get(mark.identity, -1) >= mark.position:
            return
        raise _replaced("is another one", f"log {standing.identity}", f"log {mark.identity}")
    if standing.last_position < mark.position:
        raise _replaced(
            "ends before what was read from it",
            f"last position {standing.last_position}",
            f"{mark.position} or later",
        )
    held = standing.digest(standing.key)
    if None not in (held, mark.witness) and held != mark.witness:
        raise _replaced(
            "holds another record than was read from it",
            f"another record at position {mark.position}",
            "the record that was there",
        )


def _replaced(what: str, found: str, expected: str) -> LogReplaced:
    return LogReplaced(
        f"the log was replaced: it {what}",
        where="serving.log",
        found=found,
        expected=expected,
        fix="bring the former log back; if it was replaced on purpose, stop the service, run "
        "`recsys log adopt -c …` and start it again",
    )
