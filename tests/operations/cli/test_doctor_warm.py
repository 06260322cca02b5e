"""`recsys doctor --warm`: what was compiled lies on the disk afterwards."""

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_kernels_are_kept_for_the_next_process(tmp_path):
    kernels = tmp_path / "kernels"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(kernels)}
    command = [sys.executable, "-m", "recsys", "doctor", "--warm", "--json"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "compiled: models; the service's wait for a champion" in done.stderr
    first = {file.name for file in kernels.rglob("*.nbc")}
    assert len(first) > 10
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert {file.name for file in kernels.rglob("*.nbc")} == first


@pytest.mark.parametrize("config", ["nowhere.yaml"])
def test_a_named_config_must_exist(tmp_path, config, monkeypatch, capsys):
    from recsys.operations.cli.main import main

    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--warm", "-c", config]) == 2
    assert "no config file here" in capsys.readouterr().err
