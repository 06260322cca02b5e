"""One peer of benchmarks/quality.py: fit on a Parquet file of events, write the users' lists.

Runs in the peers' own environment and imports nothing of ours; see `quality.py` for its set-up.

    python benchmarks/quality_peers.py MODEL EVENTS USERS OUT [--k 100] [--minutes 12] [--epochs 20]

EVENTS has user_id, item_id, timestamp (positive events), USERS has user_id. OUT gets user_id and
item_ids, best first, without items the user has had; OUT.json gets times, memory and settings.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

Lists = dict[str, list[str]]
PeerResult = tuple["Stopwatch", Lists, dict[str, Any]]
"""What the fit took, the lists, and the settings used."""

SESSION = 20
"""History items that SASRec reads; histories of `games` have a median of 6."""


class Stopwatch:
    """Wall and processor seconds (all threads) since it was made, until `stop`."""

    def __init__(self) -> None:
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def stop(self) -> "Stopwatch":
        self.wall = time.perf_counter() - self.wall
        self.processor = time.process_time() - self.processor
        return self


def rectools_lists(
    model: Any, events: pd.DataFrame, users: list[str], k: int
) -> tuple[Stopwatch, Lists]:
    """Fit a RecTools model and ask it for everybody's list."""
    from rectools import Columns
    from rectools.dataset import Dataset

    table = pd.DataFrame(
        {
            Columns.User: events["user_id"],
            Columns.Item: events["item_id"],
            Columns.Weight: 1.0,
            Columns.Datetime: events["timestamp"],
        }
    )
    dataset = Dataset.construct(table)
    clock = Stopwatch()
    model.fit(dataset)
    clock.stop()
    # users whose items SASRec left out of its training get no list
    found = model.recommend(
        users=users, dataset=dataset, k=k, filter_viewed=True, on_unsupported_targets="ignore"
    )
    found = found.sort_values([Columns.User, Columns.Rank])
    return clock, found.groupby(Columns.User, sort=False)[Columns.Item].apply(list).to_dict()


def ease(events: pd.DataFrame, users: list[str], given: argparse.Namespace) -> PeerResult:
    """RecTools' EASE; every item takes part."""
    from rectools.models import EASEModel

    settings = {"regularization": 200.0}
    clock, lists = rectools_lists(EASEModel(**settings), events, users, given.k)
    return clock, lists, settings | {"rectools": version("rectools")}


def sasrec(events: pd.DataFrame, users: list[str], given: argparse.Namespace) -> PeerResult:
    """RecTools' SASRec with the full softmax, for a number of epochs and of processor minutes."""
    import torch
    from pytorch_lightning import Callback, Trainer
    from rectools.models import SASRecModel

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    trainers: list[Trainer] = []

    class Enough(Callback):
        """Stops when the time is used up; processor time, so that a busy machine changes nothing."""

        def on_train_start(self, trainer: Trainer, *_: object) -> None:
            self.until = time.process_time() + 60 * given.minutes

        def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
            trainer.should_stop = time.process_time() > self.until

    def trainer() -> Trainer:
        trainers.append(
            Trainer(
                max_epochs=given.epochs,
                callbacks=[Enough()],
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
        )
        return trainers[-1]

    settings = {
        "n_factors": 128, "n_blocks": 2, "n_heads": 2, "dropout_rate": 0.2, "batch_size": 128,
        "session_max_len": SESSION, "loss": "softmax", "lr": 1e-3,
    }  # fmt: skip
    torch.manual_seed(1)
    model = SASRecModel(**settings, get_trainer_func=trainer)
    clock, lists = rectools_lists(model, events, users, given.k)
    facts = {
        "epochs": trainers[0].current_epoch,
        "steps": trainers[0].global_step,
        "steps_per_epoch": trainers[0].num_training_batches,
        "processor_minutes_at_most": given.minutes,
    }
    return clock, lists, settings | facts | {"rectools": version("rectools")}


def als(events: pd.DataFrame, users: list[str], given: argparse.Namespace) -> PeerResult:
    """`implicit`'s ALS, with the factors and alpha that did best in a search beforehand."""
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix
    from threadpoolctl import threadpool_limits

    user, item = (events[c].astype("category").cat for c in ("user_id", "item_id"))
    shape = (len(user.categories), len(item.categories))
    matrix = csr_matrix((np.ones(len(events), np.float32), (user.codes, item.codes)), shape=shape)
    settings = {"factors": 256, "alpha": 10.0, "regularization": 0.01, "iterations": 15}
    with threadpool_limits(1, "blas"):  # as implicit asks for
        model = AlternatingLeastSquares(**settings, random_state=1)
        clock = Stopwatch()
        model.fit(matrix, show_progress=False)
        clock.stop()
        rows = user.categories.get_indexer(users)
        items, _ = model.recommend(rows, matrix[rows], N=given.k, filter_already_liked_items=True)
    names = item.categories.to_numpy()
    lists = {u: names[found].tolist() for u, found in zip(users, items, strict=True)}
    return clock, lists, settings | {"implicit": version("implicit")}


def item_item(events: pd.DataFrame, users: list[str], given: argparse.Namespace) -> PeerResult:
    """LensKit's item-item neighbours for implicit feedback, with its own defaults."""
    from lenskit.batch import recommend
    from lenskit.data import from_interactions_df
    from lenskit.knn import ItemKNNScorer
    from lenskit.pipeline import topn_pipeline

    data = from_interactions_df(
        events.drop_duplicates(["user_id", "item_id"])[["user_id", "item_id"]],
        user_col="user_id",
        item_col="item_id",
    )
    settings: dict[str, Any] = {"max_nbrs": 20, "feedback": "implicit"}
    pipeline = topn_pipeline(ItemKNNScorer(**settings), n=given.k)
    clock = Stopwatch()
    pipeline.train(data)
    clock.stop()
    found = recommend(pipeline, users, given.k, n_jobs=1)
    lists = {key.user_id: [str(i) for i in items.ids()] for key, items in found}
    return clock, lists, settings | {"lenskit": version("lenskit")}


MODELS: dict[str, Callable[[pd.DataFrame, list[str], argparse.Namespace], PeerResult]] = {
    "als": als,
    "item_item": item_item,
    "ease": ease,
    "sasrec": sasrec,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("events", type=Path)
    parser.add_argument("users", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=12.0, help="processor minutes of SASRec")
    parser.add_argument("--epochs", type=int, default=20, help="of SASRec, at most")
    given = parser.parse_args()
    events = pd.read_parquet(given.events)
    users = pd.read_parquet(given.users)["user_id"].tolist()
    fit, lists, settings = MODELS[given.model](events, users, given)
    table = pd.DataFrame({"user_id": users, "item_ids": [lists.get(u, []) for u in users]})
    table.to_parquet(given.out, index=False)
    facts = {
        "fit_seconds": fit.wall,
        "fit_processor_seconds": fit.processor,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "settings": settings,
    }
    given.out.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
