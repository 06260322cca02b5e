"""Similar items: the blend of `recsys.similar` against each of its sources, on held-out co-actions.

    python benchmarks/similar_items.py DATA [--bundle BUNDLE | --vectors FILE.npy] [--queries 4000]

DATA holds items.parquet and events.parquet. A fifth of the users, by a hash of their ids, takes no
part in any fit. A question is one of their positive events; the answer that counts is what the same
person acted on next: the ten further positives behind it. Every source is asked for the item alone,
nDCG@10; differences are paired, with 95 % intervals by a bootstrap over users. Half of the held-out
users choose the weights that are printed last, the other half are what is reported.

A bundle gives the sources' params and the text vectors; else the params are the defaults, and the
vectors those of the file, in the order of the items.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent))

from recsys.encoder.tower import UNFITTED, InterestSource, Tower
from recsys.evaluation.uncertainty import bootstrap
from recsys.features.draws import chance, hash_ids
from recsys.query import BLEND, BOUGHT_TOGETHER
from recsys.retrieval.fitted_source import SourceInputs
from recsys.similar import DEPTH, TEXT, WEIGHTS, proposals
from recsys.storage.bundle import open_bundle
from recsys.training.sources.fit_source import applicable_sources, fit_one
from recsys.training.sources.fusion import Lists, choose_weights

HELD_OUT, NEXT, PER_USER = 0.2, 10, 20
SEED = 7


def sources_of(events, catalogue, params, vectors, workers):
    """The sources of the blend, fitted on the events; `text` over the vectors."""
    from recsys.encoder.text import item_texts

    texts = item_texts(catalogue, "{title}. {tags}. {category}. {description}")
    inputs = SourceInputs(catalogue, texts, vectors)
    fitted = {}
    for name, applies, reason in applicable_sources(events, inputs, None, np.inf, np.inf):
        if name not in WEIGHTS[BLEND]:
            continue
        if not applies:
            print(f"without {name}: {reason}")
            continue
        fitted[name] = fit_one(
            name, events, inputs, params.get(name, {}), seed=SEED, workers=workers
        )
    if vectors is not None:
        tower = Tower.plain(vectors.shape[1], 50, len(events.kinds))
        fitted[TEXT] = InterestSource.of(tower, vectors, UNFITTED)
    return fitted


def questions_of(events, held, most, rng):
    """(user, item, what came next) of events of held-out users, in a random order."""
    histories = events.where(events.grade > 0).histories()
    asked = []
    for user in np.flatnonzero(held):
        items = histories.of(int(user)).item
        starts = rng.permutation(max(0, len(items) - 1))[:PER_USER]
        for start in starts:
            behind = items[start + 1 : start + 1 + NEXT]
            behind = np.unique(behind[behind != items[start]])
            if len(behind):
                asked.append((int(user), int(items[start]), behind.astype(np.int32)))
    return [asked[n] for n in rng.permutation(len(asked))[:most]]


def lists_of(fitted, questions, n_items):
    """All sources' lists for the questions, as `training.sources.fusion` weighs them."""
    free = np.zeros(n_items, np.uint8)
    by_source = {name: [] for name in fitted}
    for _, item, _ in questions:
        anchors = np.array([item], np.int32)
        found = proposals(fitted, anchors, list(fitted), DEPTH, 2**61, free)
        for name, listed in found.items():
            by_source[name].append(listed.items)
    return Lists(by_source, [behind for _, _, behind in questions], DEPTH)


def report(lists, users, chosen):
    """A line a system: nDCG@10, and by how much the blend is better."""
    systems = {name: {name: 1.0} for name in lists.names}
    systems |= {BOUGHT_TOGETHER: WEIGHTS[BOUGHT_TOGETHER], "chosen here": chosen}
    blend = lists.quality(WEIGHTS[BLEND]).ndcg
    found = {name: lists.quality(weights).ndcg for name, weights in systems.items()}
    columns = np.stack([blend, *found.values(), *(blend - one for one in found.values())], axis=1)
    drawn = bootstrap(columns, users, resamples=1000, seed=SEED)
    table = [drawn.interval(column) for column in range(columns.shape[1])]
    print(f"{len(users):,} questions of {len(np.unique(users)):,} users; nDCG@10")
    print(f"  {BLEND:16} {table[0].value:.4f}")
    for place, name in enumerate(found, 1):
        more = table[place + len(found)]
        print(
            f"  {name:16} {table[place].value:.4f}   blend {more.value:+.4f} "
            f"[{more.low:+.4f}, {more.high:+.4f}]"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--queries", type=int, default=4000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    from quality_sources import load  # the neighbour in this folder

    events, catalogue = load(args.data)
    params, vectors = {}, None
    if args.bundle:
        bundle = open_bundle(args.bundle)
        params = bundle.facts["recipe"]["dials"]
        place = {item_id: n for n, item_id in enumerate(bundle.item_ids)}
        order = [place[item_id] for item_id in catalogue.item_ids.to_pylist()]
        vectors = np.ascontiguousarray(bundle.vectors()[order])
    elif args.vectors:
        vectors = np.load(args.vectors)
    held = chance(hash_ids(list(events.user_ids)), "held out", SEED) < HELD_OUT
    fitted = sources_of(events.where(~held[events.user]), catalogue, params, vectors, args.workers)
    questions = questions_of(events, held, args.queries, np.random.default_rng(SEED))
    even = np.array([user % 2 == 0 for user, _, _ in questions])
    halves = [[q for q, of in zip(questions, even, strict=True) if of == half] for half in (1, 0)]
    choosing, reported = (lists_of(fitted, half, catalogue.n_items) for half in halves)
    chosen = choose_weights(choosing, dict.fromkeys(choosing.names, 1.0))
    report(reported, np.array([user for user, _, _ in halves[1]]), chosen)
    print("weights chosen on the other half: " + json.dumps(chosen))


if __name__ == "__main__":
    main()
