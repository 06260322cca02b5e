"""What the service adds to starlette's requests and answers: bodies within limits, queries of known
parameters only, ids that may hold slashes, JSON by msgspec, errors as problem documents."""

import asyncio
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec
from starlette import requests
from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from recsys.serving.keys import COLLECT
from recsys.serving.named_keys import named
from recsys.serving.problems import Problem

T = TypeVar("T")

JSON = "application/json"
PROBLEM = "application/problem+json"
PLAIN = "text/plain"
"""What `navigator.sendBeacon` sends; taken from a key that does nothing but collect, so that no page
elsewhere makes a browser call this service unseen."""
_PAGES = frozenset({COLLECT})
_encode = msgspec.json.Encoder().encode


class MsgspecResponse(Response):
    """A struct, or anything that msgspec writes, as JSON."""

    media_type = JSON

    def render(self, content: Any) -> bytes:
        return _encode(content)


def problem_response(problem: Problem) -> Response:
    """A problem as its document."""
    return MsgspecResponse(problem.document(), problem.status, problem.headers, PROBLEM)


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


class Request(requests.Request):
    """What a handler sees of a request."""

    def __init__(self, scope: Scope, receive: Receive, arrived: float) -> None:
        super().__init__(scope, receive)
        self.arrived = arrived
        """`time.monotonic()` at arrival."""
        self.scopes: frozenset[str] = frozenset()
        """What the caller's key allows."""

    def query(self, known: frozenset[str]) -> dict[str, str]:
        """Query parameters, each at most once.

        Raises:
            Problem: a parameter is not known, is repeated, or is not UTF-8 (422).
        """
        raw = self.scope.get("query_string", b"")
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
        declared = self.headers.get("content-length", "0")
        if not (declared.isascii() and declared.isdigit()) or int(declared) > limit:
            raise _too_large(limit)
        try:
            async with asyncio.timeout(seconds) as deadline:
                arriving.begin(self, deadline)
                self._body = await self._read(limit, arriving)
        except TimeoutError:
            detail = f"The body did not arrive within {seconds:g} s, or others needed its place."
            raise Problem(408, detail, headers={"connection": "close"}) from None
        finally:
            arriving.end(self)

    async def _read(self, limit: int, arriving: Arriving) -> bytes:
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise requests.ClientDisconnect
            chunk, more = message.get("body", b""), message.get("more_body", False)
            if more or chunks:
                arriving.grew(self, len(chunk))
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
        return b"".join(chunks)

    def decoded(self, decoder: "msgspec.json.Decoder[T]") -> T:
        """The body, which was taken, as a struct.

        Raises:
            Problem: not JSON by its content type (415), unreadable (400), or not valid (422).
        """
        content_type = self.headers.get("content-type", "").split(";")[0].strip().lower()
        if content_type != JSON and not (content_type == PLAIN and self.scopes == _PAGES):
            raise Problem(415, "The body must be application/json.", headers={"accept-post": JSON})
        try:
            return decoder.decode(self._body)
        except msgspec.ValidationError as error:
            place = named(str(error), self._body, decoder.type)
            raise invalid(str(error), place) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Problem(400, f"The body is not valid JSON: {error}.") from None
        except RecursionError:
            raise Problem(400, "The body is nested too deeply.") from None


def invalid(message: str, known: str | None = None) -> Problem:
    """422 from a validation message of msgspec, which ends in the place of the field; `known` where that
    is known better."""
    text, _, place = message.partition(" - at ")
    pointer = known or place.strip("`") or "$"
    detail = message if known is None else f"{text} - at `{known}`"
    return Problem(422, detail + ".", [(pointer, text)])


class PathPart(Convertor[str]):
    """A part of a path, as `PartedPaths` leaves it; `""` too, so that it is refused by name."""

    regex = "[^/]*"

    def convert(self, value: str) -> str:
        return value.replace("%2F", "/").replace("%25", "%")

    def to_string(self, value: str) -> str:
        return value.replace("%", "%25").replace("/", "%2F")


_part = PathPart()
register_url_convertor("part", _part)


class PartedPaths:
    """Lets the parts of a path be told apart after it was decoded: starlette matches decoded paths, in
    which a slash of an id is one between parts.

    A path that is not UTF-8, or holds control characters, is answered 422.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw: bytes = scope.get("raw_path") or b""
        app = self._app
        if b"%" in raw:
            try:
                parts = [unquote_to_bytes(part).decode() for part in raw.split(b"?")[0].split(b"/")]
            except UnicodeDecodeError:
                parts = ["\0"]
            if any(ord(letter) < 32 or ord(letter) == 127 for part in parts for letter in part):
                detail = "The path is not valid UTF-8, or holds control characters."
                app = problem_response(Problem(422, detail))
            scope["path"] = "/".join(map(_part.to_string, parts))
        await app(scope, receive, send)


def _too_large(limit: int) -> Problem:
    detail = f"The body is longer than {limit} bytes."
    return Problem(413, detail, headers={"connection": "close"})
