"""`make lint` refuses what it is there for: a wrong type in any room, an import that runs up."""

import re
import shutil
import subprocess
import sys

import pytest

FAULTS = {
    "training/planted.py": (
        "from recsys.data_schemas.config import RecsysConfig\n\n\n"
        "def seed_of(config: RecsysConfig) -> str:\n    return config.seed\n",
        r'planted\.py:5: error: Incompatible return value type \(got "int", expected "str"\)',
    ),
    "features/planted.py": (
        'from recsys.serving.settings import ServiceSettings\n\n__all__ = ["ServiceSettings"]\n',
        r"recsys\.features is not allowed to import recsys\.serving",
    ),
    "serving/planted.py": (
        "import recsys\n\nrelease = recsys.load_release(3)\nnight = recsys.run_nigth\n",
        r'planted\.py:3: error: Argument 1 to "load_release" has incompatible type "int"(?s:.*)'
        r'planted\.py:4: error: Module has no attribute "run_nigth"; maybe "run_night"',
    ),
}


def lint(folder):
    """`make lint` with the tools of this environment, which nothing is installed into."""
    done = subprocess.run(
        ["make", "--old-file=install", "lint", f"VENV={sys.prefix}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_planted_faults_are_refused(checkout):
    code, said = lint(checkout)
    assert code == 0, said
    assert "pip install" not in said
    for name, (text, complaint) in FAULTS.items():
        planted = checkout / name
        planted.write_text(text, encoding="utf-8")
        code, said = lint(checkout)
        planted.unlink()
        assert code != 0, name
        assert re.search(complaint, said), said
