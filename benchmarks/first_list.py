"""The first lists on a machine: what of the time goes into compiling kernels, and which.

    python benchmarks/first_list.py [--models ALS,ItemItem] [--config demo/recsys.yaml] [--slowest 12]

Each model runs twice in a process of its own over the bundled ratings, with an empty folder for compiled kernels
and with the folder that the first run left; so does, with a config, its champion as a service asks it. Prints
processor seconds by step, and of the first run the kernels that took longest to compile.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

WATCH = """
import json, sys, time
steps, compiled = {}, {}
began = time.process_time()
def done(name):
    global began
    steps[name] = time.process_time() - began
    began = time.process_time()
from numba.core import event
class Listener(event.Listener):
    def on_start(self, e):
        compiled.setdefault(str(e.data["dispatcher"].py_func.__name__), []).append(-time.process_time())
    def on_end(self, e):
        compiled[str(e.data["dispatcher"].py_func.__name__)][-1] += time.process_time()
event.register("numba:compile", Listener())
done("load the compiler")
"""
MODEL = """
import numpy, pandas as pd
from importlib import resources
import recsys
folder = resources.files("recsys.ingestion.bundled") / "movies"
events, items = (pd.read_parquet(str(folder / f"{name}.parquet")) for name in ("events", "items"))
model = getattr(recsys.models, sys.argv[1])()
done("import, read the frames")
data = recsys.Dataset(events, items)
data.tables
done("tables")
model.fit(data)
done("fit")
model.recommend([str(data.user_ids[0])], k=10)
done("first list")
model.recommend(k=10)
done("lists for everybody")
"""
SERVED = """
from recsys.data_schemas.config import load_config
from recsys.operations.open_release import load_release
from recsys.query import RankingQuery
done("import")
release = load_release(load_config(sys.argv[1]))
done("open the release")
user = release.state.user_ids()[0]
first = release.answer(RankingQuery(user, release.moment, k=10))
done("first list")
release.answer(RankingQuery(user, release.moment, items=first.item_ids))
done("first call that ranks")
release.answer(RankingQuery(user, release.moment, k=10, explain=10))
done("first list with reasons")
"""
TOLD = 'print(json.dumps({"steps": steps, "compiled": compiled}))'


def run(code: str, argument: str, cache: str) -> dict[str, Any]:
    """Steps and kernels of one run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WATCH + code + TOLD, argument],
        env=os.environ | {"NUMBA_CACHE_DIR": cache},
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Each model with nothing compiled, and again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="ALS,ItemItem")
    parser.add_argument("--config", help="of a workspace with a champion")
    parser.add_argument("--slowest", type=int, default=12, help="kernels that are named")
    given = parser.parse_args()
    asked = [(MODEL, model) for model in given.models.split(",") if model]
    asked += [(SERVED, os.path.abspath(given.config))] if given.config else []
    for code, argument in asked:
        with tempfile.TemporaryDirectory(prefix="recsys-first-") as cache:
            for state in ("nothing compiled", "compiled before"):
                found = run(code, argument, cache)
                compiled = {name: sum(times) for name, times in found["compiled"].items()}
                total = sum(found["steps"].values())
                print(
                    f"{argument}, {state}: {total:.1f} s of processor time, of it"
                    f" {sum(compiled.values()):.1f} s in {sum(map(len, found['compiled'].values()))}"
                    " compilations (those within others are counted in both)"
                )
                print("  " + ", ".join(f"{n} {s:.1f}" for n, s in found["steps"].items()))
                slowest = sorted(compiled, key=lambda name: -compiled[name])[: given.slowest]
                for name in slowest:
                    times = found["compiled"][name]
                    print(f"  {compiled[name]:6.2f} s  {name}, {len(times)} variants")


if __name__ == "__main__":
    main()
