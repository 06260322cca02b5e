"""The real night on a slice of the bundled data, killed at random moments.

RECSYS_KILLS sets how often (30 by default). Every restart goes on where the last one stopped, the
champion can always be opened, and the release is the undisturbed night's.
"""

import os
import random
import signal
import subprocess
import time

import pytest

from recsys.data_schemas.config import load_config
from recsys.storage.registry import Registry

KILLS = int(os.environ.get("RECSYS_KILLS", "30"))


@pytest.mark.slow
def test_the_night_killed_anywhere_ends_as_if_undisturbed(tmp_path, tiny_model, real_night):
    calm = real_night.lay_out(tmp_path / "calm", tiny_model)
    began = time.monotonic()
    _, said = (child := real_night.night(calm)).communicate(timeout=1800)
    seconds = time.monotonic() - began
    assert child.returncode == 0, said

    rough = real_night.lay_out(tmp_path / "rough", tiny_model)
    draw = random.Random(7)
    killed = 0
    for _ in range(KILLS):
        child = real_night.night(rough)
        try:
            began = time.monotonic()
            child.communicate(timeout=draw.uniform(0.1, 0.8) * seconds)
            # What is left of the night takes no longer than this.
            seconds = time.monotonic() - began
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.communicate()
            killed += 1
        real_night.champion_of(rough)
    _, said = (child := real_night.night(rough)).communicate(timeout=1800)
    assert child.returncode == 0, said

    registry = Registry(load_config(rough))
    assert killed >= 1
    assert real_night.same_release(rough, calm)
    assert [v.version for v in registry.list()] == [1]
    assert len(list((tmp_path / "rough").rglob("MLmodel"))) == 1
    assert not list((tmp_path / "rough" / "work").rglob("*.part"))
    assert not (tmp_path / "rough" / "work" / "lock.json").exists()
