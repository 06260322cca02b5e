"""How memory, time and disk of everything that touches all events of a night grow, up to tens of millions.

    python benchmarks/growth.py FOLDER [--millions 20 60] [--keep]

Events are written into FOLDER, a file for each of 60 days, a tenth as many users as events, 100,000 items;
they are a function of their number, written by DuckDB (the project's own generator simulates people and
takes a CPU minute for some millions). Then each size is looked at in a process of its own: tables are
ingested, loaded and looked through for leaks, windows cut, sources fitted on all events before the first
tested cut, recall of 400 groups and features of their candidates worked out, lists made for 1,000 users, and
the state of all users written. Printed for each step: anonymous memory at its peak (what no file backs, imports included) and after
it, seconds of processor time for a million events, and bytes on disk for an event: files of the folder and
the nameless ones that are mapped. FOLDER is emptied of each size when it is done, unless `--keep`: a later run
of the same size then begins with loading the tables that lie there, ingested.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.night_memory import Steps, kept_on_disk

ITEMS, DAYS, USERS_A_MILLION = 100_000, 60, 100_000
GROUPS, LISTED, DEPTH = 400, 1_000, 100
QUICK = {"als": {"iterations": 1, "factors": 64}, "ease": {"items": 2000}}
TABLES = "tables"
"""Folder of `work`, whole where it is there."""
FITTED = ("popular", "recent", "transitions", "item_item", "ease", "als")


def write(folder, events, days=DAYS, items=ITEMS, first_day=0):
    """Tables of a world; what a row holds is a function of its number alone."""
    import duckdb

    from recsys.storage.processors import bound_engine

    (folder / "events").mkdir(parents=True, exist_ok=True)
    (folder / "recsys.yaml").write_text(
        "data: {items: items.parquet, events: events}\nbudget_minutes: 10\n"
    )
    users = max(1, events * USERS_A_MILLION // 1_000_000)
    with duckdb.connect() as duck:
        bound_engine(duck)
        duck.execute("SET TimeZone = 'UTC'")
        duck.execute(
            f"COPY (SELECT 'i' || range AS item_id, 'Item number ' || lpad(range::VARCHAR, 8, '0') AS title,"
            f" 'kind ' || range % 40 AS category FROM range({items}))"
            f" TO '{folder}/items.parquet'"
        )
        for day in range(first_day, days):
            write_day(duck, folder, events // DAYS, day, users, items)


def write_day(duck, folder, count, day, users, items):
    """One day's file: skewed people and items, three types, 2 in 1,000 rows that break a rule."""
    chance = "(hash({}) / 18446744073709551616.0)"
    user = f"CAST(floor({users} * pow({chance.format('k * 3')}, 1.3)) AS BIGINT)"
    item = f"CAST(floor({items} * pow({chance.format('k * 3 + 1')}, 2)) AS BIGINT)"
    duck.execute(
        f"COPY (SELECT 'user-' || {user} AS user_id, CASE WHEN k % 1000 < 2 THEN 'nowhere' ELSE"
        f" 'i' || {item} END AS item_id, CASE k % 8 WHEN 0 THEN 'purchase' WHEN 1 THEN 'click'"
        f" WHEN 2 THEN 'click' ELSE 'view' END AS event_type,"
        f" to_timestamp({1_700_006_400 + day * 86_400} + (k - {day * count}) * 86399.0 / {count})"
        f" AS timestamp, 'e' || k AS event_id"
        f" FROM (SELECT range AS k FROM range({day * count}, {(day + 1) * count})))"
        f" TO '{folder}/events/{day:03d}.parquet' (FORMAT parquet, COMPRESSION zstd)"
    )


def on_disk(folder):
    """Bytes of a folder's files, and of nameless ones that this process maps."""
    named = sum(f.stat().st_blocks * 512 for f in folder.rglob("*") if f.is_file())
    mapped = re.findall(
        rf"^(\w+)-(\w+) .* {re.escape(str(folder.resolve()))}/.* \(deleted\)$",
        Path("/proc/self/maps").read_text(),
        re.MULTILINE,
    )
    return named + sum(int(high, 16) - int(low, 16) for low, high in mapped)


def look(folder):
    """Each step's figures as a line of JSON, as soon as it is done."""
    import implicit.cpu.als  # noqa: F401
    import numpy as np

    from recsys.data_schemas.config import load_config
    from recsys.encoder.text import item_texts
    from recsys.evaluation.data_leaks.examine import examine
    from recsys.features.feature_set import FeatureSet
    from recsys.features.rows import ANY_POSITION, BatchInputs, Rows
    from recsys.features.state import OnlineState
    from recsys.features.time_buckets import BUCKETS
    from recsys.ingestion.tables.ingest import ingest
    from recsys.ingestion.tables.load import load_tables
    from recsys.retrieval.candidates import CandidateGenerator
    from recsys.retrieval.fitted_source import SourceInputs
    from recsys.storage.processors import processors
    from recsys.storage.stages.cost import give_memory_back
    from recsys.training.groups import collect, history_reader
    from recsys.training.night.data_leaks import logged_data
    from recsys.training.sources.fit_source import fit_one
    from recsys.training.windows import moments_at, plan_windows

    steps, workers, aside = Steps(), processors(), folder / "work"
    config = load_config(folder / "recsys.yaml")
    aside.mkdir(exist_ok=True)

    def said(name, began):
        peak, held, seconds = steps.found[name]
        print(json.dumps({"step": name, "peak": peak, "held": held, "seconds": seconds,
                          "wall": time.time() - began, "disk": on_disk(folder)}),
              flush=True)  # fmt: skip

    def step(name, work):
        began = time.time()
        with steps.step(name):
            made = work()
            give_memory_back()  # as a night does between its stages
        said(name, began)
        return made

    with kept_on_disk(aside):
        if not (aside / TABLES).is_dir():
            step("ingest", lambda: ingest(config, aside / TABLES))
        tables = step("load", lambda: load_tables(aside / TABLES, config))
        events, catalogue = tables.interactions, tables.catalogue
        print(json.dumps({"events": len(events), "users": events.n_users}), flush=True)
        step("leaks", lambda: examine(logged_data(tables, aside / TABLES, config)))
        windows = step("windows", lambda: plan_windows(events, config.windows, ordinal_until=None))
        cut = windows.test[0]
        histories = step("histories", events.histories)

        def drawn():
            found = moments_at(events, cut, windows.label_end(cut))
            return found.sample(LISTED, np.random.default_rng(0).random(len(found)))

        moments = step("moments", drawn)
        before = events.before(cut)
        extra = SourceInputs(catalogue, item_texts(catalogue, config.encoder.template), None)
        sources = {
            name: step(name, lambda name=name: fit_one(
                name, before, extra, QUICK.get(name, {}), seed=0, workers=workers))
            for name in FITTED
        }  # fmt: skip
        stage = CandidateGenerator(sources, DEPTH, DEPTH)
        few = moments.take(np.arange(min(GROUPS, len(moments))))
        nothing = np.zeros(catalogue.n_items, np.uint8)
        groups = step("groups", lambda: collect(
            few, history_reader(histories, few), stage, nothing, limit=DEPTH, workers=workers))  # fmt: skip
        features = FeatureSet.default(
            catalogue, events.kinds, (), config.features, resolution="seconds", users=None,
            impressions=False,
        )  # fmt: skip
        owner = np.repeat(np.arange(len(few)), np.diff(groups.offsets))
        rows = Rows(
            offsets=groups.offsets, user=few.user, now=few.time,
            position=np.full(len(few), ANY_POSITION, np.int64), items=groups.items,
            signals={}, history_of=history_reader(histories, few), context={},
        )  # fmt: skip
        assert len(owner) == len(rows.items)
        known = BatchInputs(interactions=events, catalogue=catalogue, bucket=config.features.bucket)
        step("counters", lambda: features.batch(rows, known))
        step("lists", lambda: collect(
            moments, history_reader(histories, moments), stage, nothing, limit=DEPTH,
            workers=workers))  # fmt: skip

        def state():
            made = OnlineState.build(
                events, catalogue, bucket_us=BUCKETS[config.features.bucket],
                windows_us=[BUCKETS["day"]], log_position=-1,
            )  # fmt: skip
            made.save(aside / "state")

        step("state", state)


def measure(folder, millions):
    """The lines that `look` gave for a world of this size; it is written first."""
    if (folder / "work" / TABLES).is_dir():
        size = on_disk(folder)
        print(
            f"{millions} million events: the tables of an earlier run, {size / 1e6:,.0f} MB",
            flush=True,
        )
    else:
        began = time.time()
        write(folder, millions * 1_000_000)
        size = on_disk(folder)
        print(f"{millions} million events: written in {time.time() - began:,.0f} s, {size / 1e6:,.0f} MB", flush=True)  # fmt: skip
    command = [sys.executable, __file__, str(folder), "--alone"]
    found, facts = {}, {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            told = json.loads(line)
            if "step" not in told:
                facts = told
                continue
            found[told["step"]] = told
            print(
                f"{millions:4} M {told['step']:12} peak {told['peak']:7,.0f} MB, then {told['held']:7,.0f} MB,"
                f" {told['seconds'] / millions:7.2f} s of processor a million, {told['wall']:7.0f} s,"
                f" disk {(told['disk'] - size) / millions / 1e6:6.1f} bytes an event",
                flush=True,
            )
    if child.returncode:
        sys.exit(f"the process ended with {child.returncode}")
    print(f"{facts['events']:,} events of {facts['users']:,} users", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--millions", type=int, nargs="+", default=[20, 60])
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        return look(args.folder)
    print(f"load {os.getloadavg()[0]:.1f}")
    by_size = {}
    for millions in args.millions:
        place = args.folder / f"{millions}m"
        try:
            by_size[millions] = measure(place, millions)
        finally:
            if not args.keep:
                shutil.rmtree(place, ignore_errors=True)
    low, high = min(by_size), max(by_size)
    if low < high:
        for name, first in by_size[low].items():
            rise = (by_size[high][name]["peak"] - first["peak"]) * 2**20
            print(f"{name:12} {rise / (high - low) / 1e6:6.1f} bytes of memory for a further event")
    return 0


if __name__ == "__main__":
    sys.exit(main())
