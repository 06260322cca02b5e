"""The release tried as a service would use it: how fast, how far from what was evaluated, and
whether its online features are those the ranker learnt from.

The same moments are asked of the released bundle over the released state. Its models have seen
more, so its lists may differ from the evaluated ones, within limits; its features may not: those
that no model makes (counters, recency, attributes, context) are read here online and were read in
batch for the test, at the same moments, for the same items.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys.evaluation.lists import RankedLists
from recsys.evaluation.report_context import Check, or_dash
from recsys.features.draws import least
from recsys.features.feature_set import FeatureSet
from recsys.features.interactions import Floats
from recsys.features.kinds.kind import SignalFeature
from recsys.features.parity import LIMIT, broken, compare_served
from recsys.features.state import ENTITIES
from recsys.query import RankingQuery
from recsys.recommender import LoadedRelease
from recsys.storage.stages import StageResult
from recsys.training.night.inputs import Inputs
from recsys.training.night.night_context import Night
from recsys.training.night.ranking_data import RankingData

LATENCY_CALLS = 30
"""Ranking calls timed for the gate's latency rule; their median counts."""
MOMENTS = 200
PARITY_MOMENTS = 60
LEAST_MOVED = 20
"""Lists from which on the distributions of features are compared (assumed)."""
K = 10

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ReleaseCheck:
    """What asking the release found."""

    latency_ms: float
    """Median of one recommendation; 0 where too few moments were asked."""
    overlap: float | None
    """Mean share of the evaluated top 10 that the release lists too."""
    evaluated: Doubles
    released: Doubles
    """Scores of the items that both lists hold, pairwise."""
    differences: Mapping[str, float]
    """Feature → largest relative difference of its two readings."""
    counted: float
    """Share of the known events that counters see at the moment at which lists are asked for."""
    moved: Mapping[str, float]
    """Feature → how far its values, as asked for next, lie from those that were tested: the largest
    gap of the two distribution functions (Kolmogorov and Smirnov's). Counts grow from one to the other,
    so this informs and refuses nothing."""
    lost: Mapping[str, float]
    """Feature → by how much the share of candidates rose for which it is unknown."""

    @property
    def most_lost(self) -> tuple[str, float]:
        """The feature that became unknown most often, and by how much."""
        return max(self.lost.items(), key=lambda pair: pair[1], default=("none", 0.0))

    @property
    def furthest(self) -> tuple[str, float]:
        """The feature that moved most, and how far."""
        return max(self.moved.items(), key=lambda pair: pair[1], default=("none", 0.0))

    @property
    def shift(self) -> float | None:
        """Mean change of a score, in standard deviations of the evaluated ones."""
        if len(self.evaluated) < 2:
            return None
        spread = max(float(self.evaluated.std()), 1e-12)
        return abs(float(self.released.mean() - self.evaluated.mean())) / spread

    @property
    def parity(self) -> list[Check]:
        """For the page: one row in all, and one for each feature that differs."""
        worst = max(self.differences.items(), key=lambda pair: pair[1], default=("none", 0.0))
        found = [
            Check(
                f"{len(self.differences)} features of the release, online against batch",
                worst[1] <= LIMIT,
                f"largest relative difference {worst[1]:.2g} ({worst[0]}), limit {LIMIT:g}",
            )
        ]
        return found + [
            Check(f"feature {name}", False, f"differs by {self.differences[name]:.2g}")
            for name in broken(self.differences)
        ]

    def facts(self) -> dict[str, object]:
        """For the report's release section."""
        return {
            "overlap of the released top 10 with the evaluated": or_dash(self.overlap, ".0%"),
            "shift of the mean score, standard deviations": or_dash(self.shift, ".2f"),
            "known events that counters see when lists are asked for": f"{self.counted:.1%}",
            "feature furthest from what was tested": "{} by {:.2f}".format(*self.furthest),
            "feature most often unknown since": "{} by {:.0%}".format(*self.most_lost),
            "median time of one recommendation, ms": f"{self.latency_ms:.1f}",
        }


def try_release(
    night: Night, inputs: Inputs, tested: RankingData, bundle: Path, state: StageResult,
    evaluated: RankedLists,
) -> ReleaseCheck:  # fmt: skip
    """Ask the release at a sample of the test moments.

    Args:
        night: tonight's run: config, workspace, runner, reporter.
        inputs: tonight's tables, events and windows.
        tested: ranking data of the test windows.
        bundle: the release's folder.
        state: stage output of the online state's snapshot.
        evaluated: the evaluated models' lists at the test moments.
    """
    loaded = LoadedRelease.open(bundle, state.path / "state", version="")
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
        old = dict(
            zip(evaluated.items[moment].tolist(), evaluated.scores[moment].tolist(), strict=True)
        )
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
