"""A night in small: tables, a fit with checkpoints, a bundle, and (with `register`) a promotion.

Run as a program on a folder; it says `ready` when its imports are done. Every stage takes a while,
so that a kill meets it at work.
"""

import sys
import time
from pathlib import Path

import numpy as np

from recsys.data_schemas.config import parse_config
from recsys.storage.bundle import open_bundle, write_bundle
from recsys.storage.files import atomic_write, link_tree
from recsys.storage.progress import Reporter
from recsys.storage.stages import Stage, StageRunner
from recsys.storage.workspace import Workspace

PAUSE = 0.01


class Part:
    fit_until = 1

    def __init__(self, value):
        self.value = value

    def save(self, folder):
        for i in range(3):
            np.save(folder / f"array-{i}.npy", self.value + i)
            time.sleep(PAUSE)


def tables(out):
    draw = np.random.default_rng(7)
    for day in range(5):
        np.save(out / f"day-{day}.npy", draw.normal(size=1000))
        time.sleep(PAUSE)
    return {"days": 5}


def fit(out, source):
    """Sums the days, one checkpoint after another, from wherever the last run stopped."""
    checkpoint = out / "checkpoint.npy"
    done, total = np.load(checkpoint) if checkpoint.exists() else (0, 0.0)
    for day in range(int(done), 5):
        total += float(np.load(source / f"day-{day}.npy").sum())
        atomic_write(checkpoint, _npy(np.array([day + 1, total])))
        time.sleep(PAUSE)
    checkpoint.unlink()
    np.save(out / "model.npy", np.array([total]))
    return {"total": total}


def _npy(array):
    from io import BytesIO

    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def make_bundle(out, model):
    write_bundle(
        out / "bundle",
        encoder=None,
        items={"ids": ["a", "b"], "vectors": np.eye(2, dtype=np.float32)},
        sources={"als": Part(np.load(model / "model.npy"))},
        ranker=Part(np.zeros(3)),
        features_json={},
        facts={},
    )
    return {}


def night(folder, register):
    config = parse_config({"data": {"items": "i", "events": "e"}}, Path(folder))
    workspace = Workspace(config.workspace_path)
    with workspace.lock():
        runner = StageRunner(workspace, Reporter(quiet=True))
        first = runner.run(Stage("tables", {"seed": 7}, tables))
        model = runner.run(
            Stage("fit", {"tables": first.key}, lambda out: fit(out, first.path), resumable=True)
        )
        made = runner.run(
            Stage("bundle", {"fit": model.key}, lambda out: make_bundle(out, model.path))
        )
        if register:
            from recsys.storage.registry import Registry

            registry = Registry(config)
            version = registry.register(made.path / "bundle", {"gate": "ok"}, {"ndcg@10": 0.5})
            registry.promote(version, "better")
        else:
            target = workspace.bundles / open_bundle(made.path / "bundle").digest
            if not target.exists():
                from recsys.storage.files import atomic_folder

                with atomic_folder(target) as aside:
                    link_tree(made.path / "bundle", aside)
            atomic_write(workspace.path / "current", target.name)
        workspace.collect()


if __name__ == "__main__":
    if "register" in sys.argv:
        import sqlalchemy  # noqa: F401
        from mlflow.tracking import MlflowClient  # noqa: F401
    print("ready", flush=True)
    night(sys.argv[1], "register" in sys.argv)
