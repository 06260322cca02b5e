"""Lists over Spark Connect: a server that this process reaches by its port alone."""

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from recsys.data_schemas.config import SparkConfig
from recsys.data_schemas.errors import UsageError
from recsys.storage.engines import spark as spark_engine

pytestmark = [pytest.mark.slow, pytest.mark.spark, pytest.mark.usefixtures("java")]
PATIENCE = 180.0


@contextmanager
def connect_server(folder):
    """The address of a server with two workers of this Python."""
    import pyspark

    home, port = Path(pyspark.__file__).parent, free_port()
    conf = {
        "spark.ui.enabled": "false",
        "spark.connect.grpc.binding.port": str(port),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
    }
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [
                str(home / "bin" / "spark-submit"),
                *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer"),
                *("--master", "local[2]"),
                *(word for item in conf.items() for word in ("--conf", "=".join(item))),
                "spark-internal",
            ],
            env={**os.environ, "SPARK_HOME": str(home), "PYSPARK_PYTHON": sys.executable},
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        until = time.monotonic() + PATIENCE
        while not answers(port):
            assert server.poll() is None, (folder / "server.log").read_text()[-2000:]
            assert time.monotonic() < until, "the server did not begin in time"
            time.sleep(0.5)
        yield f"sc://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def answers(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def run(released, *words, **engine):
    settings = {f"RECSYS__ENGINE__{name}": value for name, value in engine.items()}
    done = subprocess.run(
        [sys.executable, "-m", "recsys", *words, "-c", str(released / "recsys.yaml")],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_server_makes_the_bytes_of_one_machine(released, tmp_path):
    pytest.importorskip("grpc", reason="the [connect] extra is not installed")
    pytest.importorskip("grpc_status", reason="the [connect] extra is not installed")
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    run(released, "recommend", "--k", "7", "--out", str(here))
    with connect_server(tmp_path) as address:
        run(
            released,
            *("recommend", "--k", "7", "--out", str(there)),
            KIND="spark",
            SCRATCH=str(tmp_path / "scratch"),
            SPARK__REMOTE=address,
            PARTS="3",
        )
    assert there.read_bytes() == here.read_bytes()


def test_a_client_that_is_not_whole_is_named(monkeypatch):
    """Without gRPC, PySpark itself says what is missing, and this what to install."""
    monkeypatch.setattr(spark_engine, "_require_reachable", lambda settings: None)
    monkeypatch.setitem(sys.modules, "grpc", None)
    for name in [name for name in sys.modules if name.startswith("pyspark.sql.connect")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UsageError, match="Connect") as raised:
        spark_engine.open_session(SparkConfig(remote="sc://127.0.0.1:1"))
    assert "[connect]" in raised.value.fix
