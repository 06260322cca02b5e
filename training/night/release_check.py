"""The release tried as a service would use it: how fast, how far from what was evaluated, and
whether its online features are those the ranker learnt from.

The same moments are asked of the released bundle over the released state. Its models have seen
more, so its lists may differ from the evaluated ones, within limits; its features may not: those
that no model makes (counters, recency, attributes, context) are read here online and were read in
batch for the test, at the same moments, for the same items.
"""

import time
from collections.abc import Sequence

import numpy as np

from recsys.features.draws import least
from recsys.features.feature_set import FeatureSet
from recsys.features.interactions import Floats
from recsys.features.kinds.kind import SignalFeature
from recsys.features.parity import compare_served
from recsys.features.state import ENTITIES
from recsys.query import RankingQuery
from recsys.ranker import Ranker
from recsys.recommender import LoadedRelease
from recsys.training.night.inputs import Inputs
from recsys.training.night.night_context import Night
from recsys.training.night.products import FULL, RankingData
from recsys.training.night.release_findings import ReleaseCheck

LATENCY_CALLS = 30
"""Ranking calls timed for the gate's latency rule; their median counts."""
MOMENTS = 200
PARITY_MOMENTS = 60
LEAST_MOVED = 20
"""Lists from which on the distributions of features are compared (assumed)."""
K = 10


def try_release(night: Night) -> ReleaseCheck:
    """Ask the release at a sample of the test moments."""
    inputs, tested, evaluated = night.data, night.tested.product, night.lists.product[0]
    loaded = LoadedRelease.open(night.bundle.product, night.state.product, version="")
    ranker = Ranker.load(night.served.folder / FULL)
    chosen = least(inputs.chances(tested.moments, "release check"), MOMENTS)
    times: list[float] = []
    overlaps: list[float] = []
    before: list[float] = []
    after: list[float] = []
    for moment in chosen:
        began = time.perf_counter()
        who, caps = _who(inputs, tested, int(moment)), night.config.serving.caps
        answer = loaded.answer(RankingQuery(*who, k=K, caps=caps))
        times.append((time.perf_counter() - began) * 1000)
        found = inputs.tables.catalogue.indices_of(answer.item_ids)
        released = dict(zip(found.tolist(), answer.scores, strict=True))
        old = _scored_as_tested(ranker, tested, int(moment))
        top = [item for item in evaluated.items[moment][:K].tolist() if item >= 0]
        overlaps.append(len(released.keys() & set(top)) / max(1, len(top)))
        both = sorted(released.keys() & old.keys())
        before += [old[item] for item in both]
        after += [released[item] for item in both]
    moved, lost = moved_features(loaded, inputs, tested, chosen.tolist())
    return ReleaseCheck(
        float(np.median(times[1 : LATENCY_CALLS + 1])) if len(times) > 1 else 0.0,
        float(np.mean(overlaps)) if overlaps else None,
        np.array(before),
        np.array(after),
        read_twice(loaded, inputs, tested, chosen[:PARITY_MOMENTS].tolist()),
        counted_of_known(loaded, inputs),
        moved,
        lost,
    )


def _scored_as_tested(ranker: Ranker, tested: RankingData, moment: int) -> dict[int, float]:
    """Item → score by the released ranker of a moment's candidates as they were tested: another ranker than
    the judged one has another scale, which says nothing of the release."""
    rows = slice(*tested.table.offsets[moment : moment + 2])
    x = np.asarray(tested.x[rows])[:, _places(tested.features, ranker.features)]
    scores = ranker.score(np.ascontiguousarray(x))
    return dict(zip(tested.table.items[rows].tolist(), scores.tolist(), strict=True))


def counted_of_known(loaded: LoadedRelease, inputs: Inputs) -> float:
    """Share of the events before the moment of asking that counters see then; 1 where there are none.

    A model score knows every one of them. Where counters do not, the two disagree in a way that no
    row the ranker learned from ever showed.
    """
    items = np.arange(loaded.state.catalogue.n_items, dtype=np.int32)
    moment = loaded.moment
    view = loaded.state.counters(moment)
    kinds = np.arange(len(loaded.state.kinds), dtype=np.int16)
    counts = view.read(ENTITIES[0], items, kinds, np.zeros(1, np.int64))
    seen = int(counts[:, -1].sum())  # behind the kinds: all of them together
    known = int((inputs.known.time < moment).sum())
    return seen / known if known else 1.0


def moved_features(
    loaded: LoadedRelease, inputs: Inputs, tested: RankingData, moments: Sequence[int]
) -> tuple[dict[str, float], dict[str, float]]:
    """Each feature's values over candidates, as tested against as the same users are answered at the
    release's own moment: the gap of their distributions, and the rise of the share unknown.

    What differs by construction, the time of the request, is left out.
    """
    columns = [c for c in loaded.features.columns if c in tested.features.columns]
    columns = [c for c in columns if not c.startswith("time.")]
    plain = set(_without_models(loaded.features))
    then: list[Floats] = []
    now: list[Floats] = []
    for moment in moments:
        rows = slice(*tested.table.offsets[moment : moment + 2])
        if rows.stop - rows.start < K:
            continue
        user, _ = _who(inputs, tested, moment)
        answer = loaded.answer(RankingQuery(user, loaded.moment, k=rows.stop - rows.start))
        if answer.features is None or not len(answer.item_ids):
            continue
        then.append(np.asarray(tested.x[rows])[:, _places(tested.features, columns)])
        now.append(answer.features[:, _places(loaded.features, columns)])
    if len(now) < LEAST_MOVED:
        return {}, {}
    before, after = np.concatenate(then), np.concatenate(now)
    unknown = np.isnan(after).mean(0) - np.isnan(before).mean(0)
    return (
        {name: _gap(before[:, f], after[:, f]) for f, name in enumerate(columns)},
        # A source's rank is unknown wherever it does not list the item: that says nothing of the moment.
        {name: rise for name, rise in zip(columns, unknown.tolist(), strict=True) if name in plain},
    )


def _gap(before: Floats, after: Floats) -> float:
    """Largest gap of the distribution functions of the known values."""
    one, other = np.sort(before[~np.isnan(before)]), np.sort(after[~np.isnan(after)])
    if not len(one) or not len(other):
        return 0.0
    at = np.concatenate([one, other])
    gap = np.searchsorted(one, at, "right") / len(one)
    gap -= np.searchsorted(other, at, "right") / len(other)
    return float(np.abs(gap).max())


def _who(inputs: Inputs, tested: RankingData, moment: int) -> tuple[str, int]:
    user = inputs.interactions.user_ids[tested.moments.user[moment]]
    return str(user), int(tested.moments.time[moment])


def read_twice(
    loaded: LoadedRelease, inputs: Inputs, tested: RankingData, moments: Sequence[int]
) -> dict[str, float]:
    """Each feature that no model makes: the largest relative difference of batch and online."""
    columns = [c for c in _without_models(tested.features) if c in loaded.features.columns]
    batch: list[Floats] = []
    online: list[Floats] = []
    for moment in moments:
        rows = slice(*tested.table.offsets[moment : moment + 2])
        items = tested.table.items[rows]
        ids = [inputs.tables.catalogue.id_of(int(item)) for item in items]
        if not ids:
            continue
        answer = loaded.answer(
            RankingQuery(*_who(inputs, tested, int(moment)), items=ids, k=len(ids))
        )
        assert answer.features is not None
        place = {name: row for row, name in enumerate(ids)}
        order = [place[name] for name in answer.item_ids]
        batch.append(np.asarray(tested.x[rows])[order][:, _places(tested.features, columns)])
        online.append(answer.features[:, _places(loaded.features, columns)])
    if not batch:
        return dict.fromkeys(columns, 0.0)
    return compare_served(np.concatenate(batch), np.concatenate(online), columns)


def _without_models(features: FeatureSet) -> list[str]:
    return [f.column for f in features.features if not isinstance(f, SignalFeature)]


def _places(features: FeatureSet, columns: Sequence[str]) -> list[int]:
    return [features.columns.index(column) for column in columns]
