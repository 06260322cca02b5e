"""The registry on PostgreSQL with an S3-compatible store, each a server started here."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from data_schemas.config import parse_config
from recsys.bundle import open_bundle
from recsys.registry import Registry, RegistryError

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:::mlflow"),
    pytest.mark.filterwarnings("ignore:::sqlalchemy"),
    pytest.mark.filterwarnings("ignore:::alembic"),
    pytest.mark.filterwarnings("ignore:::botocore"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


class Server:
    """PostgreSQL in a folder of its own; root hands it to the user `postgres`."""

    def __init__(self, folder):
        found = shutil.which("pg_ctl")
        places = (
            [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        )
        if not places:
            pytest.skip("no PostgreSQL server programs are installed")
        self.programs, self.folder = places[-1], folder
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.uri = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        if os.getuid() == 0:
            shutil.chown(folder, "postgres")
            for parent in [folder, *folder.parents][:-1]:
                if parent.stat().st_uid == 0:
                    parent.chmod(parent.stat().st_mode | 0o011)
        self.run("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "postgres", "--no-sync")

    def run(self, program, *words):
        command = [str(self.programs / program), *words]
        if os.getuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL)

    def start(self):
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        log = f"{self.folder}/log"
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-o", options, "-l", log, "-w", "start")

    def stop(self):
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-m", "immediate", "-w", "stop")


@pytest.fixture
def postgres(tmp_path_factory):
    pytest.importorskip("psycopg", reason="the [postgres] extra is not installed")
    if os.getuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no runuser")
    server = Server(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def store(monkeypatch):
    """An S3-compatible server with one bucket."""
    pytest.importorskip("boto3", reason="an S3 store needs boto3")
    moto = pytest.importorskip("moto.server", reason="no S3-compatible server is installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{host}:{port}")
    import boto3

    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="models")
    yield "s3://models/recsys"
    server.stop()


def test_the_life_of_releases_elsewhere(postgres, store, tmp_path, make_bundle):
    config = parse_config(
        {
            "data": {"items": "i", "events": "e"},
            "tracking": {"uri": postgres.uri, "artifacts": store},
        },
        tmp_path,
    )
    registry = Registry(config)
    assert registry.champion() is None
    for value in (1.0, 2.0):
        version = registry.register(make_bundle(value), {"gate": "ok"}, {"ndcg@10": value / 10})
        registry.promote(version, f"night {version}")
    assert registry.register(tmp_path / "bundle-2.0") == 2
    assert [v.aliases for v in registry.list()] == [("champion",), ("previous",)]
    assert registry.show(2).source.startswith("s3://models/recsys")

    # Another machine: nothing local, everything fetched and verified.
    shutil.rmtree(registry.workspace.bundles)
    elsewhere = Registry(config)
    assert open_bundle(elsewhere.local_path(2)).item_ids == ["a", "bé", "c"]

    # The registry stops answering in the middle: a clear message, and afterwards it goes on.
    postgres.stop()
    with pytest.raises(RegistryError, match="see that it runs"):
        Registry(config).promote(1, "while it is away")
    with pytest.raises(RegistryError):
        elsewhere.register(make_bundle(3.0), {}, {})
    postgres.start()
    again = Registry(config)
    assert again.champion() == 2
    assert again.register(tmp_path / "bundle-3.0", {}, {}) == 3
    assert again.rollback("it was bad") == 1
    assert again.rollback() == 1
    assert [c.action for c in again.history()] == ["promote", "promote", "rollback"]
    assert str(postgres.port) in again.check()
