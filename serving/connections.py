"""What a connection may cost: bounds on heads, bodies, answers that nobody takes, and their number.

| what | bound | beyond |
|---|---|---|
| connections | `max_connections` | the one that has waited longest is closed; 503 where all are at work |
| a head: bytes, seconds | `max_head_bytes`, `head_timeout` | 431, 408 |
| one body: bytes, seconds | `max_body_bytes`, `body_timeout` | 413, 408 |
| bodies that are not whole, together | `max_partial_bytes` | 408 for the one that has taken longest |
| a message as it is sent, with its chunks | SENT × the largest body | the connection is closed |
| an answer: seconds until its caller has taken it | `answer_timeout` | the connection is closed |

A request is counted against `max_queue` once its body is whole, so what trickles in takes nobody's
place. Each refusal is counted by its reason.
"""

import asyncio
import resource
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from recsys.serving import telemetry as metrics
from recsys.serving.asgi import problem_response
from recsys.serving.problems import Problem, unavailable
from recsys.serving.settings import ServiceSettings
from recsys.serving.turns import LOOKS

SENT = 8
"""Bytes on the wire for a byte of body, at most: chunks of one byte take six."""
LINGER_SECONDS = 1.0
"""For which an open connection may still bring the request that is under way when the service stops."""
OTHER_FILES = 256
"""Files and sockets besides connections (assumed)."""
_PHRASES = {408: "Request Timeout", 431: "Request Header Fields Too Large", 503: "Unavailable"}


class Bodies:
    """The bodies that are arriving, oldest first, and how much of them is held."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._arriving: dict[object, tuple[asyncio.Timeout, int]] = {}
        self.held = 0
        """Bytes of all bodies that are not whole."""

    def begin(self, body: object, deadline: asyncio.Timeout) -> None:
        """A body begins to arrive; it is given up by bringing its deadline forward."""
        self._arriving[body] = (deadline, 0)

    def grew(self, body: object, size: int) -> None:
        """More of a body came; where all together are too much, the oldest are given up."""
        deadline, before = self._arriving[body]
        self._arriving[body] = (deadline, before + size)
        self.held += size
        while self.held > self._most and self.give_up_oldest():
            continue

    def end(self, body: object) -> None:
        """A body is whole, or was given up."""
        _, size = self._arriving.pop(body, (None, 0))
        self.held -= size

    def give_up_oldest(self) -> bool:
        """Answer 408 to the body that has taken longest; False where none is arriving."""
        for body, (deadline, _) in list(self._arriving.items()):
            self.end(body)
            with suppress(RuntimeError):
                # One whose time is just over is given up anyway.
                deadline.reschedule(asyncio.get_running_loop().time())
            metrics.ARRIVALS_REFUSED.labels(reason="body_evicted").inc()
            return True
        return False


class Connections:
    """The connections of one worker that wait for a head, the longest waiting first."""

    def __init__(self, settings: ServiceSettings, bodies: Bodies) -> None:
        self.settings, self.bodies = settings, bodies
        self.most = settings.max_connections
        self.waiting: dict[Guarded, None] = {}

    def make_room(self) -> bool:
        """Close the connection that has waited longest for its caller."""
        for connection in self.waiting:
            metrics.ARRIVALS_REFUSED.labels(reason="connection_evicted").inc()
            connection.give_up()
            return True
        return self.bodies.give_up_oldest()

    def protocol(self) -> type[HttpToolsProtocol]:
        """The protocol of each connection, for uvicorn."""
        return type("GuardedHere", (Guarded,), {"guard": self})

    def allow_files(self) -> None:
        """Raise the limit of open files as far as allowed, and stay below it."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.most + OTHER_FILES
        if soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.most = max(1, min(self.most, soft - OTHER_FILES))


class Guarded(HttpToolsProtocol):  # type: ignore[misc]
    """One connection, whose head has to come in time and in measure."""

    guard: Connections
    _head_timer: asyncio.TimerHandle | None = None
    _in_head = True
    _whole = True
    """Whether the last message has arrived to its end; it may be answered before."""
    _sent = 0
    """Bytes of the message that is arriving, without those that came together with its first ones."""
    _last = False
    """Whether the service stops, so that no further request is taken after this one."""
    _answering: Any = None
    """The request at work; `cycle` is the latest that came, which may wait behind it."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.guard.most and not self.guard.make_room():
            metrics.OVERLOAD.inc()
            self._refuse(unavailable("Too many connections; try again shortly."), "connections")
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        # All requests of the connection learn of it, not the latest alone: nothing is written to it.
        for cycle in (self._answering, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
        self.pipeline.clear()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        self._sent += len(data)
        settings = self.guard.settings
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and self._sent > settings.max_head_bytes:
            self._refuse_head()
        elif self._sent > settings.max_head_bytes + SENT * settings.max_body_bytes:
            metrics.ARRIVALS_REFUSED.labels(reason="message").inc()
            self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._sent, self._in_head, self._whole = 0, True, False
        self._await_head()

    def on_headers_complete(self) -> None:
        self._head_is_here()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.guard.settings.max_head_bytes:
            self._refuse_head()
            return
        super().on_headers_complete()
        if self._last:
            self.cycle.keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        # What comes behind a chunked body is nobody's business.
        if self._in_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.cycle is not None:
            super().on_message_complete()
        self._whole = True
        if self._is_idle and not self.transport.is_closing():
            # The rest of a body whose answer was known before.
            self._head_is_here()
            self._await_next()

    def on_response_complete(self) -> None:
        more = bool(self.pipeline)
        if self.transport.get_write_buffer_size():
            self.loop.call_later(self.guard.settings.answer_timeout, self._abandon_unread)
        super().on_response_complete()
        if more or self.transport.is_closing():
            return
        if self._whole:
            self._await_next()
        else:
            self._await_head()

    def _await_next(self) -> None:
        """The next message may take its time to begin."""
        self._in_head, self._sent = True, 0
        self.guard.waiting[self] = None

    def _abandon_unread(self) -> None:
        """Let an answer go that its caller does not take: it would be held for ever."""
        if self in self.connections and self.transport.get_write_buffer_size():
            metrics.ARRIVALS_REFUSED.labels(reason="unread").inc()
            self.transport.abort()

    def shutdown(self) -> None:
        """The service stops: what is under way is answered, also where its first bytes are still on
        their way to us."""
        self._last = True
        if self._is_idle:
            self.loop.call_later(LINGER_SECONDS, self._close_idle)
        else:
            self.cycle.keep_alive = False

    def give_up(self) -> None:
        """Close a connection that waits for its caller, or whose caller does not read."""
        self._head_is_here()
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        elif not self.transport.is_closing():
            self.transport.close()

    def _close_idle(self) -> None:
        """Once more after a look: what has come may not have been read yet."""

        def close() -> None:
            if self._is_idle:
                self.give_up()

        self._after_a_look(close)

    def _after_a_look(self, then: Callable[[], None], rounds: int = LOOKS) -> None:
        """Let the loop read what is there before a time that has passed is held against a caller."""
        if rounds:
            self.loop.call_soon(self._after_a_look, then, rounds - 1)
        else:
            then()

    @property
    def _is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def _await_head(self) -> None:
        """A head, or the rest of a message that was answered, has so long to arrive."""
        if self._is_idle:
            self.guard.waiting.setdefault(self)
        if self._head_timer is None:
            seconds = self.guard.settings.head_timeout
            self._head_timer = self.loop.call_later(seconds, self._head_late)

    def _head_is_here(self) -> None:
        self._in_head = False
        self.guard.waiting.pop(self, None)
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        timer = self._head_timer

        def refuse() -> None:
            if self._head_timer is timer:
                self._refuse_late()

        self._after_a_look(refuse)

    def _refuse_late(self) -> None:
        if self._in_head and not self._whole:
            self._refuse(
                Problem(408, "The head of the request did not arrive in time."), "head_late"
            )
        else:
            # Nothing came at all, or not the rest of a body that was answered already.
            metrics.ARRIVALS_REFUSED.labels(reason="silent").inc()
            self.give_up()

    def _refuse_head(self) -> None:
        most = self.guard.settings.max_head_bytes
        self._refuse(Problem(431, f"The head of the request is longer than {most} bytes."), "head")

    def _refuse(self, problem: Problem, reason: str) -> None:
        """Answer without a request, and close."""
        metrics.ARRIVALS_REFUSED.labels(reason=reason).inc()
        self._head_is_here()
        if self.transport.is_closing():
            return
        answer = problem_response(problem)
        headers = [*answer.raw_headers, (b"connection", b"close")]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        status = f"HTTP/1.1 {problem.status} {_PHRASES[problem.status]}\r\n".encode()
        self.transport.write(b"".join([status, *lines, b"\r\n", answer.body]))
        self.transport.close()
