"""Quality of every recall source and of their fusion on held-out next items, with fit times.

    python benchmarks/quality_sources.py DATA [--scheme last|time] [--users 6000] [--vectors FILE.npy]
                                         [--tune SECONDS] [--without NAME ...]

DATA holds items.parquet and events.parquet. With `last`, each user's last event is the label and
everything else the fit; with `time`, labels are what users with a history did in the last tenth of
the events. Items seen before are not recommended; every item of the catalogue competes. With
--tune, params and fusion weights are chosen on labels taken one step (or one tenth) earlier, never
on those reported.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, thread_time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.append(str(Path(__file__).resolve().parents[1]))

from recsys.data_schemas import columns as c
from recsys.data_schemas.meaning import DEFAULT_TYPES, EventMeaning
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import Interactions
from recsys.retrieval.fitted_source import SourceInputs
from recsys.training.sources.fit_source import applicable_sources, fit_one
from recsys.training.sources.fusion import Lists
from recsys.training.sources.tune import (
    Bench,
    Label,
    TunedPlan,
    tune_sources,
)

TENTH = 0.1


def load(folder: Path) -> tuple[Interactions, Catalogue]:
    """Events in canonical order and the items as they stand in the file."""
    catalogue = Catalogue.from_parquet(folder / "items.parquet")
    table = pq.read_table(folder / "events.parquet")
    item = catalogue.indices_of(table[c.ITEM_ID].to_pylist())
    user = table[c.USER_ID].combine_chunks().dictionary_encode()
    kind = table[c.EVENT_TYPE].combine_chunks().dictionary_encode()
    value = np.full(len(item), np.nan, np.float32)
    if c.VALUE in table.column_names:
        value = table[c.VALUE].to_numpy().astype(np.float32)
    time = table[c.TIMESTAMP].cast(pa.timestamp("us", "UTC")).to_numpy().astype(np.int64)
    kinds = tuple(kind.dictionary.to_pylist())
    codes = kind.indices.to_numpy().astype(np.int16)
    weight, grade = EventMeaning(DEFAULT_TYPES).of(kinds, codes, value)
    order = np.argsort(time, kind="stable")
    order = order[item[order] >= 0]
    whole = Interactions(
        user.indices.to_numpy().astype(np.int32), item, codes, time, value, weight, grade,
        np.arange(len(item)), np.array(user.dictionary.to_pylist(), object), kinds,
        catalogue.n_items,
    )  # fmt: skip
    return whole.where(order), catalogue


def last_events(events: Interactions, back: int) -> tuple[Interactions, list[Label]]:
    """Each user's event `back` steps from the end as label (1: the last), those before it as fit."""
    from_end = np.empty(len(events), np.int64)
    order = np.argsort(events.user, kind="stable")
    counts = np.bincount(events.user, minlength=events.n_users)
    ends = np.repeat(np.cumsum(counts), counts)
    from_end[order] = ends - np.arange(len(events))
    fit = events.where(from_end > back)
    histories = fit.histories()
    labels = [
        Label(histories.of(int(events.user[e])), int(events.time[e]), events.item[e : e + 1])
        for e in np.flatnonzero((from_end == back) & (events.grade > 0))
    ]
    return fit, [label for label in labels if len(label.history.item)]


def after_a_date(events: Interactions, back: int) -> tuple[Interactions, list[Label]]:
    """First new positive items after a date, `back` tenths of the events from the end."""
    start = int(events.time[int(len(events) * (1 - back * TENTH))])
    end = int(events.time[-1]) + 1
    if back > 1:
        end = int(events.time[int(len(events) * (1 - (back - 1) * TENTH))])
    fit = events.before(start)
    histories = fit.histories()
    late = events.where((events.time >= start) & (events.time < end) & (events.grade > 0))
    labels = []
    for user in np.unique(late.user):
        history = histories.of(int(user))
        new = np.setdiff1d(late.item[late.user == user], history.item)
        if len(history.item) and len(new):
            labels.append(Label(history, start, new.astype(np.int32)))
    return fit, labels


def sampled(labels: list[Label], number: int) -> list[Label]:
    chosen = np.random.default_rng(0).permutation(len(labels))[:number]
    return [labels[k] for k in np.sort(chosen)]


def line(name: str, ranks: np.ndarray, bench: Bench, fit_s: float, ms: float) -> None:
    """One row: recall@10, recall@100, nDCG@10 with a 95 % interval, fit time, time per user."""
    hit10, hit100 = (
        float(np.mean(np.bincount(bench.owner, ranks <= k) / bench.sizes)) for k in (10, 100)
    )
    ndcg = bench.quality_of(ranks).ndcg
    error = 1.96 * ndcg.std() / len(ndcg) ** 0.5
    print(
        f"{name:14s}{hit10:8.4f}{hit100:8.4f}{ndcg.mean():8.4f} ±{error:.4f}{fit_s:9.1f}{ms:9.3f}",
        flush=True,
    )


def report(bench: Bench, plan: TunedPlan, limit: int, workers: int) -> None:
    """Fit, measure and print every source, then the fusion."""
    print(
        f"{'source':14s}{'R@10':>8s}{'R@100':>8s}{'NDCG@10':>8s}{'':9s}{'fit s':>8s}{'ms/user':>9s}"
    )
    for name, params in plan.params.items():
        started = perf_counter()
        source = fit_one(name, bench.interactions, bench.inputs, params, seed=1, workers=workers)
        fit_s = perf_counter() - started
        bench.measure(source)
        started = thread_time()
        ranks = bench.ranks(source)
        line(name, ranks, bench, fit_s, 1e3 * (thread_time() - started) / len(bench.labels))
        bench.keep(name)
    lists = Lists(bench.lists, [label.relevant for label in bench.labels], limit)
    line("fusion", lists.ranks(plan.weights), bench, 0.0, 0.0)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--scheme", choices=("last", "time"), default="last")
    parser.add_argument("--users", type=int, default=6000)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--tune", type=float, default=0.0)
    parser.add_argument("--without", nargs="*", default=[])
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args(arguments)
    events, catalogue = load(given.data)
    texts = [
        f"{t}. {d}" if d else t
        for t, d in zip(catalogue.titles, catalogue.descriptions, strict=True)
    ]
    vectors = np.load(given.vectors) if given.vectors else None
    inputs = SourceInputs(catalogue, texts, vectors)
    split = last_events if given.scheme == "last" else after_a_date
    fit, labels = split(events, 1)
    names = [
        a.name for a in applicable_sources(fit, inputs, None, 8e9, 300.0)
        if a.kept and a.name not in given.without
    ]  # fmt: skip
    plan = TunedPlan({n: {} for n in names}, dict.fromkeys(names, 1.0))
    if given.tune:
        before, earlier = split(events, 2)
        plan = tune_sources(
            before, sampled(earlier, 2000), inputs, names,
            budget_seconds=given.tune, seed=1, workers=given.workers,
        )  # fmt: skip
        for outcome in plan.outcomes:
            print(outcome)
        print(f"fusion weights {plan.weights}; tuned in {plan.seconds:.0f} s")
    chosen = sampled(labels, given.users)
    print(f"{len(fit):,} events to fit, {len(chosen):,} test users, {fit.n_items:,} items")
    report(Bench(fit, inputs, chosen, 1, given.workers, 300), plan, 200, given.workers)


if __name__ == "__main__":
    main()
