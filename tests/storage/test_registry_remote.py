"""The registry on PostgreSQL with an S3-compatible store, each a server started here."""

import shutil

import pytest

from recsys.data_schemas.config import parse_config
from recsys.storage.bundle import open_bundle
from recsys.storage.registry import Registry, RegistryError

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:::mlflow"),
    pytest.mark.filterwarnings("ignore:::sqlalchemy"),
    pytest.mark.filterwarnings("ignore:::alembic"),
    pytest.mark.filterwarnings("ignore:::botocore"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


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
            "tracking": {"uri": postgres.empty(), "artifacts": store},
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
