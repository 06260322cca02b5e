"""Counts of pairs by threads and in parts, beside the other sums over all events: what would parts spare?

    python benchmarks/pairs_in_parts.py FOLDER [--millions 2] [--items 100000] [--parts 8] [--spark 'local[2]']

A world as `benchmarks/growth.py` writes it into FOLDER. First each sum over all events that a night makes on
its own machine, in seconds of processor a million events: where it is small beside what would have to be
written for other machines, parts spare nothing. Then both sources of pairs, by one thread and in parts in one
process, in two, and on Spark if asked for: seconds of all processors (without Spark's) and of the night's own
process, its anonymous memory at the peak beyond what it held, and whether the bytes are the same. Last how
many pairs parts of users would leave to be added up instead. The exit code is 1 where bytes differ.
"""

import argparse
import resource
import sys
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.growth import write
from benchmarks.night_memory import Steps, kept_on_disk
from recsys.data_schemas.config import SparkConfig, load_config
from recsys.features import state
from recsys.features.feature_set import FeatureSet
from recsys.features.interactions import DAY, EMPTY_HISTORY
from recsys.features.rows import ANY_POSITION, BatchInputs, Rows
from recsys.ingestion.tables.ingest import ingest
from recsys.ingestion.tables.load import load_tables
from recsys.retrieval.collaborative import ease
from recsys.retrieval.collaborative.pair_counts import PairEvents
from recsys.retrieval.collaborative.popularity import decayed_counts
from recsys.retrieval.fitted_source import (
    SourceInputs,
    positive,
    strengths,
    support,
    user_rows,
    weight_scale,
)
from recsys.storage.engines import LocalEngine
from recsys.storage.engines.scratch_parts import PartsPlace, UnfinishedWork, unfinished
from recsys.storage.scratch import ScratchFolder
from recsys.training.sources.fit_source import fit_one

NAMES = ("item_item", "transitions")
LISTS, LENGTH = 4_000, 200


def spent(who):
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


class SumsClock:
    """Says what a step took for each million of events."""

    def __init__(self, millions, steps, say=print):
        self.millions, self.steps, self.say = millions, steps, say

    def warm(self):
        """The same without a word, before anything counts: kernels are compiled by their first call."""
        return SumsClock(self.millions, self.steps, say=lambda *_, **__: None)

    @contextmanager
    def of(self, name):
        began = time.perf_counter()
        own, others = spent(resource.RUSAGE_SELF), spent(resource.RUSAGE_CHILDREN)
        held = self.steps.base = 0.0
        with self.steps.step(name):
            held = self.steps.peak
            yield
        own = spent(resource.RUSAGE_SELF) - own
        others = spent(resource.RUSAGE_CHILDREN) - others
        self.say(
            f"{name:34} {(own + others) / self.millions:7.3f} s of processors a million, here"
            f" {own / self.millions:7.3f}; {(time.perf_counter() - began) / self.millions:7.2f} s by the"
            f" clock; memory + {self.steps.found[name][0] - held:5.0f} MB",
            flush=True,
        )


def sums_of_one_machine(clock, events, catalogue, config):
    """Each as a fit or a snapshot makes it."""
    with clock.of("popular, recent: decayed counts"):
        decayed_counts(events, int(events.time.max()), 30.0)
    with clock.of("EASE: rows of users"):
        liked = positive(events)
        chosen = ease.most_supported(support(events), 8000)
        place = np.full(events.n_items, -1, np.int32)
        place[chosen] = np.arange(len(chosen), dtype=np.int32)
        strength = strengths(liked, weight_scale(events))
        rows = user_rows(liked, len(chosen), lambda part: (place[liked.item[part]], strength[part]))
    with clock.of(f"EASE: Gram matrix of {len(chosen):,}"):
        gram = rows.T @ rows
    del rows, gram
    features, rows, known = lists_at_one_time(events, catalogue, config)
    with clock.of(f"features of {LISTS:,} lists"):
        features.batch(rows, known)
    few = BatchInputs(interactions=events.before(0), catalogue=catalogue, bucket=known.bucket)
    with clock.of("the same without events"):
        features.batch(rows, few)
    with clock.of("state: histories"):
        state._histories_by_hash(events)
    with clock.of("state: counters of all items"):
        state._count_all(events, None, catalogue, DAY)


def lists_at_one_time(events, catalogue, config):
    """(features, 4,000 lists of 200 items at the data's end, tables that counters are read from)"""
    items = (catalogue.n_items * np.random.default_rng(0).random((LISTS, LENGTH)) ** 2).astype(
        np.int32
    )
    rows = Rows(
        offsets=np.arange(LISTS + 1) * LENGTH,
        user=np.zeros(LISTS, np.int32),
        now=np.full(LISTS, events.time.max() + 1),
        position=np.full(LISTS, ANY_POSITION, np.int64),
        items=np.sort(items, 1).ravel(),
        signals={},
        history_of=lambda _: EMPTY_HISTORY,
        context={},
    )
    features = FeatureSet.default(
        catalogue, events.kinds, (), config.features, resolution="seconds", users=None,
        impressions=False,
    )  # fmt: skip
    known = BatchInputs(interactions=events, catalogue=catalogue, bucket=config.features.bucket)
    return features, rows, known


def left_by_parts_of_users(events, parts):
    """Pairs that parts of users, each summed, would hold together, and those of all."""
    from scipy.sparse import csr_matrix

    given = PairEvents.of(events)
    ones = np.ones(len(given.item), np.float32)
    shape = (len(given.bounds) - 1, events.n_items)
    seen = csr_matrix((ones, given.item, given.bounds), shape=shape)
    edges = np.linspace(0, shape[0], parts + 1).astype(int)
    held = 0
    for low, end in pairwise(edges.tolist()):
        some = seen[low:end]
        held += sum(
            (some[:, first : first + 5000].T @ some).nnz for first in range(0, events.n_items, 5000)
        )
    return held


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--millions", type=float, default=2)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--spark", help="a master, such as local[2]")
    args = parser.parse_args()
    folder = args.folder / f"{args.millions:g}m"
    if not (folder / "tables").exists():
        write(folder, int(args.millions * 1e6), items=args.items)
        ingest(load_config(folder / "recsys.yaml"), folder / "tables")
    clock, differs = SumsClock(args.millions, Steps()), 0
    (folder / "aside").mkdir(exist_ok=True)
    with kept_on_disk(folder / "aside"):
        config = load_config(folder / "recsys.yaml")
        tables = load_tables(folder / "tables", config)
        events = tables.interactions
        inputs = SourceInputs(tables.catalogue, [""] * events.n_items, None)
        print(f"{len(events):,} events of {events.n_users:,} users, {events.n_items:,} items")
        few = events.before(int(events.time[20_000]))
        for name in NAMES:
            fit_one(name, few, inputs, {}, seed=0, workers=1)
        sums_of_one_machine(clock.warm(), few, tables.catalogue, config)
        sums_of_one_machine(clock, events, tables.catalogue, config)
        engines = {f"{n} process{'es' * (n > 1)}": LocalEngine(n) for n in (1, 2)}
        if args.spark:
            from recsys.storage.engines.spark import SparkEngine

            engines[args.spark] = SparkEngine.open(SparkConfig(master=args.spark))
        for name in NAMES:

            def fitted(elsewhere=None, name=name):
                return fit_one(
                    name, events, inputs, {}, seed=0, workers=1, elsewhere=elsewhere
                ).saved()[1]

            with clock.of(f"{name}: what parts are asked"):
                PairEvents.of(events)
            with clock.of(f"{name}: 1 thread"):
                wanted = fitted()
            for told, engine in engines.items():
                place = PartsPlace(engine, ScratchFolder(str(folder / "scratch")), args.parts)
                with clock.of(f"{name}: {told}"), unfinished(place.scratch, name) as scratch:
                    found = fitted(UnfinishedWork(place, scratch))
                differs += any(found[key].tobytes() != wanted[key].tobytes() for key in wanted)
        whole, apart = (left_by_parts_of_users(events, parts) for parts in (1, args.parts))
        print(
            f"item_item in {args.parts} parts of users: {apart / len(events):.0f} pairs an event to be added"
            f" up to {whole / len(events):.0f}; as events an event is 12 bytes, a pair at least 8"
        )
    print("the same bytes" if not differs else f"OTHER BYTES, {differs} times")
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())
