"""The little of HTTP the service needs, on bare ASGI: reading bodies with limits, writing answers."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec

from recsys.serving.keys import COLLECT
from recsys.serving.problems import Problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
T = TypeVar("T")

JSON = b"application/json"
PROBLEM = b"application/problem+json"
PLAIN = b"text/plain"
"""What `navigator.sendBeacon` sends; taken from a key that does nothing but collect, so that no page
elsewhere makes a browser call this service unseen."""
_PAGES = frozenset({COLLECT})
_encode = msgspec.json.Encoder().encode


class ClientGone(Exception):
    """The caller closed the connection before the request was whole."""


class Response:
    """A whole answer."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self, status: int, body: bytes, content_type: bytes = JSON, headers: Headers | None = None
    ) -> None:
        self.status, self.body, self.content_type = status, body, content_type
        self.headers = headers or []

    @classmethod
    def of(cls, value: Any, status: int = 200) -> "Response":
        """A struct as JSON."""
        return cls(status, _encode(value))

    @classmethod
    def problem(cls, problem: Problem, instance: str | None = None) -> "Response":
        """A problem document."""
        document = problem.document()
        document.instance = instance
        return cls(problem.status, _encode(document), PROBLEM, list(problem.headers))

    async def send(self, send: Send, *, with_body: bool = True) -> None:
        """Send it; without its body it tells how long that would be."""
        headers = [
            (b"content-type", self.content_type),
            (b"content-length", str(len(self.body)).encode()),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body if with_body else b""})


class Arriving(Protocol):
    """Who keeps count of bodies that are not whole."""

    def begin(self, body: object, deadline: asyncio.Timeout) -> None:
        """A body begins to arrive."""
        ...

    def grew(self, body: object, size: int) -> None:
        """More of it came."""
        ...

    def end(self, body: object) -> None:
        """It is whole, or was given up."""
        ...


class Request:
    """What a handler sees of a request."""

    __slots__ = ("_body", "_receive", "_scope", "arrived", "parameters", "scopes")

    def __init__(self, scope: Scope, receive: Receive, arrived: float) -> None:
        self._scope, self._receive = scope, receive
        self._body: bytes | None = None
        self.arrived = arrived
        """`time.monotonic()` at arrival."""
        self.parameters: Mapping[str, str] = {}
        """Parts of the path."""
        self.scopes: frozenset[str] = frozenset()
        """What the caller's key allows."""

    def header(self, name: bytes) -> bytes | None:
        """The first header of a (lower case) name."""
        for key, value in self._scope["headers"]:
            if key == name:
                return bytes(value)
        return None

    def query(self, known: frozenset[str]) -> dict[str, str]:
        """Query parameters, each at most once.

        Raises:
            Problem: a parameter is not known, is repeated, or is not UTF-8 (422).
        """
        raw = self._scope.get("query_string", b"")
        if not raw:
            return {}
        try:
            pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict")
        except (UnicodeDecodeError, ValueError):
            raise Problem(422, "The query string is not valid UTF-8.") from None
        values: dict[str, str] = {}
        for name, value in pairs:
            if name not in known:
                expected = ", ".join(sorted(known)) or "none"
                detail = f"Unknown query parameter {name[:100]!r}; expected: {expected}."
                raise Problem(422, detail, [(f"query.{name[:100]}", "unknown")])
            if name in values:
                raise Problem(422, f"Query parameter {name!r} is given twice.")
            values[name] = value
        return values

    async def take_body(self, limit: int, seconds: float, arriving: Arriving) -> None:
        """Wait for the whole body.

        Args:
            limit: bytes of it at most.
            seconds: for it to arrive.
            arriving: told of what arrives, and may give it up.

        Raises:
            Problem: it is longer than `limit` bytes (413) or does not arrive in time (408).
        """
        declared = self.header(b"content-length")
        if declared is not None and (not declared.isdigit() or int(declared) > limit):
            raise _too_large(limit)
        try:
            async with asyncio.timeout(seconds) as deadline:
                arriving.begin(self, deadline)
                self._body = await self._read(limit, arriving)
        except TimeoutError:
            detail = f"The body did not arrive within {seconds:g} s, or others needed its place."
            raise Problem(408, detail, headers=[(b"connection", b"close")]) from None
        finally:
            arriving.end(self)

    async def _read(self, limit: int, arriving: Arriving) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body = message.get("body", b"")
        if not message.get("more_body", False):
            if len(body) > limit:
                raise _too_large(limit)
            return bytes(body)
        chunks, size = [body], len(body)
        arriving.grew(self, size)
        while message.get("more_body", False):
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            arriving.grew(self, len(chunks[-1]))
            if size > limit:
                raise _too_large(limit)
        return b"".join(chunks)

    def json(self, decoder: "msgspec.json.Decoder[T]") -> T:
        """The body, which was taken, as a struct.

        Raises:
            Problem: not JSON by its content type (415), unreadable (400), or not valid (422).
        """
        content_type = (self.header(b"content-type") or b"").split(b";")[0].strip().lower()
        if content_type != JSON and not (content_type == PLAIN and self.scopes == _PAGES):
            raise Problem(415, "The body must be application/json.", headers=_ACCEPT)
        assert self._body is not None, "the body is taken before the handler is called"
        try:
            return decoder.decode(self._body)
        except msgspec.ValidationError as error:
            raise invalid(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Problem(400, f"The body is not valid JSON: {error}.") from None
        except RecursionError:
            raise Problem(400, "The body is nested too deeply.") from None


_ACCEPT: Headers = [(b"accept-post", JSON)]


def invalid(message: str) -> Problem:
    """422 from a validation message of msgspec, which ends in the place of the field."""
    text, _, place = message.partition(" - at ")
    pointer = place.strip("`") or "$"
    return Problem(422, message + ".", [(pointer, text)])


def split_path(scope: Scope) -> list[str] | None:
    """Parts of the path as sent, each decoded; None when one is not UTF-8 or holds controls."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    parts = []
    for part in raw.split(b"?")[0].split(b"/")[1:]:
        try:
            text = unquote_to_bytes(part).decode("utf-8")
        except UnicodeDecodeError:
            return None
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
            return None
        parts.append(text)
    return parts


def _too_large(limit: int) -> Problem:
    detail = f"The body is longer than {limit} bytes."
    return Problem(413, detail, headers=[(b"connection", b"close")])
