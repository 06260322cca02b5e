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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recsys.data_schemas.config import load_config
from recsys.evaluation.uncertainty import bootstrap
from recsys.operations.evaluation_events import read_events
from recsys.operations.open_release import load_release
from recsys.operations.release_queries import fold
from recsys.query import RankingQuery

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


def ndcg(ids, wanted, index_of):
    places = [place for place, name in enumerate(ids) if index_of(name) in wanted]
    ideal = sum(1 / np.log2(2 + n) for n in range(min(K, len(wanted))))
    return sum(1 / np.log2(2 + place) for place in places) / ideal


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
    events, index_of = held.events, loaded.state.catalogue.index_of
    asked = sittings(events, args.gap_hours * HOUR)
    values = {name: np.empty(len(asked)) for name in [*WAITS, "counted"]}
    for n, (user, last, wanted) in enumerate(asked):
        moments = {name: last + wait for name, wait in WAITS.items()}
        moments["counted"] = loaded.grid.after(last)
        for name, now in moments.items():
            ids = loaded.answer(RankingQuery(str(events.user_ids[user]), now, k=K)).item_ids
            values[name][n] = ndcg(ids, wanted, index_of)
    users = np.array([user for user, _, _ in asked])
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
