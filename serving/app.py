"""The ASGI application: starlette's routes, hosts and CORS; keys, limits, overload, errors.

One worker is one event loop, and engines run on it: ranking and folding never overlap, so an
answer sees whole records and one version. A request is counted when its body is whole; between two
rankings all that arrived is read and counted (see `turns`), and what exceeds `max_queue` is refused
at once instead of waiting, on new connections too. Calls that wait for the log are counted apart, so
that a log that hangs fills no place of a ranking call.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib import resources
from threading import Event
from typing import Any, NamedTuple

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Host, Router
from starlette.routing import Route as PathRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.serving import telemetry as metrics
from recsys.serving import tracing
from recsys.serving.asgi import PartedPaths, Request, problem_response
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
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_PAGE_SENDS = ("authorization", "content-type", "x-api-key")
"""Methods and headers of calls from pages of other origins."""
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_WITH_PICTURES = {
    name: value.replace("img-src 'self' data:", "img-src 'self' data: https:")
    for name, value in _PAGE_HEADERS.items()
}
"""Of the demonstration: the pictures of items (`image_url`) lie where the shop keeps them."""
_PAGES = {
    "/": ("index.html", "text/html"),
    "/docs": ("docs.html", "text/html"),
    "/ops": ("ops.html", "text/html"),
    "/assets/app.js": ("app.js", "text/javascript"),
    "/assets/docs.js": ("docs.js", "text/javascript"),
    "/assets/ops.js": ("ops.js", "text/javascript"),
    "/assets/style.css": ("style.css", "text/css"),
}


class BoundCall(NamedTuple):
    """An operation bound to its handler, with its counters ready; or a page."""

    handler: Handler
    path: str = "other"
    """As counters name it."""
    scope: str | None = None
    is_api: bool = False
    pool: str = "reads"
    has_body: bool = False
    latency: Any = None
    from_pages: bool = False


class Resource:
    """What one path answers to each method, as the router calls it."""

    def __init__(
        self,
        calls: Mapping[str, BoundCall],
        answer: Callable[[BoundCall, Request], Awaitable[Response]],
    ) -> None:
        self._calls, self._answer = calls, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call: BoundCall | None = None
        try:
            call = scope["recsys.call"] = self._called(scope["method"])
            response = await self._answer(call, Request(scope, receive, scope["recsys.arrived"]))
        except Problem as problem:
            response = problem_response(problem)
        except ClientDisconnect:
            return
        except Exception as error:
            log("error", "failed", route=call.path if call else "-", error=repr(error)[:300])
            response = problem_response(Problem(500, "The service failed; it has been logged."))
        await response(scope, receive, send)

    def _called(self, method: str) -> BoundCall:
        """The call of a method.

        Raises:
            Problem: not this method here (405).
        """
        # HEAD is GET whose body the server does not send (RFC 9110, 9.3.2).
        call = self._calls.get("GET" if method == "HEAD" else method)
        if call is None:
            allowed = ", ".join([*self._calls, *(["HEAD"] if "GET" in self._calls else [])])
            raise Problem(405, f"Allowed here: {allowed}.", headers={"allow": allowed})
        return call


class PageOrigins(CORSMiddleware):
    """CORS, whose refusals are problems."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        return problem_response(Problem(403, f"{bytes(response.body).decode()}."))


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
        self._app = self._bound()
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

    def _bound(self) -> ASGIApp:
        """The paths, behind the hosts and origins that are allowed."""
        settings, paths = self.settings, dict[str, dict[str, BoundCall]]()
        for operation in OPERATIONS:
            paths.setdefault(operation.path, {})[operation.method] = BoundCall(
                getattr(self._handlers, operation.name),
                operation.path,
                operation.scope,
                operation.is_api,
                "writes" if operation.writes else "reads",
                operation.body is not None,
                metrics.LATENCY.labels(route=operation.path),
                operation.from_pages,
            )
        folder = resources.files("recsys.serving") / "pages"
        for path, (name, media_type) in _PAGES.items():
            headers = _WITH_PICTURES if path == "/" else _PAGE_HEADERS
            page = Response((folder / name).read_bytes(), 200, headers, media_type)
            paths[path] = {"GET": BoundCall(partial(_always, page))}
        routes = [
            PathRoute(path.replace("_id}", "_id:part}"), Resource(calls, self._answer))
            for path, calls in paths.items()
        ]
        nowhere = problem_response(Problem(404, "There is no such path; see /docs."))
        app: ASGIApp = PartedPaths(Router(routes, redirect_slashes=False, default=nowhere))
        if settings.cors_origins:
            app = PageOrigins(app, settings.cors_origins, _METHODS, _PAGE_SENDS)
        if settings.allowed_hosts:
            detail = "Without API keys only requests to a loopback host name are answered."
            refusal = problem_response(Problem(421, detail))
            app = Router([Host(host, app) for host in settings.allowed_hosts], default=refusal)
        return app

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
        arrived = scope["recsys.arrived"] = time.monotonic()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(scope.get("recsys.call"), message["status"], arrived)
            await send(message)

        await self._app(scope, receive, counted)

    async def _answer(self, call: BoundCall, request: Request) -> Response:
        self._authorise(call, request)
        if not call.is_api:
            return await call.handler(request)
        if call.has_body:
            settings = self.settings
            await request.take_body(settings.max_body_bytes, settings.body_timeout, self._bodies)
        if self._in_flight[call.pool] >= self.settings.max_queue:
            metrics.OVERLOAD.inc()
            raise unavailable("Too many requests are being answered; try again shortly.")
        self._in_flight[call.pool] += 1
        try:
            async with asyncio.timeout(
                self.settings.body_timeout + self.settings.timeout_ms / 1000
            ):
                return await tracing.traced(call.path, call.handler, request)
        except TimeoutError:
            detail = "Not done within the time budget. Events may be repeated with their event_id."
            raise unavailable(detail) from None
        finally:
            self._in_flight[call.pool] -= 1

    # who asks

    def _authorise(self, call: BoundCall, request: Request) -> None:
        """Set what the caller may do.

        Raises:
            Problem: no valid key (401), not this scope (403), or no key can be checked (503).
        """
        if self._keys is None:
            request.scopes = _ALL_SCOPES
            return
        if call.scope is None:
            return
        key, in_address = _presented(request, call.from_pages)
        try:
            scopes = self._keys.scopes(key)
        except KeysUnreadable as error:
            raise unavailable(f"Nobody can be let in: {error}.", 5) from None
        if scopes is None:
            challenge = {"www-authenticate": 'Bearer realm="recsys"'}
            raise Problem(401, "Send a key as `Authorization: Bearer …`.", headers=challenge)
        if in_address and scopes != {COLLECT}:
            raise Problem(403, f"Only a key of the scope `{COLLECT}` alone goes into an address.")
        if not {call.scope, *([COLLECT] if call.from_pages else [])} & scopes:
            raise Problem(403, f"This needs a key with the scope `{call.scope}`.")
        request.scopes = scopes

    def _count(self, call: BoundCall | None, status: int, arrived: float) -> None:
        seconds = time.monotonic() - arrived
        path = call.path if call else "other"
        metrics.REQUESTS.labels(route=path, status=status).inc()
        if call is not None and call.latency is not None:
            call.latency.observe(seconds)
        failed = status >= 500 and path != "/readyz"
        if self.settings.access_log or failed or seconds > SLOW_SECONDS:
            log("info", "request", route=path, status=status, ms=round(seconds * 1e3, 2))


def _presented(request: Request, from_page: bool) -> tuple[str, bool]:
    """The key of a request, and whether it stood in the address, where a page may put it.

    Raises:
        Problem: the query cannot be read (422).
    """
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return bearer.strip(), False
    named = request.headers.get("x-api-key")
    if named is None and from_page:
        named = request.query(frozenset({"key"})).get("key")
        return named or "", named is not None
    return named or "", False


async def _always(page: Response, _: Request) -> Response:
    return page


def _impressions_kept(error: Exception) -> None:
    metrics.LOG_ERRORS.inc()
    log("error", "impressions_not_written", error=type(error).__name__)
