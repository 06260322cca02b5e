"""Processes and sockets: one worker under uvicorn, or several that share a port under a parent.

The parent binds the port once, starts the workers with that socket, and starts one anew when it
dies. It loads no model, so nothing of it is copied into the workers; they share the item arrays as
memory-mapped files.
"""

import asyncio
import multiprocessing
import os
import select
import shutil
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from recsys.data_schemas.errors import UsageError
from recsys.serving.logs import log
from recsys.storage.loopback import is_loopback

if TYPE_CHECKING:
    import uvicorn

    from recsys.serving.app import App

BACKLOG = 2048
ACCEPT_SECONDS = 0.5
"""For which a worker that was asked to stop still takes up connections, and longer while there are any."""
ACCEPT_MOST = 5.0
"""Seconds for those, at most."""
SWITCH_SECONDS = 0.0005
"""After which a thread that computes lets another one on (Python's own: 0.005)."""
JOINS = "RECSYS_WORKER_JOINS"
"""Set in the environment of a worker that takes the place of one that died."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Endpoint:
    """Where the service listens."""

    host: str = "127.0.0.1"
    port: int = 8080
    """0 for any free one."""
    certificate: Path | None = None
    """PEM file; with `private_key` the service speaks TLS."""
    private_key: Path | None = None


def bind(endpoint: Endpoint, has_keys: bool) -> socket.socket:
    """A bound and listening socket.

    Raises:
        UsageError: the host is not loopback and there are no keys, half of a TLS pair is missing or
            cannot be read, or the port is taken.
    """
    if not has_keys and not is_loopback(endpoint.host):
        raise UsageError(
            "without API keys the service answers on loopback only",
            where="--host",
            found=endpoint.host,
            expected="127.0.0.1, ::1 or localhost",
            fix="set serving.keys_file; `recsys keys add NAME --scopes rank,events --file FILE` "
            "makes a key",
        )
    if (endpoint.certificate is None) != (endpoint.private_key is None):
        raise UsageError(
            "TLS needs a certificate and its private key", where="--tls-cert, --tls-key"
        )
    if endpoint.certificate is not None and endpoint.private_key is not None:
        _check_pair(endpoint.certificate, endpoint.private_key)
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((endpoint.host.strip("[]"), endpoint.port))
        # Listening from here on makes a second service on this port fail now, not later.
        sock.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        sock.close()
        raise UsageError(
            "the service cannot listen here",
            where=f"{endpoint.host}:{endpoint.port}",
            found=str(error),
            fix="choose another --port (0 for any free one), or stop what uses it",
        ) from None
    sock.set_inheritable(True)
    return sock


def _check_pair(certificate: Path, private_key: Path) -> None:
    """Now, by the parent: a worker that cannot read them would be started over and over."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            certificate, private_key, password=lambda: ""
        )
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            "the certificate or its private key cannot be read",
            where=f"--tls-cert {certificate}, --tls-key {private_key}",
            found=str(error),
            expected="two PEM files that belong together, the key without a passphrase",
        ) from None


def address(sock: socket.socket, endpoint: Endpoint) -> str:
    """The URL under which a bound socket is reached."""
    host, port = sock.getsockname()[:2]
    scheme = "https" if endpoint.certificate else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def run_worker(app: "App", sock: socket.socket, endpoint: Endpoint) -> None:
    """Serve on a bound socket until asked to stop; requests in flight are answered first."""
    import uvicorn

    app.connections.allow_files()
    # Beside the loop, threads write lists and read the log; a ranking need not wait 5 ms for its turn.
    sys.setswitchinterval(SWITCH_SECONDS)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=app.connections.protocol(),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=app.settings.drain_seconds,
        ssl_certfile=str(endpoint.certificate) if endpoint.certificate else None,
        ssl_keyfile=str(endpoint.private_key) if endpoint.private_key else None,
    )
    server = _lingering(config)
    stop = server.handle_exit

    def drain_then_stop(number: int, frame: FrameType | None) -> None:
        app.drain()
        stop(number, frame)

    server.handle_exit = drain_then_stop
    # From now on, and not only from uvicorn's start on: a signal in between would be lost. uvicorn
    # raises it again once it has stopped in order, which then changes nothing.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, drain_then_stop)
    _stop_with_parent()
    app.joins = JOINS in os.environ
    server.run(sockets=[sock])


def _lingering(config: "uvicorn.Config") -> "uvicorn.Server":
    """A server that, asked to stop, first takes up what the kernel has accepted for it: a socket
    that is closed before resets those connections."""
    import uvicorn

    class Lingering(uvicorn.Server):  # type: ignore[misc]
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await asyncio.sleep(ACCEPT_SECONDS)
            end = time.monotonic() + ACCEPT_MOST
            while select.select(sockets or [], [], [], 0)[0] and time.monotonic() < end:
                await asyncio.sleep(0)
            await super().shutdown(sockets=sockets)

    return Lingering(config)


def _stop_with_parent() -> None:
    """A worker whose parent was killed stops in order, instead of holding the port for ever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def supervise(target: Callable[..., None], args: tuple[Any, ...], workers: int) -> int:
    """Run `workers` processes of `target(*args)` until asked to stop; restart one that dies.

    `args` must be picklable (sockets are). Gives the exit code of the command.
    """
    metrics_folder = tempfile.mkdtemp(prefix="recsys-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics_folder
    try:
        return _Supervisor(target, args, workers).run()
    finally:
        shutil.rmtree(metrics_folder, ignore_errors=True)
        del os.environ["PROMETHEUS_MULTIPROC_DIR"]


class _Supervisor:
    """A parent that keeps its workers alive."""

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...], workers: int) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._target, self._args = target, args
        self._workers: list[BaseProcess] = []
        self._count, self._stopping = workers, False

    def run(self) -> int:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._stop)
        self._workers = [self._start() for _ in range(self._count)]
        while not self._stopping:
            time.sleep(0.2)
            self._replace_dead()
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.join(timeout=30)
            if worker.is_alive():
                worker.kill()
        return 0

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _start(self, *, joins: bool = False) -> BaseProcess:
        """`joins`: others are serving already, so that it takes no request before it can answer."""
        worker = self._context.Process(target=self._target, args=self._args)
        if joins:
            os.environ[JOINS] = "1"
        try:
            worker.start()
        finally:
            os.environ.pop(JOINS, None)
        return worker

    def _replace_dead(self) -> None:
        from prometheus_client import multiprocess

        for place, worker in enumerate(self._workers):
            if worker.is_alive() or self._stopping:
                continue
            log("error", "worker_died", pid=worker.pid, exitcode=worker.exitcode)
            multiprocess.mark_process_dead(worker.pid)
            time.sleep(0.5)
            self._workers[place] = self._start(joins=True)


def announce(url: str, workers: int) -> None:
    """Say on standard output where the service is, for people and scripts."""
    print(f"Serving on {url} with {workers} worker{'s' if workers > 1 else ''}")
    print(f"  page  {url}/\n  docs  {url}/docs", flush=True)
