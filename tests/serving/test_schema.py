"""Schemathesis against a running service: no 5xx, no mismatch with the OpenAPI document."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = 4
"""Per operation and phase; bounds the test to some seconds."""


@pytest.mark.parametrize(
    "phases",
    [
        "examples,fuzzing,stateful",
        # Every bound of every field, filters in filters among them: minutes.
        pytest.param("coverage", marks=pytest.mark.slow),
    ],
)
def test_the_service_keeps_to_its_document(live, tmp_path, phases):
    with live() as server:
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            f"--config-file={Path(__file__).with_name('schemathesis.toml')}",
            "run",
            server.url + "/openapi.json",
            "--checks=all",
            f"--phases={phases}",
            "--no-shrink",
            f"--max-examples={EXAMPLES}",
            "--seed=7",
            "--generation-deterministic",
            "--suppress-health-check=all",
            "--no-color",
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, timeout=1800, check=False
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
