"""The log's interface, and the group commit both implementations share.

Callers on any thread submit writes; one writer thread takes everything that waits, writes it in
one transaction and commits once, so concurrent requests share one fsync. A caller's future
completes only after the commit: what was answered is durable.
"""

import hashlib
import json
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, NamedTuple, Self, TypeVar, cast
from uuid import uuid4

import msgspec
import numpy as np
import numpy.typing as npt

from recsys.data_schemas import columns as c
from recsys.data_schemas.log_record import (
    EVENT,
    FORGET,
    IMPRESSION,
    ITEM,
    OPT_OUT,
    USER,
    Entry,
    LogMark,
    LogRecord,
    Tombstone,
    Write,
)
from recsys.storage.eventlog.retention import FEATURES, Retention
from recsys.storage.eventlog.standing import (
    CONTINUES,
    DROPPED,
    ERASED_KEY,
    IDENTITY,
    LAST_POSITION,
    LAST_STAMP,
    REVISION,
    SALT,
    LogDamaged,
    LogReplaced,
    LogUnavailable,
    Standing,
    digest,
    require_continued,
    require_possible,
)

MAX_GROUP = 4096
"""Records of one transaction at most (assumed; bounds the time a commit takes)."""
EXPIRE_CHUNK = 20_000
"""Records looked at a time for what is too old."""
ATTEMPT_SECONDS = 2.0
"""How long a write is retried against an unreachable store before its caller is told."""
LEFT_BEHIND: Final = frozenset({FEATURES, c.EXPERIMENT, c.ARM, c.UNIT})
"""What a shown list loses that becomes another user's."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict).decode
_NOTHING_READ: Final = LogMark("", 0)
T = TypeVar("T")
Longs = npt.NDArray[np.int64]
Moved = Callable[[int, dict[str, Any]], tuple[int, dict[str, Any]]]


class _WriteJob(NamedTuple):
    """One caller's writes, or one user's erasure, with the future that waits for the commit."""

    writes: Sequence[Write]
    forget: tuple[str, int] | None
    future: "Future[list[Entry]]"
    move: tuple[str, str, int] | None = None

    @property
    def alone(self) -> bool:
        """Whether it has a transaction of its own."""
        return self.forget is not None or self.move is not None


def now_us() -> int:
    """Wall clock, µs UTC."""
    return time.time_ns() // 1000


def encode(payload: Mapping[str, Any]) -> str:
    """A payload as the log stores it (JSON text)."""
    return _encode(payload).decode()


def decode(text: str) -> dict[str, Any]:
    """A stored payload."""
    return cast(dict[str, Any], _decode(text))


class EventLog(ABC):
    """Append-only, durable, shared by processes; positions strictly increase.

    Thread-safe. A write is answered after it is on disk. `close` waits for pending writes.
    """

    def __init__(self) -> None:
        self._jobs: deque[_WriteJob] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._seen = _NOTHING_READ
        self._unmet: LogMark | None = None
        self._seeing = threading.Lock()
        self._identity = self._salt = ""
        self._dropped = 0
        self.trouble: LogUnavailable | None = None
        """Why nothing is accepted now: the log was replaced, or is damaged."""
        self._writer = threading.Thread(target=self._write_loop, name="log-writer", daemon=True)

    # writing

    def submit(self, writes: Sequence[Write]) -> "Future[list[Entry]]":
        """Queue writes; the future gives their entries once they are durable."""
        return self._submit(_WriteJob(writes, None, Future()))

    def append_events(self, events: Sequence[Mapping[str, Any]]) -> list[int]:
        """Write events, idempotent by event_id; give their positions (the first one's if repeated).

        An event's `received_at` is kept where given, otherwise it is stamped here.
        """
        return [entry.position for entry in self.submit([event_write(e) for e in events]).result()]

    def put_item(self, item: Mapping[str, Any]) -> int:
        """Write a new or changed item, whole; give its position."""
        return self.submit([item_write(item)]).result()[0].position

    def append_impressions(self, impressions: Sequence[Mapping[str, Any]]) -> list[int]:
        """Write what was shown; give the positions.

        A list made before its person was forgotten, in another process's buffer say, is left out.
        """
        writes = [impression_write(shown) for shown in impressions]
        return [entry.position for entry in self.submit(writes).result()]

    def submit_forget(self, user_id: str, received_at: int | None = None) -> "Future[list[Entry]]":
        """Queue the erasure of a user; see `forget_user`."""
        at = now_us() if received_at is None else received_at
        return self._submit(_WriteJob((), (user_id, at), Future()))

    def forget_user(self, user_id: str, received_at: int | None = None) -> int:
        """Delete the payloads of all a user's records and leave a tombstone; give its position.

        Positions and event_ids stay, so that a repeated event is still recognised.
        """
        return self.submit_forget(user_id, received_at).result()[0].position

    def submit_move(self, source: str, target: str, received_at: int) -> "Future[list[Entry]]":
        """Queue that the events and shown lists of one user become another's, and the first is
        forgotten.

        One transaction does all, so a crash leaves the whole of before or the whole of after. Event
        ids of the copies are made of the first ones, so it may be repeated; lists stay in their
        places, with their ids, which events name. The future gives the entries of the copies and of
        the tombstone; none where there was nothing to move.
        """
        return self._submit(_WriteJob((), None, Future(), (source, target, received_at)))

    # reading

    def read(self, after: int, limit: int = 1000) -> list[LogRecord]:
        """At most `limit` records with position > `after`, in order.

        A record once read never gets a predecessor: what is visible is complete up to its end.

        Raises:
            LogUnavailable: the store does not answer, or is damaged.
        """
        rows = self._rows(after, limit)
        if rows:
            position, _, _, _, key = rows[-1]
            self._saw(position, key)
        return [LogRecord(p, kind, decode(payload), at) for p, kind, payload, at, _ in rows]

    def tombstones(self) -> list[LogRecord]:
        """The records of all persons who asked to be forgotten, in order."""
        return self._all_of(FORGET)

    def opt_outs(self) -> list[LogRecord]:
        """The records of all wishes not to be learned from, and of those taken back, in order."""
        return self._all_of(OPT_OUT)

    def _all_of(self, kind: str) -> list[LogRecord]:
        rows = self._rows(0, 1 << 62, kind)
        return [LogRecord(p, kind, decode(payload), at) for p, kind, payload, at, _ in rows]

    def last_position(self) -> int:
        """The greatest position given so far; 0 for an empty log."""
        return self._standing(0).last_position

    def clocks(self) -> tuple[int, int | None]:
        """(latest stamp given so far, the store's own clock or None where it has none), µs."""
        standing = self._standing(0)
        return standing.last_stamp, standing.clock

    @abstractmethod
    def stamps(self) -> tuple[Longs, Longs]:
        """(positions, times of receipt) of all records, erased ones too: int64[n] each."""

    def restamp(self, positions: Sequence[int], moved: Moved, latest: int) -> None:
        """Change times of receipt, and times in payloads.

        Args:
            positions: the records to change.
            moved: gives (time of receipt, payload) of a record from its position and payload.
            latest: the latest stamp of the whole log afterwards, µs.
        """

        def run() -> None:
            standing = self._standing(0, writing=True)
            for position in positions:
                received_at, payload = moved(position, decode(self._payload(position)))
                self._rewrite(position, received_at, encode(payload))
            self._set_about(LAST_STAMP, str(latest))
            self._set_about(REVISION, str(int(standing.about.get(REVISION, 0)) + 1))

        self._transaction(run)

    def expire(self, retention: Retention) -> int:
        """Empty records that are too old to be kept, and what too old lists tell of their session;
        gives how many. Positions and digests of event_ids stay, as when a person is forgotten."""
        emptied: list[int] = []
        thinned: list[tuple[int, int, dict[str, Any]]] = []
        after = 0
        while rows := self._rows(after, EXPIRE_CHUNK):
            after = rows[-1][0]
            for position, kind, text, received_at, _ in rows:
                payload = decode(text)
                if retention.covers(kind, payload, received_at):
                    emptied.append(position)
                elif (left := retention.thinned(kind, payload, received_at)) is not None:
                    thinned.append((position, received_at, left))

        def run() -> None:
            standing = self._require_continued(writing=True)
            for position, received_at, payload in thinned:
                self._rewrite(position, received_at, encode(payload))
            self._blank(emptied)
            for position, key in self._empty(None):
                if key is not None:
                    self._set_key(position, ERASED_KEY + digest(key, self._salt))
            self._set_about(REVISION, str(int(standing.about.get(REVISION, 0)) + 1))

        if emptied or thinned:
            self._transaction(run)
        return len(emptied) + len(thinned)

    # days that were drained

    @abstractmethod
    def droppable(self, before: int, until: int) -> int:
        """Up to which position records can go: those of whole days (UTC) that ended before a moment
        (µs), none behind a position; 0 for none."""

    def drop(self, until: int) -> None:
        """Let the records up to a position (`droppable`) go; what they held lies elsewhere.

        Wishes to be forgotten and not to be learned from stay, as does the count of positions, so that
        the log is still known as the one that was read.
        """

        def run() -> None:
            self._require_continued(writing=True)
            self._drop(until)
            self._set_about(DROPPED, str(until))

        self._transaction(run)

    @property
    def dropped(self) -> int:
        """The last position that was dropped, as it was when the log was looked at last; 0 for none."""
        return self._dropped

    def require_kept(self, position: int) -> None:
        """Nothing, where all records behind a position are still there.

        Raises:
            LogReplaced: some were dropped since; a newer snapshot holds them.
        """
        if max(position, 0) < self._dropped:
            self.trouble = LogReplaced(
                "records that were not read yet were dropped from the log",
                where="serving.log",
                found=f"records up to position {self._dropped} are gone",
                expected=f"all behind position {position}",
                fix="use the newest state snapshot; it holds them",
            )
            raise self.trouble

    @abstractmethod
    def _drop(self, until: int) -> None:
        """Remove records up to a position but tombstones and wishes, within a transaction."""

    # the same log as before

    @property
    def identity(self) -> str:
        """The log's own, as it was when it was opened."""
        return self._identity

    def revision(self) -> int:
        """How often records that were written have been changed since (erased, restamped)."""
        return int(self._standing(0).about.get(REVISION, 0))

    def mark(self, position: int | None = None) -> LogMark:
        """By what a position (the last one when absent) is known again."""
        at = self.last_position() if position is None else position
        standing = self._standing(at)
        return LogMark(standing.identity, at, standing.digest(standing.key))

    def expect(self, mark: LogMark) -> None:
        """From now on nothing is accepted unless the log continues what was read up to a mark.

        Raises:
            LogReplaced: it does not now.
        """
        with self._seeing:
            self._unmet = mark
        self.check()

    def check(self) -> None:
        """See that the log is whole as far as is known, and continues what was read from it.

        Raises:
            LogUnavailable: it does not, or the store does not answer. `trouble` tells of what
                does not pass by itself.
        """
        self._require_continued(writing=False)
        self.trouble = None

    def _require_continued(self, *, writing: bool) -> Standing:
        """What the log says of itself, where it continues what was read; `writing` within a
        transaction.

        Raises:
            LogReplaced: it does not.
        """
        with self._seeing:
            unmet, seen = self._unmet, self._seen
        try:
            if unmet is not None:
                self._follow(self._standing(unmet.position, writing=writing), unmet)
            standing = self._standing(seen.position, writing=writing)
            self._follow(standing, seen)
        except (LogReplaced, LogDamaged) as error:
            self.trouble = error
            raise
        self._dropped = standing.dropped
        with self._seeing:
            self._unmet = None if self._unmet == unmet else self._unmet
            if unmet is not None and unmet.position > self._seen.position:
                self._seen = unmet
        return standing

    def _follow(self, standing: Standing, read: LogMark) -> None:
        """Go on with a log that continues what was read; refuse any other."""
        if standing.identity != self._identity and not read.identity:
            read = read._replace(identity=self._identity)
        require_continued(standing, read)
        self._identity, self._salt = standing.identity, standing.about[SALT]

    def _saw(self, position: int, key: str | None) -> None:
        with self._seeing:
            if position > self._seen.position:
                witness = None if key is None else digest(key, self._salt)
                self._seen = LogMark(self._identity, position, witness)

    def take_over(self, shared: int, until: int, former: Mapping[str, int]) -> int:
        """Become the continuation of another log that ended at `until`.

        Args:
            shared: records up to it are those of the other log; all others are numbered anew,
                behind `until`.
            former: identities of the log that was read so far, with the last position there.

        Returns:
            How many records were numbered anew.
        """

        def run() -> int:
            standing = self._standing(0, writing=True)
            moved = self._renumber(shared, until - shared) if until > shared else 0
            last = max(until, standing.last_position + (until - shared if moved else 0))
            self._count_from(last)
            continued = {**standing.continues, **former}
            self._set_about(CONTINUES, json.dumps(sorted(continued.items())))
            self._set_about(LAST_POSITION, str(last))
            self._set_about(REVISION, str(int(standing.about.get(REVISION, 0)) + 1))
            self._identity = uuid4().hex
            self._set_about(IDENTITY, self._identity)
            return moved

        with self._seeing:
            self._seen, self._unmet = _NOTHING_READ, None
        moved = self._transaction(run)
        self.trouble = None
        return moved

    @abstractmethod
    def verify(self) -> None:
        """See that the store is not damaged; may read it whole, which takes seconds.

        Raises:
            LogDamaged: it is.
        """

    def close(self) -> None:
        """Commit what waits, then release the store."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._writer.is_alive():
            self._writer.join()
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # what an implementation gives

    @abstractmethod
    def _rows(
        self, after: int, limit: int, kind: str | None = None
    ) -> list[tuple[int, str, str, int, str | None]]:
        """(position, kind, payload, received_at, key) of records that are not erased."""

    @abstractmethod
    def _standing(self, position: int, *, writing: bool = False) -> Standing:
        """What the log says of itself; `writing` within a transaction."""

    @abstractmethod
    def _set_about(self, name: str, value: str) -> None:
        """Change an entry of the log's table about itself, within a transaction."""

    def _tell(self, said: Mapping[str, str]) -> None:
        """Change some entries of it."""
        for name, value in said.items():
            self._set_about(name, value)

    @abstractmethod
    def _transaction(self, run: Callable[[], T]) -> T:
        """Run in one durable transaction, or raise and write nothing.

        Raises:
            LogUnavailable: the store was taken away or is damaged; nothing was accepted.
        """

    @abstractmethod
    def _empty(self, user_id: str | None) -> list[tuple[int, str | None]]:
        """Take payload and person from all records of a user but tombstones, within a transaction;
        (position, key) of erased records whose key is still the former one."""

    @abstractmethod
    def _records_of(self, user_id: str, kind: str) -> list[tuple[int, int, str]]:
        """(position, time of receipt, payload as it is stored) of a user's records of a kind, in order,
        within a transaction."""

    @abstractmethod
    def _blank(self, positions: Sequence[int]) -> None:
        """Take payload and person from records, within a transaction."""

    @abstractmethod
    def _payload(self, position: int) -> str:
        """A record's payload as it is stored, within a transaction."""

    @abstractmethod
    def _rewrite(
        self, position: int, received_at: int, payload: str, user_id: str | None = None
    ) -> None:
        """Change a record, and whose it is where a user is given, within a transaction."""

    @abstractmethod
    def _latest_stamp(self) -> int:
        """The latest time of receipt of all records, within a transaction; reads them all."""

    @abstractmethod
    def _latest_position(self) -> int:
        """The greatest position of all records, within a transaction; 0 for none."""

    @abstractmethod
    def _renumber(self, after: int, by: int) -> int:
        """Add to the positions of all records behind one, within a transaction; how many there were.
        The next record comes behind them all."""

    @abstractmethod
    def _count_from(self, position: int) -> None:
        """Give the next record a later position than this, within a transaction."""

    @abstractmethod
    def _set_key(self, position: int, key: str) -> None:
        """Give a record another key, within a transaction."""

    @abstractmethod
    def _is_transient(self, error: Exception) -> bool:
        """Whether the store may answer again soon, so that the write is worth repeating."""

    @abstractmethod
    def _release(self) -> None:
        """Close connections."""

    def _ahead(self, writes: Sequence[Write]) -> None:  # noqa: B027
        """Prepare what can be prepared before the transaction that writes records."""

    @abstractmethod
    def _insert(self, write: Write) -> Entry:
        """Write one record within a transaction, or find the one of its key."""

    @abstractmethod
    def _tombstones(self, user_ids: Collection[str]) -> dict[str, Tombstone]:
        """When those of some persons who were forgotten were so last; read within a transaction, so
        none is missed."""

    # transactions

    def _commit(self, writes: Sequence[Write]) -> list[Entry]:
        """Write in one durable transaction, or raise and write nothing."""

        self._ahead(writes)

        def run() -> list[Entry]:
            standing = self._require_continued(writing=True)
            require_possible(standing, max((w.received_at for w in writes), default=0))
            entries = self._written(writes)
            self._advance(standing, entries, writes)
            return entries

        entries = self._transaction(run)
        fresh = [(e.position, w.key) for e, w in zip(entries, writes, strict=True) if e.fresh]
        if fresh:
            self._saw(*fresh[-1])
        self.trouble = None
        return entries

    def _erase(self, user_id: str, received_at: int) -> Entry:
        """Empty a user's records and append the tombstone in one durable transaction."""

        def run() -> Entry:
            standing = self._require_continued(writing=True)
            stone = forget_write(user_id, received_at)
            entry = self._buried(stone, standing)
            self._advance(standing, [entry], [stone])
            return entry

        return self._transaction(run)

    def _buried(self, stone: Write, standing: Standing) -> Entry:
        """Empty the records of a tombstone's user and append it, within a transaction."""
        for position, key in self._empty(stone.user_id):
            if key is not None:
                self._set_key(position, ERASED_KEY + digest(key, self._salt))
        self._set_about(REVISION, str(int(standing.about.get(REVISION, 0)) + 1))
        return self._insert(stone)

    def _move(self, source: str, target: str, received_at: int) -> list[Entry]:
        """Copy a user's events to another, hand over the lists and erase the first, in one durable
        transaction."""

        def run() -> list[Entry]:
            standing = self._require_continued(writing=True)
            require_possible(standing, received_at)
            events = self._records_of(source, EVENT)
            shown = self._records_of(source, IMPRESSION)
            if not events and not shown:
                return []
            writes = [event_write(moved(decode(e), target, received_at)) for _, _, e in events]
            entries = self._insert_all(writes)
            for position, at, payload in shown:
                handed = encode(moved_list(decode(payload), target))
                self._rewrite(position, at, handed, target)
            stone = forget_write(source, received_at)
            entries.append(self._buried(stone, standing))
            self._advance(standing, entries, [*writes, stone])
            return entries

        return self._transaction(run)

    def _advance(
        self, standing: Standing, entries: Sequence[Entry], writes: Sequence[Write]
    ) -> None:
        """Remember the last position given, for the time when its record is no longer kept, and the
        latest stamp."""
        given = [entry.position for entry in entries if entry.fresh]
        if not given:
            return
        if min(given) <= standing.last_position:
            raise LogReplaced(
                "the log was replaced: it counts positions anew",
                where="serving.log",
                found=f"position {min(given)} given to a new record",
                expected=f"a position after {standing.last_position}",
                fix="run `recsys log adopt -c …`",
            )
        said = {LAST_POSITION: str(max(given))}
        latest = max(w.received_at for w, e in zip(writes, entries, strict=True) if e.fresh)
        if latest > standing.last_stamp:
            said[LAST_STAMP] = str(latest)
        self._tell(said)

    def _introduce(self, about: Mapping[str, str]) -> None:
        """Within the transaction that opens the log: give it an identity where it has none."""
        made = {IDENTITY: uuid4().hex, SALT: uuid4().hex, REVISION: "0", CONTINUES: json.dumps([])}
        if LAST_STAMP not in about:
            latest = self._latest_stamp()
            # Of a log from before this was counted nobody knows whether records were changed.
            made |= {LAST_STAMP: str(latest), REVISION: "1" if latest else "0"}
        if LAST_POSITION not in about:
            made[LAST_POSITION] = str(self._latest_position())
        for name, value in made.items():
            if name not in about:
                self._set_about(name, value)
        whole = {**made, **about}
        self._identity, self._salt = whole[IDENTITY], whole[SALT]

    def _written(self, writes: Sequence[Write]) -> list[Entry]:
        """Write records within a transaction; a list whose person was forgotten since is left out, and
        its entry is the tombstone's."""
        shown_to = {w.user_id for w in writes if w.kind == IMPRESSION and w.user_id is not None}
        stones = self._tombstones(shown_to) if shown_to else {}
        covering = [_covering(write, stones) for write in writes]
        kept = [w for w, stone in zip(writes, covering, strict=True) if stone is None]
        entries = iter(self._insert_all(kept))
        return [
            next(entries) if stone is None else Entry(stone.position, False) for stone in covering
        ]

    def _insert_all(self, writes: Sequence[Write]) -> list[Entry]:
        """Write records in order within a transaction; of one whose key is there, that one's entry."""
        return [self._insert(write) for write in writes]

    # group commit

    def _submit(self, job: _WriteJob) -> "Future[list[Entry]]":
        with self._wake:
            if self._closed:
                raise LogUnavailable("the log is closed", fix="this process is shutting down")
            self._jobs.append(job)
            self._wake.notify()
        return job.future

    def _write_loop(self) -> None:
        while True:
            with self._wake:
                while not self._jobs and not self._closed:
                    self._wake.wait()
                if not self._jobs:
                    return
                group = self._take_group()
            # A caller who gave up before the write began is not written; afterwards it is.
            self._run_group([job for job in group if job.future.set_running_or_notify_cancel()])

    def _take_group(self) -> list[_WriteJob]:
        """The next jobs of one transaction, in order; an erasure goes alone."""
        group, size = [self._jobs.popleft()], 0
        if group[0].alone:
            return group
        size = len(group[0].writes)
        while self._jobs and not self._jobs[0].alone:
            size += len(self._jobs[0].writes)
            if size > MAX_GROUP:
                break
            group.append(self._jobs.popleft())
        return group

    def _run_group(self, group: list[_WriteJob]) -> None:
        if not group:
            return
        try:
            entries = self._with_retry(group)
        except Exception as error:
            for job in group:
                job.future.set_exception(error)
            return
        start = 0
        for job in group:
            size = len(entries) if job.alone else len(job.writes)
            job.future.set_result(entries[start : start + size])
            start += size

    def _with_retry(self, group: list[_WriteJob]) -> list[Entry]:
        """Commit a group; repeat it for a short while if the store went away.

        A repeated commit cannot write an event twice: events carry an event_id.
        """
        deadline, pause = time.monotonic() + ATTEMPT_SECONDS, 0.05
        while True:
            try:
                forget, move = group[0].forget, group[0].move
                if forget is not None:
                    return [self._erase(*forget)]
                if move is not None:
                    return self._move(*move)
                return self._commit([write for job in group for write in job.writes])
            except Exception as error:
                if isinstance(error, LogUnavailable) or not self._is_transient(error):
                    raise
                if time.monotonic() + pause > deadline or self._closed:
                    raise LogUnavailable(
                        "the log's store does not answer",
                        where="serving.log",
                        found=type(error).__name__,
                        fix="try again; nothing of this call was accepted",
                    ) from error
            time.sleep(pause)
            pause = min(pause * 2, 0.5)


def _covering(write: Write, stones: Mapping[str, Tombstone]) -> Tombstone | None:
    """The tombstone because of which a list is not written."""
    if write.kind != IMPRESSION or write.user_id is None:
        return None
    stone = stones.get(write.user_id)
    return stone if stone is not None and stone.covers(write.payload) else None


def event_write(event: Mapping[str, Any]) -> Write:
    """An event as a log write; it gets an event_id and a time of receipt where it has none."""
    payload = dict(event)
    payload.setdefault(c.EVENT_ID, None)
    if payload[c.EVENT_ID] is None:
        payload[c.EVENT_ID] = uuid4().hex
    received_at = int(payload.pop(c.RECEIVED_AT, None) or now_us())
    key = f"{EVENT}:{payload[c.EVENT_ID]}"
    return Write(EVENT, payload, received_at, key, payload[c.USER_ID])


def moved(event: Mapping[str, Any], user_id: str, received_at: int) -> dict[str, Any]:
    """An event as another user's, known from now on; its event_id follows from the first one."""
    name = f"{event[c.USER_ID]}\x1f{user_id}\x1f{event[c.EVENT_ID]}"
    event_id = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
    return {**event, c.USER_ID: user_id, c.EVENT_ID: event_id, c.RECEIVED_AT: received_at}


def moved_list(shown: Mapping[str, Any], user_id: str) -> dict[str, Any]:
    """A list as another user's: without the feature rows, which were the first one's, and in no arm of
    an experiment, to which the first one was assigned."""
    kept = {name: value for name, value in shown.items() if name not in LEFT_BEHIND}
    return {**kept, c.USER_ID: user_id}


def item_write(item: Mapping[str, Any]) -> Write:
    """An item as a log write."""
    payload = dict(item)
    received_at = int(payload.pop(c.RECEIVED_AT, None) or now_us())
    return Write(ITEM, payload, received_at, f"{ITEM}:{uuid4().hex}")


def user_write(user_id: str, attributes: Mapping[str, Any], received_at: int) -> Write:
    """What is new of a person as a log write."""
    payload = {c.USER_ID: user_id, c.ATTRIBUTES: dict(attributes)}
    return Write(USER, payload, received_at, f"{USER}:{uuid4().hex}", user_id)


def impression_write(shown: Mapping[str, Any]) -> Write:
    """An impression as a log write; repeated under the same impression_id it counts once."""
    payload = dict(shown)
    received_at = int(payload.pop(c.RECEIVED_AT, None) or now_us())
    key = f"{IMPRESSION}:{payload[c.IMPRESSION_ID]}"
    return Write(IMPRESSION, payload, received_at, key, payload[c.USER_ID])


def forget_write(user_id: str, received_at: int) -> Write:
    """The tombstone of a forgotten user."""
    key = f"{FORGET}:{uuid4().hex}"
    return Write(FORGET, {c.USER_ID: user_id}, received_at, key, user_id)


def opt_out_write(user_id: str, opted_out: bool, received_at: int) -> Write:
    """A wish not to be learned from, or that it is taken back."""
    payload = {c.USER_ID: user_id, c.OPTED_OUT: opted_out, c.TIMESTAMP: now_us()}
    return Write(OPT_OUT, payload, received_at, f"{OPT_OUT}:{uuid4().hex}", user_id)
