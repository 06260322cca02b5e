"""What a second night costs after one more day of events, stage by stage, as a share of the first.

    python benchmarks/second_night.py DATA TO [--share 0.01] [--items 0] [--minutes 30]

DATA holds items.parquet and events.parquet. The last events of a share of the users are held back for
the first night and come a day after all others for the second, with `--items` new items beside them. No
full refit is due (`sources.full_refit: never`). Seconds are wall seconds of one machine in one run, so
their ratio says more than they do.
"""

import argparse
import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.quality import last_events
from recsys.data_schemas import columns as c

ROOT = Path(__file__).resolve().parents[1]
DAY = 86_400_000_000
STAGE = re.compile(r"Z ([a-z_-]+): ([\d.]+) s, peak ([\d,]+) MB")


def lay_out(data, to, share, minutes):
    """Tables without what is held back, a config; the held-back events, a day after all others."""
    to.mkdir(parents=True)
    pq.write_table(pq.read_table(data / "items.parquet"), to / "items.parquet")
    events = pq.read_table(data / "events.parquet")
    rows = np.flatnonzero(last_events(events))
    held = np.zeros(len(events), bool)
    held[np.random.default_rng(1).permutation(rows)[: max(1, round(share * len(rows)))]] = True
    pq.write_table(events.filter(pa.array(~held)), to / "events.parquet")
    later = events.filter(pa.array(held))
    times = events[c.TIMESTAMP].cast(pa.timestamp("us", "UTC"))
    end = max(times.cast(pa.int64()).to_numpy()) + DAY
    when = pa.array(np.full(len(later), end), pa.timestamp("us", "UTC"))
    place = events.schema.get_field_index(c.TIMESTAMP)
    later = later.set_column(place, c.TIMESTAMP, when.cast(events.schema.types[place]))
    (to / "recsys.yaml").write_text(
        "data: {items: items.parquet, events: events.parquet}\n"
        f"budget_minutes: {minutes:g}\nsources: {{full_refit: never}}\n"
    )
    return later


def add_items(folder, count):
    """Copies of some items under new ids, with a word more in their titles."""
    items = pq.read_table(folder / "items.parquet")
    chosen = items.take(np.random.default_rng(2).permutation(len(items))[:count])
    for name, word in ((c.ITEM_ID, "new-"), (c.TITLE, "Brand new ")):
        changed = pa.array([f"{word}{value}" for value in chosen[name].to_pylist()])
        chosen = chosen.set_column(chosen.schema.get_field_index(name), name, changed)
    pq.write_table(pa.concat_tables([items, chosen.cast(items.schema)]), folder / "items.parquet")


def nightly(folder):
    """(wall seconds, all it said) of a night in a process of its own; what fails ends the benchmark."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "recsys", "nightly", "-c", str(folder / "recsys.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    wall = time.perf_counter() - began
    text = done.stdout + done.stderr
    if done.returncode not in (0, 4):
        sys.exit(text)
    return wall, text


def night(folder):
    """(wall seconds, stage → seconds, stage → peak MB, its lines about encoding) of a night."""
    wall, text = nightly(folder)
    seconds, peak = defaultdict(float), defaultdict(float)
    for name, spent, memory in STAGE.findall(text):
        seconds[name] += float(spent)
        peak[name] = max(peak[name], float(memory.replace(",", "")))
    return wall, seconds, peak, re.findall(r"vectors: .*cache.*", text)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("to", type=Path)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--items", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=30)
    given = parser.parse_args()
    later = lay_out(given.data, given.to, given.share, given.minutes)
    first = night(given.to)
    events = pq.read_table(given.to / "events.parquet")
    pq.write_table(pa.concat_tables([events, later]), given.to / "events.parquet")
    if given.items:
        add_items(given.to, given.items)
    second = night(given.to)
    print(f"{len(events):,} events, then {len(later):,} more and {given.items:,} items")
    print(f"{'stage':24s}{'first s':>10s}{'second s':>10s}{'share':>8s}{'peak MB':>10s}")
    for name in [*first[1], *(n for n in second[1] if n not in first[1])]:
        a, b = first[1].get(name, 0.0), second[1].get(name, 0.0)
        share = f"{b / a:8.0%}" if a else f"{'':8s}"
        print(f"{name:24s}{a:10.1f}{b:10.1f}{share}{max(first[2][name], second[2][name]):10,.0f}")
    print(f"{'the night, wall':24s}{first[0]:10.1f}{second[0]:10.1f}{second[0] / first[0]:8.0%}")
    print(*second[3], sep="\n")


if __name__ == "__main__":
    main()
