"""The ASGI application: routes, keys, limits, overload, errors. No framework on the ranking path.

One worker is one event loop, and engines run on it: ranking and folding never overlap, so an
answer sees whole records and one version. A request is counted when its body is whole; between two
rankings all that arrived is read and counted (see `turns`), and what exceeds `max_queue` is refused
at once instead of waiting, on new connections too. Calls that wait for the log are counted apart, so
that a log that hangs fills no place of a ranking call.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib import resources
from threading import Event
from typing import Any, NamedTuple

from recsys.serving import telemetry as metrics
from recsys.serving import tracing
from recsys.serving.asgi import (
    ClientGone,
    Headers,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    split_path,
)
from recsys.serving.clock import Clock
from recsys.serving.connections import Bodies, Connections
from recsys.serving.keys import COLLECT, SCOPES, KeyRing, KeysUnreadable
from recsys.serving.loaded_versions import Versions
from recsys.serving.logs import log
from recsys.serving.problems import Problem, unavailable
from recsys.serving.ranking import Ranking
from recsys.serving.released_model import ModelProvider
from recsys.serving.routes import OPERATIONS
from recsys.serving.served_opt_outs import OptOuts
from recsys.serving.session_calls import SessionCalls
from recsys.serving.settings import ServiceSettings
from recsys.storage.eventlog import EventLog, ImpressionBuffer, LogUnavailable

Handler = Callable[[Request], Awaitable[Response]]
SLOW_SECONDS = 1.0
JOIN_SECONDS = 60.0
"""How long a worker that joins others waits for its model: without it, it can at least say so."""
LIVE_SECONDS = 60
"""Between two looks at what the last night found of live lists."""
_ALL_SCOPES = frozenset(SCOPES)
_PAGE_HEADERS: Headers = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        b"img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
]
_WITH_PICTURES: Headers = [
    (name, value.replace(b"img-src 'self' data:", b"img-src 'self' data: https:"))
    for name, value in _PAGE_HEADERS
]
"""Of the demonstration: the pictures of items (`image_url`) lie where the shop keeps them."""
_PAGES = {
    "/": ("index.html", b"text/html; charset=utf-8"),
    "/docs": ("docs.html", b"text/html; charset=utf-8"),
    "/ops": ("ops.html", b"text/html; charset=utf-8"),
    "/assets/app.js": ("app.js", b"text/javascript; charset=utf-8"),
    "/assets/docs.js": ("docs.js", b"text/javascript; charset=utf-8"),
    "/assets/ops.js": ("ops.js", b"text/javascript; charset=utf-8"),
    "/assets/style.css": ("style.css", b"text/css; charset=utf-8"),
}


class Route(NamedTuple):
    """An operation bound to its handler, with its counters ready."""

    path: str
    scope: str | None
    is_api: bool
    pool: str
    has_body: bool
    handler: Handler
    latency: Any
    from_pages: bool


class App:
    """The service of one worker.

    Args:
        provider: where engines come from.
        event_log: opens the durable log; called when the worker starts, closed when it stops.
        settings: limits, experiments, clock.
    """

    def __init__(
        self,
        provider: ModelProvider,
        event_log: Callable[[], EventLog],
        settings: ServiceSettings | None = None,
    ) -> None:
        self._opt_outs = OptOuts((settings or ServiceSettings()).opted_out)
        self.settings = replace(settings or ServiceSettings(), opted_out=self._opt_outs)
        self._provider, self._open_log = provider, event_log
        keys = self.settings.keys_file
        self._keys = KeyRing(keys) if keys is not None else None
        self._draining = Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._bodies = Bodies(self.settings.max_partial_bytes)
        self.connections = Connections(self.settings, self._bodies)
        """Bounds on what comes before a request; the server's protocol."""
        self._in_flight = {"reads": 0, "writes": 0}
        self._routes: dict[str, dict[str, Route]] = {}
        self._patterns: list[tuple[list[str], dict[str, Route]]] = []
        self._pages: dict[str, Response] = {}
        self.joins = False
        """Whether other workers answer on the same port already: then this one takes no request
        before its model is loaded, or JOIN_SECONDS have passed."""

    # life

    async def start(self) -> None:
        """Open the log, begin to load the champion and to follow the log."""
        settings = self.settings
        tracing.configure()
        if self._keys is not None:
            self._keys.start()
        self._log = await asyncio.to_thread(self._open_log)
        await asyncio.to_thread(self._verify_log)
        self._clock = Clock(frozen=settings.clock == "end_of_data")
        self._clock.observe_log(*await asyncio.to_thread(self._log_clocks))
        self._impressions = ImpressionBuffer(self._log, on_error=_impressions_kept)
        self.versions = Versions(self._provider, self._log, self._clock, settings, self._opt_outs)
        ranking = Ranking(self.versions, self._impressions, settings)
        self._handlers = SessionCalls(
            self.versions,
            ranking,
            self._log,
            self._impressions,
            self._clock,
            self._provider,
            settings,
            self._keys,
            self._draining,
        )
        self._bind()
        self._tasks = [
            asyncio.create_task(self.versions.watch()),
            asyncio.create_task(self.versions.follower.follow(settings.log_poll)),
            asyncio.create_task(self.versions.follower.keep_encoding(settings.log_poll)),
            asyncio.create_task(self._keep_gauges()),
        ]
        if self.joins:
            await self._until_ready(JOIN_SECONDS)

    def _log_clocks(self) -> tuple[int, int | None]:
        return (0, None) if self._log.trouble is not None else self._log.clocks()

    def _verify_log(self) -> None:
        """A damaged log is found now, not by the call whose page it is; the service answers on."""
        try:
            self._log.verify()
        except LogUnavailable as error:
            metrics.LOG_ERRORS.inc()
            log("error", "log_refused", reason=error.what, found=error.found)

    async def _until_ready(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.versions.ready and not self._draining.is_set() and time.monotonic() < end:
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Stop following, write the impressions that wait, close the log."""
        self.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._impressions.close)
        await asyncio.to_thread(self._log.close)
        if self._keys is not None:
            await asyncio.to_thread(self._keys.close)
        await asyncio.to_thread(tracing.shutdown)

    async def _keep_gauges(self) -> None:
        """Each worker keeps its own: /metrics is answered by any of them and adds them up."""
        seconds = 0
        while True:
            if seconds % LIVE_SECONDS == 0:
                metrics.keep_live(await asyncio.to_thread(self._provider.live))
            seconds += 1
            metrics.IN_FLIGHT.set(sum(self._in_flight.values()))
            metrics.IMPRESSIONS_WAITING.set(len(self._impressions))
            metrics.IMPRESSIONS_LOST.set(self._impressions.lost)
            await asyncio.sleep(1.0)

    def drain(self) -> None:
        """Answer 503 on /readyz from now on, so that a balancer sends nobody here."""
        self._draining.set()

    def _bind(self) -> None:
        for operation in OPERATIONS:
            route = Route(
                operation.path,
                operation.scope,
                operation.is_api,
                "writes" if operation.writes else "reads",
                operation.body is not None,
                getattr(self._handlers, operation.name),
                metrics.LATENCY.labels(route=operation.path),
                operation.from_pages,
            )
            methods = self._routes.setdefault(operation.path, {})
            if "{" in operation.path and not methods:
                self._patterns.append((operation.path.split("/")[1:], methods))
            methods[operation.method] = route
        folder = resources.files("recsys.serving") / "pages"
        for path, (name, content_type) in _PAGES.items():
            body = (folder / name).read_bytes()
            headers = _WITH_PICTURES if path == "/" else _PAGE_HEADERS
            self._pages[path] = Response(200, body, content_type, headers)

    # requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, time.monotonic())
        route: Route | None = None
        try:
            self._check_host(request)
            page = self._pages.get(scope["path"])
            if page is not None and scope["method"] in ("GET", "HEAD"):
                response = page
            elif scope["method"] == "OPTIONS" and request.header(b"origin") is not None:
                response = self._preflight(request)
            else:
                route = self._route(scope, request)
                response = await self._answer(route, request)
        except Problem as problem:
            response = Response.problem(problem)
        except ClientGone:
            return
        except Exception as error:
            log("error", "failed", route=route.path if route else "-", error=repr(error)[:300])
            response = Response.problem(Problem(500, "The service failed; it has been logged."))
        self._count(route, request, response)
        origin = request.header(b"origin")
        if origin is not None:
            response = self._with_cors(response, origin)
        await response.send(send, with_body=scope["method"] != "HEAD")

    def _route(self, scope: Scope, request: Request) -> Route:
        """The operation of a path and method.

        Raises:
            Problem: no such path (404), or not this method there (405).
        """
        path, method = scope["path"], scope["method"]
        methods = self._routes.get(path) if "{" not in path else None
        if methods is None:
            methods = self._match(scope, request)
        if methods is None and path in self._pages:
            headers = [(b"allow", b"GET, HEAD")]
            raise Problem(405, f"{method} is not allowed here.", headers=headers)
        if methods is None:
            raise Problem(404, "There is no such path; see /docs.")
        # HEAD is GET whose body is not sent (RFC 9110, 9.3.2).
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else [])])
            headers = [(b"allow", allowed.encode())]
            raise Problem(405, f"Allowed here: {allowed}.", headers=headers)
        return route

    def _match(self, scope: Scope, request: Request) -> dict[str, Route] | None:
        parts = split_path(scope)
        if parts is None:
            raise Problem(422, "The path is not valid UTF-8, or holds control characters.")
        for pattern, methods in self._patterns:
            if len(pattern) == len(parts) and all(
                want == got or want[0] == "{" for want, got in zip(pattern, parts, strict=True)
            ):
                request.parameters = {
                    want[1:-1]: got
                    for want, got in zip(pattern, parts, strict=True)
                    if want[0] == "{"
                }
                return methods
        return None

    async def _answer(self, route: Route, request: Request) -> Response:
        self._authorise(route, request)
        if not route.is_api:
            return await route.handler(request)
        if route.has_body:
            settings = self.settings
            await request.take_body(settings.max_body_bytes, settings.body_timeout, self._bodies)
        if self._in_flight[route.pool] >= self.settings.max_queue:
            metrics.OVERLOAD.inc()
            raise unavailable("Too many requests are being answered; try again shortly.")
        self._in_flight[route.pool] += 1
        try:
            async with asyncio.timeout(
                self.settings.body_timeout + self.settings.timeout_ms / 1000
            ):
                return await tracing.traced(route.path, route.handler, request)
        except TimeoutError:
            detail = "Not done within the time budget. Events may be repeated with their event_id."
            raise unavailable(detail) from None
        finally:
            self._in_flight[route.pool] -= 1

    # who asks

    def _check_host(self, request: Request) -> None:
        allowed = self.settings.allowed_hosts
        if not allowed:
            return
        host = (request.header(b"host") or b"").decode("latin-1").lower()
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if name not in allowed:
            detail = "Without API keys only requests to a loopback host name are answered."
            raise Problem(421, detail)

    def _authorise(self, route: Route, request: Request) -> None:
        """Set what the caller may do.

        Raises:
            Problem: no valid key (401), not this scope (403), or no key can be checked (503).
        """
        if self._keys is None:
            request.scopes = _ALL_SCOPES
            return
        if route.scope is None:
            return
        key, in_address = _presented(request, route.from_pages)
        try:
            scopes = self._keys.scopes(key)
        except KeysUnreadable as error:
            raise unavailable(f"Nobody can be let in: {error}.", 5) from None
        if scopes is None:
            challenge = [(b"www-authenticate", b'Bearer realm="recsys"')]
            raise Problem(401, "Send a key as `Authorization: Bearer …`.", headers=challenge)
        if in_address and scopes != {COLLECT}:
            raise Problem(403, f"Only a key of the scope `{COLLECT}` alone goes into an address.")
        if not {route.scope, *([COLLECT] if route.from_pages else [])} & scopes:
            raise Problem(403, f"This needs a key with the scope `{route.scope}`.")
        request.scopes = scopes

    def _preflight(self, request: Request) -> Response:
        origin = (request.header(b"origin") or b"").decode("latin-1")
        if origin not in self.settings.cors_origins:
            raise Problem(403, "This origin is not allowed.")
        headers = [
            (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
            (b"access-control-allow-headers", b"authorization, content-type, x-api-key"),
            (b"access-control-max-age", b"600"),
        ]
        return Response(204, b"", b"text/plain", headers)

    def _with_cors(self, response: Response, origin: bytes) -> Response:
        if origin.decode("latin-1") not in self.settings.cors_origins:
            return response
        headers = [
            *response.headers,
            (b"access-control-allow-origin", origin),
            (b"vary", b"origin"),
        ]
        return Response(response.status, response.body, response.content_type, headers)

    def _count(self, route: Route | None, request: Request, response: Response) -> None:
        seconds = time.monotonic() - request.arrived
        path = route.path if route else "other"
        metrics.REQUESTS.labels(route=path, status=response.status).inc()
        if route is not None:
            route.latency.observe(seconds)
        failed = response.status >= 500 and path != "/readyz"
        if self.settings.access_log or failed or seconds > SLOW_SECONDS:
            log("info", "request", route=path, status=response.status, ms=round(seconds * 1e3, 2))


def _presented(request: Request, from_page: bool) -> tuple[str, bool]:
    """The key of a request, and whether it stood in the address, where a page may put it.

    Raises:
        Problem: the query cannot be read (422).
    """
    bearer = request.header(b"authorization") or b""
    if bearer[:7].lower() == b"bearer ":
        return bearer[7:].strip().decode("latin-1"), False
    named = request.header(b"x-api-key")
    if named is None and from_page:
        key = request.query(frozenset({"key"})).get("key")
        return key or "", key is not None
    return (named or b"").decode("latin-1"), False


def _impressions_kept(error: Exception) -> None:
    metrics.LOG_ERRORS.inc()
    log("error", "impressions_not_written", error=type(error).__name__)
