"""Items nobody has seen: fine-tuned text against frozen text, BM25 and popularity.

A tenth of the items is removed from every fit, with all events on them. Each test user then has one
event on a removed item; it is ranked among all removed items by what the user did before it. Warm
items: each test user's last event on another item, removed from the fits too, ranked among all
items that were not removed. Intervals are bootstrapped over users.

    python benchmarks/cold_items.py DATA [--budget 300] [--users 1500] [--seed 0] [--out cold.json]

`--items N` keeps the N items with the most events, and `--budget 0 --encoder '{"max_steps": 10}'` counts
steps instead of seconds: what a busy machine can still compare.

DATA holds items.parquet and events.parquet in the project's own shape. A removed item has no events
to count; its "popularity" is the mean popularity of its words.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from recsys.data_schemas.config import EncoderConfig, EventsConfig
from recsys.encoder.encode import encode_items
from recsys.encoder.text import item_text
from recsys.encoder.tower import InterestSource, Tower
from recsys.features.interactions import History, Interactions
from recsys.training.finetune.fit import fit_encoder


def load(folder, template):
    """Texts and events of a data folder, items in the order of their ids."""
    items = duckdb.sql(
        f"select item_id, title, tags, category, description from '{folder}/items.parquet' order by 1"
    ).fetchall()
    place = {row[0]: i for i, row in enumerate(items)}
    texts = [item_text(template, *row[1:]) for row in items]
    names = [c[0] for c in duckdb.sql(f"describe from '{folder}/events.parquet'").fetchall()]
    value = "value" if "value" in names else "null"
    rows = duckdb.sql(
        f"select user_id, item_id, event_type, {value}::double, epoch_us(timestamp) "
        f"from '{folder}/events.parquet' order by 5, 1, 2"
    ).fetchall()
    users, user = np.unique([r[0] for r in rows], return_inverse=True)
    kinds, kind = np.unique([r[2] for r in rows], return_inverse=True)
    stars = np.array([np.nan if r[3] is None else r[3] for r in rows], np.float32)
    weight, grade = EventsConfig().meaning().of(list(kinds), kind, stars)
    events = Interactions(
        user.astype(np.int32),
        np.array([place[r[1]] for r in rows], np.int32),
        kind.astype(np.int16),
        np.array([r[4] for r in rows], np.int64),
        stars,
        weight,
        grade,
        np.arange(len(rows), dtype=np.int64),
        users.astype(object),
        tuple(map(str, kinds)),
        len(items),
    )
    return texts, events


def most_acted_on(texts, events, count):
    """Texts and events of the `count` items with the most events."""
    frequency = np.bincount(events.item, minlength=events.n_items)
    top = np.argsort(-frequency)[:count]
    place = np.full(events.n_items, -1)
    place[top] = np.arange(len(top))
    kept = events.where(place[events.item] >= 0)
    return [texts[i] for i in top], replace(
        kept, item=place[kept.item].astype(np.int32), n_items=len(top)
    )


def protocol(events, users, seed):
    """(removed items bool[n], events to fit on, cold tests, warm tests); a test is
    (history, item, time)."""
    rng = np.random.default_rng(seed)
    removed = np.zeros(events.n_items, bool)
    removed[rng.permutation(events.n_items)[: events.n_items // 10]] = True
    warm = events.where(~removed[events.item])
    last = {}
    for row in np.flatnonzero(warm.grade > 0):
        last[int(warm.user[row])] = int(row)
    held = rng.permutation(sorted(last.values()))[:users]
    keep = np.ones(len(warm), bool)
    keep[held] = False
    fit = warm.where(keep)
    histories = fit.histories()

    def tests(rows, source):
        found = []
        for row in rows:
            now = int(source.time[row])
            history = histories.of(int(source.user[row])).before(now)
            if (history.grade >= 0).any():
                found.append((history, int(source.item[row]), now, int(source.user[row])))
        return found

    rows = rng.permutation(np.flatnonzero(removed[events.item] & (events.grade > 0)))
    cold, seen = [], set()
    for test in tests(rows, events):
        if test[3] not in seen and len(cold) < users:
            seen.add(test[3])
            cold.append(test)
    return removed, fit, cold, tests(held, warm)


class BM25:
    """BM25 (k1 1.2, b 0.75) of an item's words against the words of the history's last items."""

    def __init__(self, texts):
        import bm25s

        self.words = bm25s.tokenize(texts, return_ids=False, show_progress=False)
        self.index = bm25s.BM25(k1=1.2, b=0.75)
        self.index.index(self.words, show_progress=False)

    def __call__(self, history: History, items, now):
        liked = history.item[history.grade >= 0][-10:]
        asked = [word for item in liked for word in set(self.words[item])]
        return self.index.get_scores(asked)[items] if asked else np.zeros(len(items))


def popularity(fit, texts, removed):
    """Events of an item; for a removed one, the mean popularity of its words."""
    count = np.bincount(fit.item, minlength=fit.n_items).astype(float)
    words = [set(text.lower().split()) for text in texts]
    total, seen = Counter(), Counter()
    for item in np.flatnonzero(~removed):
        for word in words[item]:
            total[word] += count[item]
            seen[word] += 1
    for item in np.flatnonzero(removed):
        known = [total[w] / seen[w] for w in words[item] if seen[w]]
        count[item] = np.mean(known) if known else 0.0
    return lambda history, items, now: count[items]


def ranks(score, tests, candidates):
    """Rank of each test's item among the candidates (ties share the mean rank)."""
    place = {int(item): i for i, item in enumerate(candidates)}
    found = []
    for history, item, now, _ in tests:
        scores = np.nan_to_num(np.asarray(score(history, candidates, now), float), nan=-np.inf)
        for seen in history.item.tolist():
            if seen != item and seen in place:
                scores[place[seen]] = -np.inf
        own = scores[place[item]]
        found.append((scores > own).sum() + ((scores == own).sum() - 1) / 2)
    return np.array(found)


def metrics(rank):
    """Per-user nDCG@10, recall@10 and recall@100."""
    return {
        "ndcg@10": np.where(rank < 10, 1 / np.log2(rank + 2), 0.0),
        "recall@10": (rank < 10).astype(float),
        "recall@100": (rank < 100).astype(float),
    }


def interval(values, seed=0, draws=1000):
    """Mean with the 95 % percentile interval of a bootstrap over users."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(draws)]
    return float(values.mean()), *map(float, np.quantile(means, (0.025, 0.975)))


def interest(source):
    """A source's score as a function of (history, items, now)."""
    return lambda history, items, now: source.score(history, items, now)[:, 0]


def encoders(texts, fit, arguments, folder):
    """Score functions of the frozen and of the fine-tuned encoder, and how the fit went."""
    until = int(fit.time.max())
    made, learned = {}, {}
    for name, tune in (("frozen", False), ("fine-tuned", True)):
        config = EncoderConfig(
            fine_tune=tune, **({"max_tokens": arguments.max_tokens} | arguments.encoder)
        )
        began = time.perf_counter()
        manifest = fit_encoder(
            fit,
            texts,
            config,
            fit_until=until,
            out_dir=folder / name,
            seed=arguments.seed,
            budget_seconds=(arguments.budget or None) if tune else None,
            vector_cache=folder / "cache",
        )
        fitted = time.perf_counter() - began
        vectors, _ = encode_items(folder / name, texts, folder / "cache")
        print(f"{name}: fit {fitted:.0f} s, encode {time.perf_counter() - began - fitted:.0f} s")
        source = InterestSource.open(folder / name, vectors, until)
        made[name] = interest(source)
        learned[name] = {
            k: v for k, v in manifest["learned"].items() if k not in ("losses", "validations")
        }
        if tune:
            plain = Tower.plain(vectors.shape[1], config.history_length, len(fit.kinds))
            plain.save(folder / "frozen")
            made["fine-tuned, plain tower"] = interest(
                InterestSource.open(folder / "frozen", vectors, until)
            )
    return made, learned


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--budget", type=float, default=300.0, help="seconds of the fit")
    parser.add_argument("--users", type=int, default=1500, help="test users at most")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--items", type=int, help="keep only so many items")
    parser.add_argument("--encoder", type=json.loads, default={}, help="settings, as JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    texts, events = load(arguments.data, EncoderConfig().template)
    if arguments.items:
        texts, events = most_acted_on(texts, events, arguments.items)
    removed, fit, cold, warm = protocol(events, arguments.users, arguments.seed)
    print(f"{removed.sum()} items removed; {len(cold)} cold and {len(warm)} warm test users")
    with tempfile.TemporaryDirectory() as scratch:
        scores, learned = encoders(texts, fit, arguments, Path(scratch))
    scores |= {"bm25": BM25(texts), "popularity": popularity(fit, texts, removed)}
    every = np.arange(len(texts), dtype=np.int32)
    table = {}
    for part, tests, items in (("cold", cold, every[removed]), ("warm", warm, every[~removed])):
        print(f"\n{part} items ({len(items)}): mean [95 % interval]")
        for name, score in scores.items():
            found = metrics(ranks(score, tests, items))
            table[f"{part} {name}"] = {k: interval(v) for k, v in found.items()}
            cells = "  ".join(
                f"{k} {m:.4f} [{low:.4f}, {high:.4f}]"
                for k, (m, low, high) in table[f"{part} {name}"].items()
            )
            print(f"  {name:<24}{cells}", flush=True)
    if arguments.out:
        content = {"table": table, "learned": learned, "settings": vars(arguments)}
        arguments.out.write_text(json.dumps(content, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
