"""Items nobody has seen: fine-tuned text against frozen text, BM25 and popularity.

A tenth of the items is removed from every fit, with all events on them. Each test user then has one
event on a removed item; it is ranked among all removed items by what the user did before it. Warm
items: each test user's last event on another item, removed from the fits too, ranked among all
items that were not removed. Intervals are bootstrapped over users.

    python benchmarks/cold_items.py DATA [--budget 300] [--users 1500] [--seeds 0] [--out cold.json]

`--items N` keeps the N items with the most events, and `--budget 0 --encoder '{"max_steps": 10}'` counts
steps instead of seconds: what a busy machine can still compare. `--head-only` fits head and tower over frozen
vectors that are encoded once for all seeds (`--seeds 0 1 2`), at a twentieth of the processor time. Several
seeds, each with a draw of items and users of its own, are put together by user.

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
import torch
from scipy import sparse

sys.path.append(str(Path(__file__).resolve().parent.parent))

from recsys.data_schemas.config import EncoderConfig, EventsConfig
from recsys.encoder.encode import encode_items
from recsys.encoder.pretrained import resolve_model
from recsys.encoder.text import item_text
from recsys.encoder.torch_model import ItemEncoder
from recsys.encoder.tower import InterestSource, Tower
from recsys.features.interactions import History, Interactions
from recsys.retrieval.content.bm25 import weighted_terms
from recsys.training.deterministic import deterministic
from recsys.training.finetune.checkpoint import Checkpoints
from recsys.training.finetune.distributed import Group
from recsys.training.finetune.examples import make_examples
from recsys.training.finetune.fit import fit_encoder
from recsys.training.finetune.keep_company import best_company
from recsys.training.finetune.learner import Learner
from recsys.training.finetune.loop import Trainer
from recsys.training.finetune.tower_model import UserTower
from recsys.training.finetune.verdict import judge

USER = "user"
"""Place of the users among a system's values."""


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
    """Texts and events of the `count` items with the most events, and their places."""
    frequency = np.bincount(events.item, minlength=events.n_items)
    top = np.argsort(-frequency)[:count]
    place = np.full(events.n_items, -1)
    place[top] = np.arange(len(top))
    kept = events.where(place[events.item] >= 0)
    few = replace(kept, item=place[kept.item].astype(np.int32), n_items=len(top))
    return [texts[i] for i in top], few, top


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
    """BM25 (k1 1.2, b 0.75) of an item's words against the words of the history's last items, with the
    terms and weights of the product's own source."""

    def __init__(self, texts):
        rows = weighted_terms(texts, k1=1.2, b=0.75)
        terms = 1 + max(int(column.max(initial=0)) for _, column, _ in rows)
        self.documents, self.queries = (
            sparse.csr_matrix((value, column, offsets), shape=(len(texts), terms))
            for offsets, column, value in rows
        )

    def __call__(self, history: History, items, now):
        liked = history.item[history.grade >= 0][-10:]
        asked = self.queries[liked].sum(axis=0)
        return np.asarray(self.documents[items] @ asked.T).ravel()


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


def interval(values, users=None, seed=0, draws=1000):
    """Mean with the 95 % percentile interval of a bootstrap over users, whose values go together; each value
    is another user's where no users are given."""
    rng = np.random.default_rng(seed)
    users = np.arange(len(values)) if users is None else users
    _, owner = np.unique(users, return_inverse=True)
    total, count = np.bincount(owner, values), np.bincount(owner)
    means = []
    for _ in range(draws):
        drawn = rng.integers(0, len(total), len(total))
        means.append(total[drawn].sum() / count[drawn].sum())
    return float(values.mean()), *map(float, np.quantile(means, (0.025, 0.975)))


def interest(source):
    """A source's score as a function of (history, items, now)."""
    return lambda history, items, now: source.score(history, items, now)[:, 0]


class FixedStates:
    """Stands where the items' states do: their frozen vectors."""

    chunk_tokens = 0
    device = torch.device("cpu")

    def __init__(self, vectors):
        self.bank = torch.from_numpy(np.array(vectors))
        self.lengths = np.ones(len(vectors), np.int64)


@deterministic()
def head_only(frozen, fit, arguments, seed):
    """As `encoders`, with head and tower alone over frozen vectors [n, d]."""
    until, config = int(fit.time.max()), EncoderConfig(**arguments.encoder)
    places, kinds = config.history_length, len(fit.kinds)
    plain = Tower.plain(frozen.shape[1], places, kinds)
    encoder = ItemEncoder.open(resolve_model(config.model))
    split = make_examples(fit, fit_until=until, places=places, seed=seed)
    torch.manual_seed(seed)
    trainer = Trainer(
        Learner(encoder, UserTower(plain)),
        FixedStates(frozen),
        split,
        config,
        seed=seed,
        checkpoints=Checkpoints(None, ""),
        group=Group(),
        on_metrics=None,
    )

    @torch.no_grad()
    def source(tower, company=None):
        vectors = encoder.finish(trainer.states.bank).numpy()
        return interest(replace(InterestSource.of(tower, vectors, until), company=company))

    made = {"frozen": interest(InterestSource.of(plain, frozen, until))}
    trainer.check("head")
    trainer.start_head()
    made["closed form"] = source(plain)
    trainer.run("head", 0, config.head_steps, encode=False, deadline=None)
    trainer.checkpoints.restore_best(trainer.learner)
    tower = trainer.learner.tower.freeze_to((1.0, 0.0))
    company, beside = best_company(trainer, split, fit.histories())
    share = None if company is None else company.share
    print(f"in company: {beside.frozen:.4f} → {beside.tuned:.4f}, share {share}")
    made["fine-tuned"] = source(tower, company)
    made["fine-tuned, asking alone"] = source(tower)
    made["fine-tuned, plain tower"] = source(plain, company)
    progress = trainer.progress
    verdict = judge(progress.first, progress.gains, split.asker)
    print(f"closed form: {progress.head}; best at step {progress.best_step}; {verdict.sentence()}")
    return made, {
        "closed_form": progress.head,
        "steps": progress.step,
        "verdict": verdict.sentence(),
    }


def encode_frozen(texts, events, arguments, folder):
    """Unit vectors [n, d] of the model as it came, from a file where that is given and there."""
    if arguments.frozen and arguments.frozen.exists():
        return np.load(arguments.frozen)
    config = EncoderConfig(
        fine_tune=False, **({"max_tokens": arguments.max_tokens} | arguments.encoder)
    )
    until = int(events.time.max())
    fit_encoder(
        events,
        texts,
        config,
        fit_until=until,
        out_dir=folder / "as it came",
        seed=0,
        budget_seconds=None,
    )
    vectors, _ = encode_items(folder / "as it came", texts, folder / "cache")
    if arguments.frozen:
        np.save(arguments.frozen, vectors)
    return vectors


def encoders(texts, fit, arguments, folder, seed):
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
            seed=seed,
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


def compared(values, other, users):
    """Ratio of the means, and the mean difference with its 95 % interval over users."""
    return values.mean() / max(other.mean(), 1e-9), interval(values - other, users)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--budget", type=float, default=300.0, help="seconds of the fit")
    parser.add_argument("--users", type=int, default=1500, help="test users at most")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--items", type=int, help="keep only so many items")
    parser.add_argument("--encoder", type=json.loads, default={}, help="settings, as JSON")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--head-only", action="store_true", help="over frozen vectors")
    parser.add_argument("--frozen", type=Path, help="file of the frozen vectors, made where absent")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    texts, events = load(arguments.data, EncoderConfig().template)
    if arguments.items:
        texts, events, _ = most_acted_on(texts, events, arguments.items)
    found, learned = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.head_only:
            vectors = encode_frozen(texts, events, arguments, Path(scratch))
        for seed in arguments.seeds:
            removed, fit, cold, warm = protocol(events, arguments.users, seed)
            print(
                f"seed {seed}: {removed.sum()} items removed; {len(cold)} cold and {len(warm)} warm "
                "test users"
            )
            if arguments.head_only:
                scores, learned[seed] = head_only(vectors, fit, arguments, seed)
            else:
                scores, learned[seed] = encoders(
                    texts, fit, arguments, Path(scratch) / str(seed), seed
                )
            scores |= {"bm25": BM25(texts), "popularity": popularity(fit, texts, removed)}
            every = np.arange(len(texts), dtype=np.int32)
            for part, tests, items in (
                ("cold", cold, every[removed]),
                ("warm", warm, every[~removed]),
            ):
                for name, score in scores.items():
                    values = metrics(ranks(score, tests, items))
                    asked = np.array([test[3] for test in tests])
                    found.setdefault((part, name), []).append(values | {USER: asked})
                    print(f"  {part} {name:<24}nDCG@10 {values['ndcg@10'].mean():.4f}", flush=True)
    table = summary(found)
    if arguments.out:
        content = {"table": table, "learned": learned, "settings": vars(arguments)}
        arguments.out.write_text(json.dumps(content, indent=1, default=str) + "\n")


def summary(found, others=("frozen", "bm25")):
    """Prints each system over all seeds, beside the `others` (paired); the same as plain values."""
    table = {}
    joined = {
        key: {k: np.concatenate([v[k] for v in seeds]) for k in seeds[0]}
        for key, seeds in found.items()
    }
    for part in ("cold", "warm"):
        print(
            f"\n{part} items, all seeds: mean [95 % interval]; nDCG@10 against {', '.join(others)}, paired"
        )
        for (of, name), values in joined.items():
            if of != part:
                continue
            users = values[USER]
            row = {k: interval(v, users) for k, v in values.items() if k != USER}
            cells = "  ".join(
                f"{k} {mean:.4f} [{low:.4f}, {high:.4f}]" for k, (mean, low, high) in row.items()
            )
            row["seeds"] = [float(v["ndcg@10"].mean()) for v in found[of, name]]
            for other in others:
                ratio, (change, low, high) = compared(
                    values["ndcg@10"], joined[part, other]["ndcg@10"], users
                )
                row[f"less {other}"] = ratio, change, low, high
                cells += f"  x{ratio:.2f} {other} {change:+.4f} [{low:+.4f}, {high:+.4f}]"
            table[f"{part} {name}"] = row
            print(f"  {name:<24}{cells}", flush=True)
    return table


if __name__ == "__main__":
    main()
