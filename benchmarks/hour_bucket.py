"""What it costs to be asked inside an hour that the counters do not count yet.

    python benchmarks/hour_bucket.py SHOP/recsys.yaml LATER.parquet [--gap-hours 2] [--out hour.json]

Counters are kept by the hour, and a row counts whole hours only, so a list asked for a minute after
somebody's last event knows that event by every source and by no counter. The champion of the
workspace is asked for the same people with the same pasts: after each last event of a sitting
(nothing by that person for `--gap-hours` after it) 1 second, 10 minutes and 59 minutes later, and
at the next moment of the grid, at which everything is counted. What counts is nDCG@10 of the
first-time positives of that person's next sitting, in the whole catalogue. LATER holds events after
those the release was fitted on. Differences to the grid's moment are paired over queries, intervals
a bootstrap over users.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

from recsys.data_schemas.config import load_config
from recsys.evaluation.lists import Truth
from recsys.evaluation.metrics import match, ndcg
from recsys.evaluation.uncertainty import bootstrap
from recsys.operations.evaluation_events import read_events
from recsys.operations.open_release import load_release
from recsys.operations.release_queries import fold
from recsys.training.released_lists import lists_of_release

SECOND = 1_000_000
HOUR = 3600 * SECOND
WAITS = {"1 s": SECOND, "10 min": 600 * SECOND, "59 min": 59 * 60 * SECOND}
K = 10


def sittings(events, gap):
    """(user, time of a sitting's last event, items of the next sitting) of people who came back."""
    found = []
    for user in np.unique(events.user):
        rows = np.flatnonzero(events.user == user)
        time = events.time[rows]
        ends = np.flatnonzero(np.diff(time) > gap)
        seen = set()
        untils = [*ends[1:], len(rows) - 1][: len(ends)]
        for end, until in zip(ends, untils, strict=True):
            seen |= set(events.item[rows[: end + 1]].tolist())
            following = rows[end + 1 : until + 1]
            wanted = set(events.item[following[events.grade[following] > 0]].tolist()) - seen
            if wanted:
                found.append((user, int(time[end]), wanted))
    return found


def truth_of(asked):
    """What was done next, a group for each query."""
    sizes = [len(wanted) for _, _, wanted in asked]
    items = np.array([item for _, _, wanted in asked for item in sorted(wanted)])
    user, time = (np.array([query[column] for query in asked]) for column in (0, 1))
    group = np.repeat(np.arange(len(asked)), sizes)
    return Truth.of(group, items, np.ones(len(items), np.int8), user, time)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("later", type=Path)
    parser.add_argument("--gap-hours", type=float, default=2.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    loaded = load_release(load_config(args.config))
    held = read_events(str(args.later), loaded)
    fold(loaded, held)
    events = held.events
    asked = sittings(events, args.gap_hours * HOUR)
    truth = truth_of(asked)
    names = [str(events.user_ids[user]) for user in truth.user]
    moments = {name: truth.time + wait for name, wait in WAITS.items()}
    moments["counted"] = np.array([loaded.grid.after(int(last)) for last in truth.time])
    values = {}
    for name, now in moments.items():
        lists = lists_of_release(loaded, names, now, K, name=name, caps={})
        values[name] = ndcg(match(truth, lists), K)
    users = truth.user
    report = {"queries": len(asked), "users": len(np.unique(users))}
    for name, found in values.items():
        report[name] = {"ndcg@10": round(float(found.mean()), 4)}
        if name != "counted":
            lost = (found - values["counted"])[:, None]
            drawn = bootstrap(lost, users, resamples=2000, seed=1).interval(0)
            report[name]["against counted"] = [
                round(float(x), 4) for x in (lost.mean(), drawn.low, drawn.high)
            ]
    print(json.dumps(report, indent=2))
    if args.out:
        args.out.write_text(json.dumps(report))


if __name__ == "__main__":
    main()
