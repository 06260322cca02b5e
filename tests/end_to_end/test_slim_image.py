"""The serving image's packages are all that the service imports; the others are made to be absent."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

SERVING = Path(__file__).parents[2] / "deploy" / "serving.txt"


def serving_packages():
    lines = SERVING.read_text().splitlines()
    return [line.split("[")[0] for line in lines if line and not line.startswith("#")]


def closure():
    """Names of the distributions that the slim image installs."""
    from packaging.requirements import Requirement

    extras = {
        line.split("[")[0]: line.split("[")[1].rstrip("]")
        for line in SERVING.read_text().splitlines()
        if "[" in line and not line.startswith("#")
    }
    found, waiting = set(), [(name, extras.get(name, "")) for name in serving_packages()]
    while waiting:
        name, extra = waiting.pop()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if name in found:
            continue
        found.add(name)
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                waiting.append((need.name, ",".join(need.extras)))
    return found


BLOCKED = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"not in the slim image: {{name}}", name=name)
sys.meta_path.insert(0, Absent())
import time
from recsys.data_schemas.config import load_config
from recsys.operations.cli import main, serve_commands
from recsys.serving import app, server
from recsys.operations.open_release import load_release
from recsys.query import RankingQuery
main.build_parser()
loaded = load_release(load_config({config!r}))
user = loaded.state.user_ids()[0]
new = {{"n": {{"item_id": "n", "title": "A heist in space"}}}}
answer = loaded.answer(RankingQuery(user, loaded.moment, k=5, explain=5))
assert len(answer.item_ids) == 5 and len(answer.reasons) == 5 and not answer.degraded
known = [*answer.item_ids, "n"]
answer = loaded.answer(RankingQuery(user, loaded.moment, items=known, new_items=new))
assert sorted(answer.item_ids) == sorted(known) and not answer.degraded, answer.degraded
assert "torch" not in sys.modules
"""


def test_the_slim_image_has_all_that_the_service_imports(released):
    has = closure()
    assert not has & {"torch", "transformers", "duckdb", "ibis-framework", "optuna", "mlflow"}
    absent = {
        top
        for top, dists in metadata.packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", d).lower() for d in dists} & (has | {"recsys-nightly"})
    } - {"pytest", "_pytest", "coverage"}
    assert "torch" in absent
    code = BLOCKED.format(absent=sorted(absent), config=str(released / "recsys.yaml"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
