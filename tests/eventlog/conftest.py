"""Logs of both kinds; the PostgreSQL server is started by the tests, in a folder of its own."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from recsys.eventlog import EventLog


def server_programs():
    """The folder of PostgreSQL's programs, or None."""
    found = shutil.which("pg_ctl")
    if found:
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else None


class Server:
    """A PostgreSQL server on a free port; root hands it to the user `postgres`."""

    def __init__(self, folder):
        self.data = folder / "data"
        self.folder, self.programs = folder, server_programs()
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.uri = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        if os.getuid() == 0:
            shutil.chown(folder, "postgres")
            for parent in [folder, *folder.parents]:
                if parent.stat().st_uid == 0 and parent != Path("/"):
                    parent.chmod(parent.stat().st_mode | 0o011)
        self._run("initdb", "-D", str(self.data), "-A", "trust", "-U", "postgres", "--no-sync")

    def _run(self, program, *arguments):
        command = [str(self.programs / program), *arguments]
        if os.getuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL)

    def start(self):
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        log = str(self.folder / "server.log")
        self._run("pg_ctl", "-D", str(self.data), "-o", options, "-l", log, "-w", "start")

    def stop(self):
        self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    if server_programs() is None:
        pytest.skip("no PostgreSQL server programs are installed")
    if os.getuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no runuser")
    pytest.importorskip("psycopg", reason="the [postgres] extra is not installed")
    server = Server(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def uri(request, tmp_path):
    """URI of an empty log, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.sqlite'}"
    import psycopg

    server = request.getfixturevalue("postgres")
    with psycopg.connect(server.uri, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS recsys_log")
    return server.uri


@pytest.fixture
def log(uri):
    with EventLog.open(uri) as opened:
        yield opened


@pytest.fixture
def wait_until():
    """Poll a condition for some seconds."""

    def wait(condition, seconds=20.0):
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "did not happen in time"
            time.sleep(0.02)

    return wait
