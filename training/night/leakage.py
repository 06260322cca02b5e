"""Could anything tonight have known what it was tested on?

Every check can fail: what a fit saw is read from the fitted part itself, and whether a feature
knows the future is found by taking the future away. A failed check refuses promotion.

Shapes: M moments, R candidate rows, F features.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from recsys.evaluation import leaks
from recsys.evaluation.report_context import WARN, Check, day_and_time
from recsys.features.interactions import Floats
from recsys.features.ragged import chosen_groups, owners_of
from recsys.features.rows import ANY_POSITION, BatchInputs, Rows
from recsys.training.groups import history_reader
from recsys.training.night.inputs import Inputs
from recsys.training.night.night_context import Night
from recsys.training.night.products import RankingData
from recsys.training.night.ranking_data import batch_inputs

ENOUGH_GROUPS = 50
"""Groups with a positive below which one feature may separate them by chance (assumed)."""
LEAK_ROWS = 300_000
"""Rows the leak scan looks at, at most."""
TRIED_MOMENTS = 40
"""Moments whose features are read again without the future."""
TOLERANCE = 1e-5
"""Largest relative change that is rounding."""


def checks_of(night: Night) -> list[Check]:
    """What the tables, and who could have seen what is tested, gave away; with mere signs of it."""
    return [*night.data_checks, *leak_checks(night), *leak_hints(night)]


def leak_checks(night: Night) -> list[Check]:
    """Who could have seen what is tested, and features that know too much."""
    rows, tested = night.learned.product, night.tested.product
    if not len(tested.moments):
        return []
    windows, first = night.data.windows, int(tested.moments.time.min())
    # Fits see events strictly before their `fit_until`: the last one seen lies just before it.
    encoder = {"encoder": night.encoded.fit_until - 1}
    last_seen = dict(encoder)
    if windows.ranker:
        last_seen["ranker, by its labels,"] = windows.label_end(windows.ranker[-1]) - 1
    found = leaks.fitted_before(last_seen, first, "the test window")
    found += _sources(night.data, tested, night.lists.facts["last_seen"])
    if len(rows.moments):
        found += leaks.fitted_before(encoder, int(rows.moments.time.min()), "the ranker's rows")
        x, grade, group = sampled(rows)
        if len(np.unique(group[grade > 0])) >= ENOUGH_GROUPS:
            found.append(leaks.single_features(x, grade, group, rows.features.columns))
    found.append(_blind_to_the_future(night))
    return found


def leak_hints(night: Night) -> list[Check]:
    """Signs of a leak that chance, or what people do, can give too: worth a look, no alarm and no
    refusal."""
    rows, tested = night.learned.product, night.tested.product
    if not len(rows.moments) or not len(tested.moments):
        return []
    found = [leaks.no_collapse(sampled(rows), sampled(tested), rows.features.columns)]
    x, grade, group = sampled(rows, shown=True)
    if len(np.unique(group[grade > 0])) >= ENOUGH_GROUPS:
        check = leaks.single_features(x, grade, group, rows.features.columns)
        found.append(check._replace(name=f"{check.name} among what was shown"))
    return [check._replace(outcome=WARN) for check in found]


def sampled(ranking: RankingData, *, shown: bool = False) -> tuple[Any, Any, Any]:
    """(x, y, groups) of the first groups up to LEAK_ROWS rows: recall's, or lists that were shown.

    The two are never mixed: a feature may well be stronger among what somebody chose to show.
    """
    first_shown = int((~ranking.shown).sum())
    offsets = ranking.table.offsets
    edges = offsets[first_shown:] if shown else offsets[: first_shown + 1]
    last = int(np.searchsorted(edges, edges[0] + LEAK_ROWS, "right")) - 1
    last = min(max(last, 1), len(edges) - 1)
    rows = slice(int(edges[0]), int(edges[last]))
    group = owners_of(edges[: last + 1])
    return np.asarray(ranking.x[rows]), ranking.table.grade[rows], group


def _sources(
    inputs: Inputs, tested: RankingData, last_seen: Mapping[str, Mapping[str, int]]
) -> list[Check]:
    """Each source's own word on the last event it saw, and test events up to there."""
    late: list[str] = []
    seen_until = np.iinfo(np.int64).min
    for cut, sources in last_seen.items():
        for name, last in sources.items():
            seen_until = max(seen_until, last)
            if last >= int(cut):
                late.append(f"{name} saw {day_and_time(last)}, cut {cut}")
    count = sum(len(s) for s in last_seen.values())
    detail = "; ".join(late[:5]) if late else f"{count} fits of sources, each before its cut"
    events = inputs.interactions.where(inputs.interactions.time <= seen_until)
    return [
        Check("sources were fitted before the cuts they are tested at", not late, detail),
        leaks.no_test_events(
            events.user, events.item, events.time, tested.moments, "what sources saw"
        )
        if late
        else Check("test events are not in what sources saw", True, "no fit reaches its cut"),
    ]


def _blind_to_the_future(night: Night) -> Check:
    """No feature may change when everything from the moment on is taken away."""
    inputs, tested = night.data, night.tested.product
    now = int(tested.moments.time.min())
    chosen = np.flatnonzero(tested.moments.time == now)[:TRIED_MOMENTS]
    with_future, rows = _rows(inputs, tested, chosen)
    whole = batch_inputs(night, inputs.interactions)
    past = BatchInputs(
        interactions=inputs.interactions.before(now),
        catalogue=whole.catalogue,
        users=whole.users,
        impressions=None if whole.impressions is None else whole.impressions.before(now),
        bucket=whole.bucket,
    )
    without = tested.features.batch(rows, past)
    return leaks.blind_to_the_future(with_future, without, tested.features.columns, TOLERANCE)


def _rows(inputs: Inputs, tested: RankingData, chosen: Any) -> tuple[Floats, Rows]:
    """Features as they were measured (float32[r, F]) and the rows to read them from again."""
    table, moments = tested.table.take(chosen), tested.moments.take(chosen)
    rows = Rows(
        offsets=table.offsets,
        user=moments.user,
        now=moments.time,
        position=np.full(len(moments), ANY_POSITION, np.int64),
        items=table.items,
        signals=table.signals,
        history_of=history_reader(inputs.interactions.histories(), moments),
    )
    return np.asarray(tested.x[chosen_groups(tested.table.offsets, chosen)[1]]), rows
