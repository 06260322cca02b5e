"""Our lists beside RecTools' SASRec and EASE, implicit's ALS, LensKit's item-item and a blend of them.

All on one split: each user's last event held out, the full catalogue competing, items a user has
had left out of every list. Two steps, with a night of any length between them:

    python benchmarks/quality.py split DATA TO           # TO/: tables without the last events, truth
    recsys nightly   -c TO/recsys.yaml
    recsys recommend -c TO/recsys.yaml --all-users --k 100 --out TO/recs.parquet
    python benchmarks/quality.py compare TO --peers PEERS/bin/python [--users 10000] [--minutes 12]

The peers cannot share our environment (they want numpy 1 and pandas 2); theirs is made by

    python3.11 -m venv PEERS
    PEERS/bin/pip install -r benchmarks/quality_peers.txt

which brings a PyTorch of its own; to lend it ours, write the path of our site-packages folder into
PEERS/lib/python3.11/site-packages/lent.pth before installing. implicit, the peers with decayed
histories and the blend run in our environment; `quality_peers.py` says how they choose their
settings. Lists pass through Parquet files, so `compare` evaluates any recommend output on any such
folder; SASRec's training is cut off after --minutes of processor time.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.append(str(Path(__file__).resolve().parents[1]))

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import load_config
from recsys.evaluation import metrics
from recsys.evaluation.lists import RankedLists, Truth
from recsys.evaluation.uncertainty import Bootstrapped, bootstrap
from recsys.features.interactions import Longs

OURS = "recsys"
OWN_ENVIRONMENT = ("als", "als_decayed", "ease_decayed", "blend")
"""Peers that share our environment."""
PEERS = {
    "item_item": "LensKit item-item",
    "als": "implicit ALS",
    "ease": "RecTools EASE",
    "sasrec": "RecTools SASRec",
    "als_decayed": "implicit ALS, decayed history",
    "ease_decayed": "EASE, decayed history",
    "blend": "lambdarank over these two and item-item",
}
"""Name → title, the cheapest first; the blend after those whose lists it reads."""
COLUMNS = ("ndcg@10", "recall@10", "recall@100")
K = 100
DEEP = 200
"""Items asked of each peer, for the blend; K are evaluated."""
RESAMPLES = 1000
CONFIG = "data: {{items: items.parquet, events: events.parquet}}\nname: {name}\n"


# ---------------------------------------------------------------------------- split


def split(data: Path, to: Path) -> None:
    """Write the tables without each user's last event, the last events, and a config."""
    to.mkdir(parents=True, exist_ok=True)
    events = pq.read_table(data / "events.parquet")
    last = last_events(events)
    pq.write_table(pq.read_table(data / "items.parquet"), to / "items.parquet")
    pq.write_table(events.filter(pa.array(~last)), to / "events.parquet")
    pq.write_table(
        events.filter(pa.array(last)).select([c.USER_ID, c.ITEM_ID]), to / "truth.parquet"
    )
    name = "".join(letter if letter.isalnum() else "-" for letter in data.resolve().name)
    (to / "recsys.yaml").write_text(CONFIG.format(name=name), encoding="utf-8")
    print(f"{len(events) - last.sum():,} events to learn from, {last.sum():,} held out, in {to}")


def last_events(events: pa.Table) -> np.ndarray:
    """bool[E]: the last event of every user with two or more (ties: the later row)."""
    user = events[c.USER_ID].combine_chunks().dictionary_encode().indices.to_numpy()
    time = events[c.TIMESTAMP].cast(pa.timestamp("us", "UTC")).to_numpy().astype(np.int64)
    order = np.lexsort((time, user))
    ends = np.flatnonzero(np.diff(user[order], append=-1))
    counts = np.bincount(user)
    last = np.zeros(len(events), bool)
    last[order[ends]] = counts[user[order[ends]]] > 1
    return last


# ---------------------------------------------------------------------------- compare


def compare(given: argparse.Namespace) -> None:
    """Fit every peer, evaluate its lists and ours on the same users, print the table."""
    folder: Path = given.folder
    events = positive_events(folder)
    truth = test_users(pq.read_table(folder / "truth.parquet"), events, given.users)
    out = folder / "peers"
    out.mkdir(exist_ok=True)
    pq.write_table(events, out / "events.parquet")
    pq.write_table(truth.select([c.USER_ID]), out / "users.parquet")
    lists, costs = {}, {}
    for name in given.only:
        costs[name] = run_peer(name, given, out)
        lists[PEERS[name]] = pq.read_table(out / f"{name}.parquet")
    if given.recs or (folder / "recs.parquet").exists():
        lists = {OURS: pq.read_table(given.recs or folder / "recs.parquet"), **lists}
    systems = indexed(lists, truth, events)
    print(f"{len(events):,} positive events, {len(truth):,} users, {catalogue(folder):,} items")
    print(table(systems, truth_of(truth, systems.codes), costs, night_seconds(folder)))
    for name, facts in costs.items():
        print(f"{PEERS[name]}: {facts['settings']}")


def positive_events(folder: Path) -> pa.Table:
    """What the peers are given: the events that the config does not call a dislike, in order."""
    config = load_config(folder / "recsys.yaml")
    events = pq.read_table(config.path(config.data.events))
    kind = events[c.EVENT_TYPE].combine_chunks().dictionary_encode()
    value = np.full(len(events), np.nan)
    if c.VALUE in events.column_names:
        value = events[c.VALUE].to_numpy().astype(float)
    weight, _ = config.events.meaning().of(
        kind.dictionary.to_pylist(), kind.indices.to_numpy(), value
    )
    kept = events.filter(pa.array(weight > 0)).select([c.USER_ID, c.ITEM_ID, c.TIMESTAMP])
    return kept.sort_by(c.TIMESTAMP)


def test_users(truth: pa.Table, events: pa.Table, number: int) -> pa.Table:
    """A sample of the users who have a history and whose held-out item is new to them."""
    pairs = pa.table({n: events[n] for n in (c.USER_ID, c.ITEM_ID)})
    truth = truth.join(pairs, [c.USER_ID, c.ITEM_ID], join_type="left anti")
    truth = truth.filter(pc.is_in(truth[c.USER_ID], events[c.USER_ID])).sort_by(c.USER_ID)
    chosen = np.sort(np.random.default_rng(0).permutation(len(truth))[:number])
    return truth.take(pa.array(chosen))


def run_peer(name: str, given: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Fit one peer and write its lists; what an earlier call left is used with --keep."""
    lists = out / f"{name}.parquet"
    facts = lists.with_suffix(".json")
    if not (given.keep and facts.exists()):
        python = sys.executable if name in OWN_ENVIRONMENT else given.peers
        script = Path(__file__).with_name("quality_peers.py")
        settings = [
            "--k",
            str(DEEP),
            "--minutes",
            str(given.minutes),
            "--epochs",
            str(given.epochs),
        ]
        files = [out / "events.parquet", out / "users.parquet", lists]
        calm = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}  # waiting threads use no time
        subprocess.run([python, script, name, *files, *settings], check=True, env=calm)
    found: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8"))
    return found


class Systems:
    """Every system's lists as item codes, one row per test user."""

    def __init__(self, lists: list[RankedLists], codes: Mapping[str, int]) -> None:
        self.lists, self.codes = lists, codes


def indexed(lists: Mapping[str, pa.Table], truth: pa.Table, events: pa.Table) -> Systems:
    """Lists in the order of the test users; one with an item its user has had is refused."""
    codes: dict[str, int] = {}
    had: dict[str, set[str]] = {user: set() for user in truth[c.USER_ID].to_pylist()}
    rows = zip(events[c.USER_ID].to_pylist(), events[c.ITEM_ID].to_pylist(), strict=True)
    for user, item in rows:
        if user in had:
            had[user].add(item)
    ranked = []
    for name, found in lists.items():
        pairs = zip(found[c.USER_ID].to_pylist(), found[c.ITEM_IDS].to_pylist(), strict=True)
        of_user = {user: items[:K] for user, items in pairs if user in had}
        missing = [user for user in had if user not in of_user]
        if missing:
            sys.exit(f"{name} has no list for {len(missing):,} users, e.g. {missing[0]}")
        if any(not had[user].isdisjoint(items) for user, items in of_user.items()):
            sys.exit(f"{name} recommends items that their users have had")
        coded = [[codes.setdefault(item, len(codes)) for item in of_user[user]] for user in had]
        ranked.append(RankedLists.of(name, [(row, np.zeros(len(row))) for row in coded], K))
    for item in truth[c.ITEM_ID].to_pylist():
        codes.setdefault(item, len(codes))
    return Systems(ranked, codes)


def truth_of(truth: pa.Table, codes: Mapping[str, int]) -> Truth:
    """One group per user, in the order of `indexed`, with the items held out of the user's events."""
    users = truth[c.USER_ID].to_pylist()
    place = {user: number for number, user in enumerate(dict.fromkeys(users))}
    items = np.array([codes[item] for item in truth[c.ITEM_ID].to_pylist()])
    group, people = np.array([place[user] for user in users]), np.arange(len(place))
    return Truth.of(group, items, np.ones(len(items), np.int8), people, np.zeros(len(people)))


def measured(systems: Systems, truth: Truth) -> Bootstrapped:
    """Bootstrap over users of all metrics of all systems, `COLUMNS` of the first system first."""
    columns = []
    for lists in systems.lists:
        matched = metrics.match(truth, lists)
        columns += [
            metrics.ndcg(matched, 10),
            metrics.recall(matched, 10),
            metrics.recall(matched, K),
        ]
    return bootstrap(np.stack(columns, axis=1), truth.user, resamples=RESAMPLES, seed=0)


def table(
    systems: Systems, truth: Truth, costs: Mapping[str, Mapping[str, Any]], night: float | None
) -> str:
    """A Markdown table: metrics with their intervals, and what the fit took."""
    found = measured(systems, truth)
    titles = {title: costs[name] for name, title in PEERS.items() if name in costs}
    lines = [
        "| system | NDCG@10 | R@10 | R@100 | fit, processor s (wall s) | peak GB | NDCG@10 of recsys, less this |",
        "|---|---|---|---|---|---|---|",
    ]
    for place, lists in enumerate(systems.lists):
        cells = [
            interval_cell(found, place * len(COLUMNS) + offset) for offset in range(len(COLUMNS))
        ]
        cost = titles.get(lists.name)
        cells += [f"{cost['fit_processor_seconds']:.0f} ({cost['fit_seconds']:.0f})", f"{cost['peak_gb']:.1f}"] if cost else [
            f"the night: ({night:.0f})" if night else "–", "–"
        ]  # fmt: skip
        ours_first = systems.lists[0].name == OURS and place
        pair: Longs = np.array([[0, place * len(COLUMNS)]])
        cells.append(interval_cell(found.differences(pair), 0) if ours_first else "")
        lines.append(f"| {lists.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def interval_cell(found: Bootstrapped, column: int) -> str:
    """`.0909 (.0870–.0951)`."""
    value, low, high = found.interval(column)[:3]
    if value is None:
        return "–"
    digits = [f"{number:.4f}" for number in (value, low, high) if number is not None]
    return digits[0] if len(digits) == 1 else f"{digits[0]} ({digits[1]} to {digits[2]})"


def catalogue(folder: Path) -> int:
    return int(pq.read_metadata(folder / "items.parquet").num_rows)


def night_seconds(folder: Path) -> float | None:
    """Seconds of all stages that the workspace's newest run used; None without a run."""
    work = load_config(folder / "recsys.yaml").workspace_path
    runs = sorted((work / "uses").glob("*.json"))
    if not runs:
        return None
    used = {tuple(stage) for stage in json.loads(runs[-1].read_text(encoding="utf-8"))}
    markers = [work / "stages" / name / key / "stage.json" for name, key in used]
    return sum(float(json.loads(m.read_text(encoding="utf-8"))["seconds"]) for m in markers)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    splitting = steps.add_parser("split", help="hold out each user's last event")
    splitting.add_argument("data", type=Path, help="folder with items.parquet, events.parquet")
    splitting.add_argument("to", type=Path)
    comparing = steps.add_parser("compare", help="fit the peers and evaluate all lists")
    comparing.add_argument("folder", type=Path, help="what `split` made, after its night")
    comparing.add_argument("--recs", type=Path, help="our lists; FOLDER/recs.parquet by default")
    comparing.add_argument("--peers", help="the Python of the peers' environment")
    comparing.add_argument("--only", nargs="*", choices=tuple(PEERS), default=tuple(PEERS))
    comparing.add_argument("--users", type=int, default=10_000, help="test users, at random")
    comparing.add_argument("--minutes", type=float, default=12.0, help="processor time of SASRec")
    comparing.add_argument("--epochs", type=int, default=20, help="of SASRec, at most")
    comparing.add_argument("--keep", action="store_true", help="use lists of an earlier call")
    given = parser.parse_args(arguments)
    if given.step == "split":
        split(given.data, given.to)
    elif given.peers is None and set(given.only) - set(OWN_ENVIRONMENT):
        parser.error("--peers is needed: the Python of the peers' environment")
    else:
        compare(given)


if __name__ == "__main__":
    main()
