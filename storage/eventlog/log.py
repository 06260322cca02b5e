"""The log's interface, and the group commit both implementations share.

Callers on any thread submit writes; one writer thread takes everything that waits, writes it in
one transaction and commits once, so concurrent requests share one fsync. A caller's future
completes only after the commit: what was answered is durable.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Self, cast

import msgspec

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import RecsysError
from recsys.data_schemas.log_record import (
    EVENT,
    FORGET,
    IMPRESSION,
    ITEM,
    Entry,
    LogRecord,
    Tombstone,
    Write,
)

MAX_GROUP = 4096
"""Records of one transaction at most (assumed; bounds the time a commit takes)."""
ATTEMPT_SECONDS = 2.0
"""How long a write is retried against an unreachable store before its caller is told."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict).decode


class LogUnavailable(RecsysError):
    """The store behind the log does not answer; nothing of the call was accepted."""


class _WriteJob(NamedTuple):
    """One caller's writes, or one user's erasure, with the future that waits for the commit."""

    writes: Sequence[Write]
    forget: tuple[str, int] | None
    future: "Future[list[Entry]]"


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

    # reading

    @abstractmethod
    def read(self, after: int, limit: int = 1000) -> list[LogRecord]:
        """At most `limit` records with position > `after`, in order.

        A record once read never gets a predecessor: what is visible is complete up to its end.
        """

    @abstractmethod
    def last_position(self) -> int:
        """The greatest position given so far; 0 for an empty log."""

    @abstractmethod
    def last_received_at(self) -> int:
        """`received_at` of the last record, µs; 0 for an empty log."""

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
    def _commit(self, writes: Sequence[Write]) -> list[Entry]:
        """Write in one durable transaction, or raise and write nothing."""

    @abstractmethod
    def _erase(self, user_id: str, received_at: int) -> Entry:
        """Empty a user's records and append the tombstone in one durable transaction."""

    @abstractmethod
    def _is_transient(self, error: Exception) -> bool:
        """Whether the store may answer again soon, so that the write is worth repeating."""

    @abstractmethod
    def _release(self) -> None:
        """Close connections."""

    @abstractmethod
    def _insert(self, write: Write) -> Entry:
        """Write one record within a transaction, or find the one of its key."""

    @abstractmethod
    def _tombstone(self, user_id: str) -> Tombstone | None:
        """When a person was last forgotten; read within a transaction, so none is missed."""

    def _insert_all(self, writes: Sequence[Write]) -> list[Entry]:
        """Write records within a transaction, but lists of persons forgotten since."""
        return [self._refused(write) or self._insert(write) for write in writes]

    def _refused(self, write: Write) -> Entry | None:
        """The entry of a list that is not written, because its person was forgotten since."""
        if write.kind != IMPRESSION or write.user_id is None:
            return None
        stone = self._tombstone(write.user_id)
        if stone is None or not stone.covers(write.payload):
            return None
        return Entry(stone.position, False)

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
        if group[0].forget is not None:
            return group
        size = len(group[0].writes)
        while self._jobs and self._jobs[0].forget is None:
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
            size = 1 if job.forget is not None else len(job.writes)
            job.future.set_result(entries[start : start + size])
            start += size

    def _with_retry(self, group: list[_WriteJob]) -> list[Entry]:
        """Commit a group; repeat it for a short while if the store went away.

        A repeated commit cannot write an event twice: events carry an event_id.
        """
        deadline, pause = time.monotonic() + ATTEMPT_SECONDS, 0.05
        while True:
            try:
                forget = group[0].forget
                if forget is not None:
                    return [self._erase(*forget)]
                return self._commit([write for job in group for write in job.writes])
            except Exception as error:
                if not self._is_transient(error):
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


def event_write(event: Mapping[str, Any]) -> Write:
    """An event as a log write; it gets an event_id and a time of receipt where it has none."""
    from uuid import uuid4

    payload = dict(event)
    payload.setdefault(c.EVENT_ID, None)
    if payload[c.EVENT_ID] is None:
        payload[c.EVENT_ID] = uuid4().hex
    received_at = int(payload.pop(c.RECEIVED_AT, None) or now_us())
    key = f"{EVENT}:{payload[c.EVENT_ID]}"
    return Write(EVENT, payload, received_at, key, payload[c.USER_ID])


def item_write(item: Mapping[str, Any]) -> Write:
    """An item as a log write."""
    payload = dict(item)
    return Write(ITEM, payload, int(payload.pop(c.RECEIVED_AT, None) or now_us()))


def impression_write(shown: Mapping[str, Any]) -> Write:
    """An impression as a log write; repeated under the same impression_id it counts once."""
    payload = dict(shown)
    received_at = int(payload.pop(c.RECEIVED_AT, None) or now_us())
    key = f"{IMPRESSION}:{payload[c.IMPRESSION_ID]}"
    return Write(IMPRESSION, payload, received_at, key, payload[c.USER_ID])


def forget_write(user_id: str, received_at: int) -> Write:
    """The tombstone of a forgotten user."""
    return Write(FORGET, {c.USER_ID: user_id}, received_at, user_id=user_id)
