"""Candidates of a cut's moments, from threads and in parts: how long, and are they the same bytes?

    python benchmarks/moments_in_parts.py [--moments 2400] [--rounds 3] [--spark 'local[2]']

The demonstration's events, eight sources and random vectors of 384 numbers in the place of the text's. The
users are asked at the end of the data and at 30 earlier days, as often as it takes. Each way is taken in
turn, in every round; medians of the rounds are given, of the clock's seconds and of the processors' (without
Spark's), which a busy machine changes little, and the exit code is 1 where bytes differ. A process starts
anew for each cut of a night, so its start is counted.
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from recsys.data_schemas.config import SparkConfig, load_config
from recsys.encoder.text import item_texts
from recsys.encoder.tower import Tower
from recsys.evaluation.lists import Truth
from recsys.features.interactions import DAY
from recsys.ingestion.bundled import lay_out_movies
from recsys.ingestion.tables.ingest import ingest
from recsys.ingestion.tables.load import load_tables
from recsys.retrieval.fitted_source import SourceInputs
from recsys.storage.engines import LocalEngine
from recsys.storage.engines.scratch_parts import PartsPlace, unfinished
from recsys.storage.scratch import ScratchFolder
from recsys.training.groups import history_reader
from recsys.training.moment_parts import CandidatesAsked, MomentParts, Moments
from recsys.training.source_files import SourceFiles
from recsys.training.sources.fit_source import fit_one

NAMES = ("popular", "recent", "transitions", "item_item", "ease", "als", "bm25", "attributes")
CONFIG = "data: {items: data/items.parquet, events: data/events.parquet}\nclock: end_of_data\n"
ASK = CandidatesAsked(500, 200, {}, learn=True)


def world(folder, count):
    """(files of the sources, moments, what may not be listed)"""
    lay_out_movies(folder)
    (folder / "recsys.yaml").write_text(CONFIG)
    config = load_config(folder / "recsys.yaml")
    ingest(config, folder / "tables")
    tables = load_tables(folder / "tables", config)
    events, catalogue = tables.interactions, tables.catalogue
    vectors = np.random.default_rng(0).normal(size=(catalogue.n_items, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    extra = SourceInputs(catalogue, item_texts(catalogue, config.encoder.template), vectors)
    files = {}
    for name in NAMES:
        (folder / name).mkdir()
        fit_one(name, events, extra, {}, seed=0, workers=2).save(folder / name)
        files[name] = SourceFiles(folder / name)
    (folder / "tower").mkdir()
    Tower.plain(384, 20, len(events.kinds)).save(folder / "tower")
    np.save(folder / "vectors.npy", vectors)
    files["text"] = SourceFiles(folder, folder / "tower", int(events.time.max()))
    users = (np.arange(count) % events.n_users).astype(np.int32)
    days = np.arange(count) // events.n_users % 30
    group = np.arange(count)
    wanted = np.random.default_rng(1).integers(0, catalogue.n_items, count)
    truth = Truth.of(group, wanted, np.ones(count), users, events.time.max() + 1 - days * DAY)
    moments = Moments(truth, history_reader(events.histories(), truth))
    return files, moments, catalogue.blocked.copy()


def by_threads(workers):
    def made(files, moments, blocked):
        sources = {name: one.open() for name, one in files.items()}
        return ASK.collected(sources, moments, blocked, workers)

    return made


def in_parts(engine, folder, parts=None):
    def made(files, moments, blocked):
        place = PartsPlace(engine, ScratchFolder(str(folder / "scratch")), parts)
        with unfinished(place.scratch, "moments") as scratch:
            return MomentParts(place, scratch).candidates(files, moments, blocked, ASK)

    return made


def bytes_of(table):
    columns = [table.offsets, table.items, table.grade, *table.signals.values()]
    return b"".join(column.tobytes() for column in columns)


def processors_seconds():
    """Of this process and of those that it has started and that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--moments", type=int, default=2400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spark", help="a master, such as local[2]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="moments-") as place:
        folder = Path(place)
        asked = world(folder, args.moments)
        ways = {
            "1 thread": by_threads(1),
            "2 threads": by_threads(2),
            "1 process, 1 part": in_parts(LocalEngine(1), folder, 1),
            "1 process": in_parts(LocalEngine(1), folder),
            "2 processes": in_parts(LocalEngine(2), folder),
        }
        if args.spark:
            from recsys.storage.engines.spark import SparkEngine

            engine = SparkEngine.open(SparkConfig(master=args.spark))
            ways[args.spark] = in_parts(engine, folder)
        table = ways["1 thread"](*asked)  # kernels are compiled, files are cached
        wanted = bytes_of(table)
        print(f"{len(table.signals)} signals, {len(table.items) / args.moments:.0f} rows a moment")
        seconds, differs = {name: [] for name in ways}, 0
        spent = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, made in ways.items():
                began, used = time.perf_counter(), processors_seconds()
                differs += bytes_of(made(*asked)) != wanted
                seconds[name].append(time.perf_counter() - began)
                spent[name].append(processors_seconds() - used)
        for name, found in seconds.items():
            median = statistics.median(found)
            spread = f"{min(found):.1f} to {max(found):.1f}"
            own = statistics.median(spent[name])
            each = 1000 * own / args.moments
            print(
                f"{name}: {median:.1f} s ({spread}), of processors {own:.1f}, {each:.2f} ms a moment"
            )
        print("the same bytes" if not differs else f"OTHER BYTES, {differs} times")
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())
