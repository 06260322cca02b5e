"""The shipped commands on one more step, held back: warm and cold items, beside the night's own figure.

    python benchmarks/held_out_step.py DATA TO [--date 2018-06-10] [--users 0.3] [--minutes 12] [--asked 8000]
                                               [--cold 0.1] [--lists NAME=FILE ...]

A share of the items (`--cold`, a tenth) loses all events (their texts stay). What is held back is each user's last event
(ordinal data), or all first-time events from `--date` on. `recsys nightly` and `recsys recommend
--k 100` run on the rest in TO, with a config of data paths and `budget_minutes`; the lists are
scored on what was held back, apart for items with and without events, nDCG@10 and recall@100 in
the whole catalogue. Beside them the sources of content alone, asked for the same people through
the same release, and what the night said of itself. Intervals are 95 % by a bootstrap over users. A
TO that is there already is scored again with its lists.
"""

import argparse
import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.quality import COLUMNS, OURS, indexed, interval_cell, measured, truth_of
from benchmarks.second_night import nightly
from recsys.data_schemas import columns as c
from recsys.data_schemas.config import load_config
from recsys.operations.open_release import load_release

CONTENT = ("text", "bm25", "attributes")


def drawn(name, salt):
    """A number in [0, 1) of a name, the same on every machine."""
    return zlib.crc32((salt + name).encode()) % 1000 / 1000


def held_back(events, date):
    """(what is known, what is asked for)."""
    events = events.sort_values([c.USER_ID, c.TIMESTAMP], kind="stable")
    if date is None:
        last = ~events.duplicated(c.USER_ID, keep="last")
        return events[~last], events[last]
    later = events[c.TIMESTAMP] >= pd.Timestamp(date, tz="UTC")
    return events[~later], events[later]


def closed_up(events, end):
    """Ordinal histories without the holes that removed events leave: a day apart, ending together."""
    back = events.groupby(c.USER_ID).cumcount(ascending=False)
    return events.assign(**{c.TIMESTAMP: end - back * pd.Timedelta(days=1)})


def lay_out(data, to, given):
    items, events = (pd.read_parquet(data / f"{name}.parquet") for name in ("items", "events"))
    events = events[events[c.USER_ID].map(lambda user: drawn(user, "u") < given.users)]
    cold = {item for item in items[c.ITEM_ID] if drawn(item, "cold") < given.cold}
    known, asked = held_back(events, given.date)
    known = known[~known[c.ITEM_ID].isin(cold)]
    if given.date is None:
        known = closed_up(known, events[c.TIMESTAMP].max() - pd.Timedelta(days=1))
    pair = [c.USER_ID, c.ITEM_ID]
    seen = pd.MultiIndex.from_frame(known[pair])
    asked = asked[~pd.MultiIndex.from_frame(asked[pair]).isin(seen)].drop_duplicates(pair)
    to.mkdir(parents=True)
    items.to_parquet(to / "items.parquet", index=False)
    known.sort_values([c.TIMESTAMP, c.USER_ID], kind="stable").to_parquet(
        to / "events.parquet", index=False
    )
    asked.assign(cold=asked[c.ITEM_ID].isin(cold)).to_parquet(to / "asked.parquet", index=False)
    users = asked[[c.USER_ID]].drop_duplicates()
    users = users[users[c.USER_ID].isin(known[c.USER_ID])]
    users.sample(min(len(users), given.asked), random_state=1).to_parquet(
        to / "users.parquet", index=False
    )
    (to / "recsys.yaml").write_text(
        "data: {items: items.parquet, events: events.parquet}\n"
        f"budget_minutes: {given.minutes:g}\n"
    )


def recommended(to):
    command = ["recommend", "-c", "recsys.yaml", "--users", "users.parquet", "--k", "100"]
    subprocess.run(
        [sys.executable, "-m", "recsys", *command, "--out", "lists.parquet"], cwd=to, check=True
    )


def scored(lists, asked, events):
    """Print each system's metrics and ours less its; {system: {metric: [value, low, high], …}}."""
    truth = pa.Table.from_pandas(asked[[c.USER_ID, c.ITEM_ID]], preserve_index=False)
    systems = indexed(lists, truth, events)
    found, result = measured(systems, truth_of(truth, systems.codes)), {}
    print(
        "| system | nDCG@10 | recall@10 | recall@100 | recsys less this, nDCG@10 | recall@100 |\n"
        "|---|---|---|---|---|---|"
    )
    for place, title in enumerate(lists):
        of = range(place * len(COLUMNS), (place + 1) * len(COLUMNS))
        less = found.differences(np.array([[column % len(COLUMNS), column] for column in of]))
        cells = [interval_cell(found, column) for column in of]
        cells += [interval_cell(less, column) for column in (0, 2)] if place else ["", ""]
        print(f"| {title} | " + " | ".join(cells) + " |", flush=True)
        result[title] = {name: found.interval(n)[:3] for name, n in zip(COLUMNS, of, strict=True)}
        if place:
            result[title] |= {
                f"recsys less this, {name}": less.interval(n)[:3] for n, name in enumerate(COLUMNS)
            }
    return result


def content_lists(loaded, users):
    """Title of a source → its own lists of a hundred, as a table."""
    catalogue, now, found = loaded.state.catalogue, loaded.moment, {}
    for user in users:
        history = loaded.state.history(user, now)
        mask = catalogue.blocked.copy()
        mask[history.item] = 1
        for name in CONTENT:
            source = loaded.recall.proposing.get(name)
            if source is not None:
                rows = source.recall(history, 100, now, mask).items
                found.setdefault(name, []).append([catalogue.id_of(int(i)) for i in rows])
    return {
        f"{name} alone": pa.table({c.USER_ID: users, c.ITEM_IDS: lists})
        for name, lists in found.items()
    }


def named_file(text):
    """NAME=FILE as (name, path)."""
    name, given, path = text.partition("=")
    if not (name and given and Path(path).is_file()):
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected NAME=FILE of a file that is there"
        )
    return name, Path(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("to", type=Path)
    parser.add_argument("--date")
    parser.add_argument("--users", type=float, default=1.0)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--asked", type=int, default=8000)
    parser.add_argument("--cold", type=float, default=0.1, help="share of items without events")
    parser.add_argument(
        "--lists", type=named_file, nargs="*", default=[], metavar="NAME=FILE",
        help="further lists of the same users, scored beside ours",
    )  # fmt: skip
    given = parser.parse_args()
    to = given.to.resolve()
    if not to.exists():
        lay_out(given.data, to, given)
        print(f"night: {nightly(to)[0]:.0f} s", flush=True)
        recommended(to)
    users = pd.read_parquet(to / "users.parquet")[c.USER_ID].tolist()
    asked = pd.read_parquet(to / "asked.parquet")
    asked = asked[asked[c.USER_ID].isin(users)]
    events = pq.read_table(to / "events.parquet", columns=[c.USER_ID, c.ITEM_ID])
    config = load_config(to / "recsys.yaml")
    loaded = load_release(config)
    lists = {
        OURS: pq.read_table(to / "lists.parquet"),
        **content_lists(loaded, users),
        **{name: pq.read_table(path) for name, path in given.lists},
    }
    report = max((config.workspace_path / "reports").glob("*/report.json"))
    said = json.loads(report.read_text())["evaluation"]["systems"]["recsys"]
    print(
        "the night of itself: nDCG@10 {value:.4f} [{low:.4f}, {high:.4f}]".format(**said["ndcg@10"])
    )
    result = {}
    for name, rows in (
        ("all", asked),
        ("items with events", asked[~asked.cold]),
        ("items without events", asked[asked.cold]),
    ):
        if len(rows):
            print(f"{name}: {len(rows):,} events of {rows[c.USER_ID].nunique():,} users")
            result[name] = scored(lists, rows, events)
    (to / "scores.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
