"""Private memory of what a night does with all events, step by step: how much of it grows with them?

    recsys generate --users 100000 --items 10000 --days 30 --events-per-user 12 --to SMALL
    python benchmarks/night_memory.py SMALL/recsys.yaml [LARGE/recsys.yaml …] [--tables FOLDER …]

Each world is looked at in a process of its own: tables are ingested (unless `--tables` names those that
were, one for each config), loaded, cut into windows, and every collaborative source is fitted; counters of 400
lists are read, histories of 1,000 moments, popularity at the moments, and the state of all users is
written. Anonymous memory is sampled every 20 ms: the peak of a step less what the process held after its
imports. What is mapped from files is not counted: the kernel takes it back when it needs the room.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

LISTS, LENGTH = 400, 200


def anonymous():
    """MB that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise SystemExit("needs Linux")


class Steps:
    """Peaks by step, of a thread that looks."""

    def __init__(self):
        self.peak, self.base, self.found = 0.0, 0.0, {}
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self):
        while True:
            self.peak = max(self.peak, anonymous())
            time.sleep(0.02)

    @contextmanager
    def step(self, name):
        self.peak, began = anonymous(), time.process_time()
        yield
        peak = max(self.peak, anonymous()) - self.base
        self.found[name] = (peak, anonymous() - self.base, time.process_time() - began)


def look(config_file, tables_folder):
    import implicit.cpu.als  # noqa: F401
    import numpy as np
    import scipy.sparse.linalg  # noqa: F401

    from recsys.data_schemas.config import load_config
    from recsys.encoder.text import item_texts
    from recsys.evaluation.popularity_at import PopularityAt
    from recsys.features.feature_set import FeatureSet
    from recsys.features.rows import ANY_POSITION, BatchInputs, Rows
    from recsys.features.state import OnlineState
    from recsys.features.time_buckets import BUCKETS
    from recsys.ingestion.tables.ingest import ingest
    from recsys.ingestion.tables.load import load_tables
    from recsys.retrieval.fitted_source import SourceInputs
    from recsys.training.groups import history_reader
    from recsys.training.sources.fit_source import fit_one
    from recsys.training.windows import moments_at, plan_windows

    config = load_config(config_file)
    steps = Steps()
    with tempfile.TemporaryDirectory(dir=Path(config_file).parent) as aside, kept_on_disk(aside):
        steps.base = anonymous()
        folder = tables_folder or Path(aside) / "tables"
        if tables_folder is None:
            with steps.step("ingest"):
                ingest(config, folder)
        with steps.step("load"):
            tables = load_tables(folder, config)
        events, catalogue = tables.interactions, tables.catalogue
        with steps.step("windows"):
            windows = plan_windows(events, config.windows, ordinal_until=None)
        cut = windows.test[0]
        with steps.step("histories"):
            histories = events.histories()
        with steps.step("moments"):
            moments = moments_at(events, cut, windows.label_end(cut))
            moments = moments.sample(1000, np.random.default_rng(0).random(len(moments)))
            read = history_reader(histories, moments)
            lengths = [len(read(m).item) for m in range(len(moments))]
        before = events.before(cut)
        extra = SourceInputs(catalogue, item_texts(catalogue, config.encoder.template), None)
        quick = {"als": {"iterations": 1, "factors": 64}, "ease": {"items": 2000}}
        for name in ("popular", "recent", "transitions", "item_item", "ease", "als"):
            with steps.step(name):
                fit_one(name, before, extra, quick.get(name, {}), seed=0, workers=2)
        with steps.step("counters"):
            few = moments.take(np.arange(min(LISTS, len(moments))))
            features = FeatureSet.default(
                catalogue, events.kinds, (), config.features, resolution="seconds", users=None,
                impressions=tables.impressions is not None,
            )  # fmt: skip
            items = np.random.default_rng(0).integers(0, catalogue.n_items, len(few) * LENGTH)
            rows = Rows(
                offsets=np.arange(len(few) + 1) * LENGTH, user=few.user, now=few.time,
                position=np.full(len(few), ANY_POSITION, np.int64), items=items.astype(np.int32),
                signals={}, history_of=history_reader(histories, few), context={},
            )  # fmt: skip
            known = BatchInputs(
                interactions=events, catalogue=catalogue, bucket=config.features.bucket,
                users=None, impressions=tables.impressions,
            )  # fmt: skip
            features.batch(rows, known)
        with steps.step("popularity"):
            PopularityAt.of(events, moments.time, catalogue.n_items)
        with steps.step("state"):
            state = OnlineState.build(
                events, catalogue, bucket_us=BUCKETS[config.features.bucket],
                windows_us=[BUCKETS["day"]], log_position=-1,
                impressions=tables.impressions,
            )  # fmt: skip
            state.save(Path(aside) / "state")
        facts = {"events": len(events), "users": events.n_users, "items": catalogue.n_items}
        print(json.dumps({**facts, "steps": steps.found, "lengths": sum(lengths)}))


@contextmanager
def kept_on_disk(folder):
    """As a night has it."""
    try:
        from recsys.features.on_disk import arrays_in
    except ImportError:
        yield
        return
    with arrays_in(Path(folder)):
        yield


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("configs", type=Path, nargs="+")
    parser.add_argument("--tables", type=Path, nargs="*")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    tables = args.tables or [None] * len(args.configs)
    if args.alone:
        return look(args.configs[0], tables[0])
    found = []
    for config, folder in zip(args.configs, tables, strict=True):
        command = [sys.executable, __file__, str(config), "--alone"]
        command += [] if folder is None else ["--tables", str(folder)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found.append(json.loads(said.splitlines()[-1]))
    print("MB at the peak of a step (and after it), seconds of processor time")
    for name in found[0]["steps"]:
        cells = [
            f"{peak:8,.0f} ({held:6,.0f}) {s:6.1f} s"
            for peak, held, s in (f["steps"][name] for f in found)
        ]
        more = found[-1]["events"] - found[0]["events"]
        rise = (found[-1]["steps"][name][0] - found[0]["steps"][name][0]) * 2**20
        print(f"{name:12}", *cells, f"{rise / more:6.0f} bytes an event" if more else "")
    print("events", *[f"{f['events']:,} of {f['users']:,} users" for f in found])
    return 0


if __name__ == "__main__":
    sys.exit(main())
