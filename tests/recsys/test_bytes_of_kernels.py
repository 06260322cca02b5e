"""A process that compiled the kernels gives the last bits of one that read them from the cache."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("bytes_of_kernels.py")


def test_the_bytes_of_a_process_that_compiled_are_those_of_one_that_read(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    command = [sys.executable, str(SCRIPT)]
    compiled, read = (
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    )
    assert len(compiled.splitlines()) == 32
    assert list((tmp_path / "kernels").rglob("*.nbc")), "nothing was kept"
    assert read == compiled
