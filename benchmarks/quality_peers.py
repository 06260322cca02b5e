"""One peer of benchmarks/quality.py: fit on a Parquet file of events, write the users' lists.

Runs in the peers' own environment and imports nothing of ours; see `quality.py` for its set-up.

    python benchmarks/quality_peers.py MODEL EVENTS USERS OUT [--k 100] [--minutes 12] [--epochs 20]

EVENTS has user_id, item_id, timestamp (positive events), USERS has user_id. OUT gets user_id, item_ids
and scores, best first, without items the user has had; OUT.json gets times, memory and settings.

`ease_decayed` and `als_decayed` weigh a user's events by decay ** age when they are asked, age in events
from the newest. The decay and the ridge are chosen on the step before: the newest known event of every
user is held out of a fit, and the choice is by nDCG@10 of a sample of users. `blend` is LightGBM's
lambdarank over the candidates of the peers in `FIRST_STAGE`. They run before it, with the same EVENTS,
USERS and folder, and leave their lists of the step before (NAME.before.parquet) for it to learn from.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

Lists = dict[str, tuple[list[str], list[float]]]
"""User → item ids, best first, and their scores."""
PeerResult = tuple["Stopwatch", Lists, dict[str, Any]]
"""What the fit took, the lists, and the settings used."""
Scorer = Callable[[Any], np.ndarray]
"""CSR of weighted histories [B, N] → scores of all items, float32[B, N]."""

SESSION = 20
"""History items that SASRec reads; histories of `games` have a median of 6."""
DECAYS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Tried for the weight of an event, decay ** (events after it)."""
EASE_RIDGES = (50.0, 100.0, 200.0, 400.0)
ALS_RIDGES = (0.01, 1.0, 10.0, 30.0, 100.0)
ALS = {"factors": 256, "alpha": 10.0, "iterations": 15}
"""The best on `games` in a search beforehand."""
FIRST_STAGE = ("ease_decayed", "als_decayed", "item_item")
"""Peers whose candidates the blend ranks."""
DEEP = 200
"""Candidates of each that the blend learns from; as many are asked of OUT with --k 200."""
CHOICE, LEARN = 4000, 12_000
"""Users of the step before: settings and number of trees are chosen on the first, trees learn from the rest."""
BATCH = 512


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
    of_user = found.groupby(Columns.User, sort=False)
    return clock, {
        user: (rows[Columns.Item].tolist(), rows[Columns.Score].tolist()) for user, rows in of_user
    }


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
    from threadpoolctl import threadpool_limits

    known = DecayedEvents(events)
    with threadpool_limits(1, "blas"):  # as implicit asks for
        clock = Stopwatch()
        model = als_model(known, 0.01)
        clock.stop()
        rows = known.users.get_indexer(users)
        found = model.recommend(
            rows, known.matrix()[rows], N=given.k, filter_already_liked_items=True
        )
    settings = ALS | {"regularization": 0.01, "implicit": version("implicit")}
    return clock, known.named(users, *found), settings


def item_item(events: pd.DataFrame, users: list[str], given: argparse.Namespace) -> PeerResult:
    """LensKit's item-item neighbours for implicit feedback, with its own defaults."""
    settings: dict[str, Any] = {"max_nbrs": 20, "feedback": "implicit"}
    step = StepBefore(events)
    _, candidates = lenskit_lists(step.events, step.users, DEEP, settings)
    write_lists(before_of(given.out), step.users, candidates)
    clock, lists = lenskit_lists(events, users, given.k, settings)
    return clock, lists, settings | {"lenskit": version("lenskit")}


def lenskit_lists(
    events: pd.DataFrame, users: list[str], k: int, settings: Mapping[str, Any]
) -> tuple[Stopwatch, Lists]:
    from lenskit.batch import recommend
    from lenskit.data import from_interactions_df
    from lenskit.knn import ItemKNNScorer
    from lenskit.pipeline import topn_pipeline

    data = from_interactions_df(
        events.drop_duplicates(["user_id", "item_id"])[["user_id", "item_id"]],
        user_col="user_id",
        item_col="item_id",
    )
    pipeline = topn_pipeline(ItemKNNScorer(**settings), n=k)
    clock = Stopwatch()
    pipeline.train(data)
    clock.stop()
    found = recommend(pipeline, users, k, n_jobs=1)
    return clock, {
        key.user_id: ([str(i) for i in items.ids()], items.scores().tolist())
        for key, items in found
    }


# ---------------------------------------------------------------------------- decayed histories


class DecayedEvents:
    """Events as a matrix of users and items; of a pair's events the newest counts."""

    def __init__(self, events: pd.DataFrame, items: pd.Index | None = None) -> None:
        events = events.drop_duplicates(["user_id", "item_id"], keep="last")
        self.users = pd.Index(events["user_id"].unique())
        self.items = pd.Index(np.sort(events["item_id"].unique())) if items is None else items
        self.row = self.users.get_indexer(events["user_id"])
        self.column = self.items.get_indexer(events["item_id"])
        self.age = events.groupby("user_id").cumcount(ascending=False).to_numpy()

    def matrix(self, decay: float = 1.0) -> Any:
        """CSR float32[users, items]: decay ** age of each event."""
        from scipy.sparse import csr_matrix

        weight = (decay**self.age).astype(np.float32)
        return csr_matrix(
            (weight, (self.row, self.column)), shape=(len(self.users), len(self.items))
        )

    def lists(self, scorer: Scorer, users: list[str], decay: float, k: int) -> Lists:
        """The best k items by `scorer` that each user has not had."""
        weighted, found = self.matrix(decay)[self.users.get_indexer(users)], {}
        for low in range(0, len(users), BATCH):
            rows = weighted[low : low + BATCH]
            scores = scorer(rows)
            scores[rows.nonzero()] = -np.inf
            best = np.argpartition(-scores, k, axis=1)[:, :k]
            values = np.take_along_axis(scores, best, axis=1)
            order = np.argsort(-values, axis=1, kind="stable")
            of = (np.take_along_axis(x, order, axis=1) for x in (best, values))
            found |= self.named(users[low : low + BATCH], *of)
        return found

    def named(self, users: Iterable[str], columns: np.ndarray, scores: np.ndarray) -> Lists:
        """Lists of ids from columns int[U, k] and scores float[U, k]; -inf is no item."""
        names = self.items.to_numpy()
        return {
            user: (names[row[np.isfinite(value)]].tolist(), value[np.isfinite(value)].tolist())
            for user, row, value in zip(users, columns, scores, strict=True)
        }


class StepBefore:
    """The known events without the newest of each user, and what a sample of users did then."""

    def __init__(self, events: pd.DataFrame) -> None:
        events = events.drop_duplicates(["user_id", "item_id"], keep="last")
        newest = ~events.duplicated("user_id", keep="last")
        self.events = events[~newest]
        asked = events[newest & events["user_id"].isin(self.events["user_id"])]
        asked = asked.sort_values("user_id").sample(frac=1.0, random_state=0)[: CHOICE + LEARN]
        self.wanted = dict(zip(asked["user_id"], asked["item_id"], strict=True))
        self.users = list(self.wanted)
        self.choice = self.users[:CHOICE]

    def ndcg(self, lists: Lists) -> float:
        """Mean nDCG@10 of the users in `lists`; one item is wanted of each."""
        gains = []
        for user, (items, _) in lists.items():
            head = items[:10]
            wanted = self.wanted[user]
            gains.append(1 / np.log2(head.index(wanted) + 2) if wanted in head else 0.0)
        return float(np.mean(gains))


def decayed(
    fit: Callable[[DecayedEvents, float], Scorer],
    ridges: Iterable[float],
    events: pd.DataFrame,
    users: list[str],
    given: argparse.Namespace,
) -> PeerResult:
    """Choose ridge and decay on the step before, write its candidates, fit on everything known."""
    choice, step = Stopwatch(), StepBefore(events)
    earlier, best = DecayedEvents(step.events), (-1.0, 0.0, 0.0)
    for ridge in ridges:
        scorer, tried = fit(earlier, ridge), []
        for decay in DECAYS:
            found = step.ndcg(earlier.lists(scorer, step.choice, decay, 10))
            tried.append((found, ridge, decay))
            print(f"ridge {ridge:g}, decay {decay:g}: nDCG@10 {found:.4f} on the step before")
        if max(tried) > best:
            best, chosen = max(tried), scorer
        del scorer  # EASE's weights of two ridges at a time at most
    candidates = earlier.lists(chosen, step.users, best[2], DEEP)
    write_lists(before_of(given.out), step.users, candidates)
    del chosen
    choice.stop()
    _, ridge, decay = best
    known, clock = DecayedEvents(events), Stopwatch()
    scorer = fit(known, ridge)
    clock.stop()
    settings = {
        "ridge": ridge, "decay": decay, "ndcg_of_the_choice": best[0],
        "choice_processor_seconds": choice.processor,
    }  # fmt: skip
    return clock, known.lists(scorer, users, decay, given.k), settings


def ease_scorer(known: DecayedEvents, ridge: float) -> Scorer:
    """RecTools' EASE weights, P / -diag(P) with P = (X'X + ridge I)⁻¹, by Cholesky in place.

    RecTools inverts with copies and takes 10 GB for 16,859 items; this takes two float32 matrices.
    """
    from scipy.linalg.lapack import spotrf, spotri

    matrix = known.matrix()
    weights = (matrix.T @ matrix).toarray().T  # symmetric; the transpose lies as LAPACK wants it
    weights[np.diag_indices_from(weights)] += np.float32(ridge)
    weights, failed = spotrf(weights, lower=1, overwrite_a=1)
    assert not failed, "X'X + ridge I is positive definite"
    weights, failed = spotri(weights, lower=1, overwrite_c=1)
    assert not failed, "its factor has no zero on the diagonal"
    for low in range(0, len(weights), BATCH):  # the upper triangle from the lower
        weights[:low, low : low + BATCH] = weights[low : low + BATCH, :low].T
        block = weights[low : low + BATCH, low : low + BATCH]
        block[:] = np.tril(block) + np.tril(block, -1).T
    weights /= -weights.diagonal().copy()
    np.fill_diagonal(weights, 0.0)
    rows = np.ascontiguousarray(weights)
    return lambda histories: np.asarray(histories @ rows)


def als_model(known: DecayedEvents, ridge: float) -> Any:
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(**ALS, regularization=ridge, random_state=1)
    model.fit(known.matrix(), show_progress=False)
    return model


def als_scorer(known: DecayedEvents, ridge: float) -> Scorer:
    """`implicit`'s ALS; a user's factors are solved anew from the weighted history."""
    model = als_model(known, ridge)
    return lambda histories: (
        model.recalculate_user(np.arange(histories.shape[0]), histories) @ model.item_factors.T
    )


def ease_decayed(events: pd.DataFrame, users: list[str], given: argparse.Namespace) -> PeerResult:
    """EASE asked with decayed histories."""
    return decayed(ease_scorer, EASE_RIDGES, events, users, given)


def als_decayed(events: pd.DataFrame, users: list[str], given: argparse.Namespace) -> PeerResult:
    """ALS asked with decayed histories."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):  # as implicit asks for
        clock, lists, settings = decayed(als_scorer, ALS_RIDGES, events, users, given)
    return clock, lists, ALS | settings | {"implicit": version("implicit")}


# ---------------------------------------------------------------------------- two stages


def blend(events: pd.DataFrame, users: list[str], given: argparse.Namespace) -> PeerResult:
    """lambdarank over the first stage's candidates, learned on the step before."""
    import lightgbm

    step, folder = StepBefore(events), given.out.parent
    missing = [name for name in FIRST_STAGE if not (folder / f"{name}.before.parquet").exists()]
    if missing:
        sys.exit(f"{folder} has no lists of {', '.join(missing)}: run them before the blend")
    clock, parts = Stopwatch(), []
    first = {name: pd.read_parquet(folder / f"{name}.before.parquet") for name in FIRST_STAGE}
    for part in (step.users[CHOICE:], step.choice):
        rows = candidate_rows(first, part, step.events)
        wanted = (rows["item_id"] == rows["user_id"].map(step.wanted)).rename("wanted")
        found = wanted.groupby(rows["user_id"]).transform("any")  # the others teach nothing
        rows, wanted = rows[found], wanted[found]
        sizes = rows.groupby("user_id", sort=False).size().to_numpy()
        parts.append(lightgbm.Dataset(features_of(rows), wanted.astype(int), group=sizes))
    params = {
        "objective": "lambdarank", "metric": "ndcg", "eval_at": [10], "learning_rate": 0.05,
        "num_leaves": 31, "min_data_in_leaf": 100, "seed": 1, "verbose": -1,
    }  # fmt: skip
    trees = lightgbm.train(
        params, parts[0], 1000, valid_sets=[parts[1]],
        callbacks=[lightgbm.early_stopping(50, verbose=False)],
    )  # fmt: skip
    clock.stop()
    first = {name: pd.read_parquet(folder / f"{name}.parquet") for name in FIRST_STAGE}
    rows = candidate_rows(first, users, events)
    rows["score"] = trees.predict(features_of(rows))
    rows = rows.sort_values(["user_id", "score"], ascending=[True, False], kind="stable")
    lists = {
        user: (of["item_id"].tolist()[: given.k], of["score"].tolist()[: given.k])
        for user, of in rows.groupby("user_id", sort=False)
    }
    settings = params | {
        "first_stage": list(FIRST_STAGE), "trees": trees.best_iteration,
        "ndcg_of_the_choice_where_found": trees.best_score["valid_0"]["ndcg@10"],
        "lightgbm": version("lightgbm"),
    }  # fmt: skip
    return clock, lists, settings


def candidate_rows(
    first: Mapping[str, pd.DataFrame], users: list[str], events: pd.DataFrame
) -> pd.DataFrame:
    """A row per candidate of a user, users together: rank, score and share of the best score in each
    model's list (NaN where it is not in it), how many lists hold it, its popularity, the user's events."""
    user_ids, item_ids = pd.Index(users), pd.Index(events["item_id"].unique())
    found = {}
    for name, lists in first.items():
        lists = lists[lists["user_id"].isin(user_ids)]
        items = [row[:DEEP] for row in lists["item_ids"]]
        sizes = np.array([len(row) for row in items])
        score = np.concatenate([row[:DEEP] for row in lists["scores"]]).astype(float)
        starts = np.cumsum(sizes) - sizes
        found[name] = {
            "key": np.repeat(user_ids.get_indexer(lists["user_id"]), sizes) * len(item_ids)
            + item_ids.get_indexer(np.concatenate(items)),
            "rank": np.arange(len(score)) - np.repeat(starts, sizes) + 1.0,
            "score": score,
            "share": score / np.repeat(score[starts[sizes > 0]], sizes[sizes > 0]),
        }
    keys = np.unique(np.concatenate([columns["key"] for columns in found.values()]))
    user, item = np.divmod(keys, len(item_ids))
    rows = {"user_id": user_ids.take(user), "item_id": item_ids.take(item), "lists": 0.0}
    table = pd.DataFrame(rows)
    for name, columns in found.items():
        place = np.searchsorted(keys, columns.pop("key"))
        for kind, values in columns.items():
            whole = np.full(len(keys), np.nan)
            whole[place] = values
            table[f"{name}_{kind}"] = whole
        table["lists"] += table[f"{name}_rank"].notna()
    for key, index, code in (("user_id", user_ids, user), ("item_id", item_ids, item)):
        counts = events[key].value_counts().reindex(index, fill_value=0).to_numpy()
        table[f"events_of_{key}"] = counts[code]
    return table


def features_of(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop(columns=["user_id", "item_id"])


# ---------------------------------------------------------------------------- files


def before_of(out: Path) -> Path:
    """Where a peer's candidates of the step before lie."""
    return out.with_suffix(".before.parquet")


def write_lists(path: Path, users: list[str], lists: Lists) -> None:
    found = [lists.get(user, ([], [])) for user in users]
    table = {
        "user_id": users,
        "item_ids": [items for items, _ in found],
        "scores": [scores for _, scores in found],
    }
    pd.DataFrame(table).to_parquet(path, index=False)


MODELS: dict[str, Callable[[pd.DataFrame, list[str], argparse.Namespace], PeerResult]] = {
    "als": als,
    "item_item": item_item,
    "ease": ease,
    "sasrec": sasrec,
    "als_decayed": als_decayed,
    "ease_decayed": ease_decayed,
    "blend": blend,
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
    events = pd.read_parquet(given.events).sort_values("timestamp", kind="stable")
    users = pd.read_parquet(given.users)["user_id"].tolist()
    fit, lists, settings = MODELS[given.model](events, users, given)
    write_lists(given.out, users, lists)
    facts = {
        "fit_seconds": fit.wall,
        "fit_processor_seconds": fit.processor,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "settings": settings,
    }
    given.out.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
