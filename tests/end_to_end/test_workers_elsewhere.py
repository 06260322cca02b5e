"""Two workers of two shards that share a registry, an S3 store and a PostgreSQL log, and no disk."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parents[2] / "benchmarks" / "shard_campaign.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.postgres,
    pytest.mark.filterwarnings("ignore:::botocore"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def store():
    """(address, environment) of a bucket of an S3-compatible server."""
    pytest.importorskip("boto3", reason="an S3 store needs boto3")
    moto = pytest.importorskip("moto.server", reason="no S3-compatible server is installed")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    bucket = f"shop-{uuid.uuid4().hex}"
    access = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    import boto3

    boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    ).create_bucket(Bucket=bucket)
    yield (
        f"s3://{bucket}/shop",
        {**access, "AWS_ENDPOINT_URL": url, "MLFLOW_S3_ENDPOINT_URL": url},
    )
    server.stop()


def test_one_is_killed_under_load_and_nothing_accepted_is_lost(postgres, store, tmp_path):
    address, access = store
    words = ["--items", "2000", "--users", "1000", "--events", "8000", "--every", "4000"]
    done = subprocess.run(
        [
            sys.executable,
            "-Wignore",
            str(CAMPAIGN),
            postgres.uri.rpartition("/")[0],
            *words,
            *("--seconds", "3", "--store", address, "--keep", str(tmp_path / "shop")),
        ],
        capture_output=True,
        text=True,
        env=os.environ | access,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "nothing is lost, twice or misplaced" in done.stdout
    assert "ready again on an empty disk" in done.stdout
