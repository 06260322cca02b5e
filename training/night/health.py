"""Data health and drift of a night: the test windows against what came just before them.

Events, items, users and texts may stop a promotion; features and scores only warn, because in the
ranker's windows cold items and new users are more frequent on purpose (cold-start masking, see
`training.night.ranking_data`). Everything is held against its own past: new words are normal for new
items, so their share is compared with the share that the items before them brought.

Shapes: E events, N items, R rows, F features.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.config import DriftConfig
from recsys.evaluation import drift
from recsys.evaluation.drift import Drift
from recsys.evaluation.languages import languages_of
from recsys.features.interactions import DAY, Interactions
from recsys.training.night.inputs import Inputs
from recsys.training.night.night_context import Night
from recsys.training.night.ranking_data import RankingData

REFERENCE = 3
"""Length of the reference window, in events of the current one."""
LEAST_USERS = 50
"""Users, in either window, below which distributions of events are not compared (assumed)."""
LEAST_TEXTS = 100
"""New items, in either window, below which their texts are not compared (assumed)."""
TEXTS_READ = 3000
USUAL_DAYS = 28
LEAST_A_DAY = 50
"""Events of a usual day below which volumes are not compared (assumed)."""
FEATURE_ROWS = 40_000
FEATURES_SHOWN = 60
NO_NEWS_DAYS = 3.0
"""Days without any event after which a night with a wall clock warns."""
NEVER = 1e9
OF_THE_REQUEST = "request"
"""Entity of features that say nothing of items or users."""


@dataclass(frozen=True)
class Periods:
    """The current window (test), the reference just before it, and everything before that."""

    older: Interactions
    reference: Interactions
    current: Interactions

    @classmethod
    def of(cls, events: Interactions, cut: int) -> "Periods":
        """The window from `cut` on; the reference holds up to three times its events."""
        before = events.before(cut)
        current = events.where(events.time >= cut)
        size = min(REFERENCE * max(1, len(current)), len(before) // 2)
        border = int(before.time[len(before) - size]) if size else cut
        return cls(before.before(border), before.where(before.time >= border), current)


def examine(
    night: Night, inputs: Inputs, tested: RankingData, rows: RankingData | None
) -> list[Drift]:
    """All findings; those at `stop` refuse promotion over a champion, `warn` is an alarm."""
    limits = night.config.drift
    periods = Periods.of(inputs.interactions, inputs.windows.test[0])
    found = [] if inputs.windows.scheme == "ordinal" else volume(inputs, night.config.drift)
    found += _freshness(night, inputs)
    found += of_events(periods, inputs, limits) + of_texts(periods, inputs, limits)
    if rows is not None:
        found += of_features(rows, tested, limits)
    return found


def volume(inputs: Inputs, config: DriftConfig) -> list[Drift]:
    """Events of the last whole day against the usual of the weeks before: a cut-off export."""
    days = inputs.interactions.time // DAY
    last = int(inputs.windows.end - 1) // DAY - 1
    counts = np.bincount(days - days.min(), minlength=last - int(days.min()) + 1)
    place = last - int(days.min())
    usual = float(np.median(counts[max(0, place - USUAL_DAYS) : place])) if place > 6 else 0.0
    if usual < LEAST_A_DAY:
        return []
    share = float(counts[place]) / usual
    level = drift.level_of(1 - share, 1 - config.volume_warn, 1 - config.volume_stop)
    detail = f"{counts[place]:,} events, usually {usual:,.0f} (median of {USUAL_DAYS} days)"
    return [Drift("events of the last whole day", "share of the usual", share, config.volume_warn,
                  level, detail)]  # fmt: skip


def _freshness(night: Night, inputs: Inputs) -> list[Drift]:
    """Days since the last event, where the data is meant to be as of now and its times are dates."""
    dated = inputs.windows.scheme != "ordinal"
    if night.config.clock != "wall" or night.until is not None or not dated:
        return []
    age = (time.time_ns() // 1000 - inputs.windows.end) / DAY
    level: drift.Level = "warn" if age > NO_NEWS_DAYS else "ok"
    return [Drift("age of the newest event", "days", age, NO_NEWS_DAYS, level,
                  "is the export still running?" if level == "warn" else "")]  # fmt: skip


def of_events(periods: Periods, inputs: Inputs, limits: DriftConfig) -> list[Drift]:
    """Event types, categories acted on, new users and items met for the first time."""
    now, past, older = periods.current, periods.reference, periods.older
    if min(len(np.unique(now.user)), len(np.unique(past.user))) < LEAST_USERS:
        return []
    found = [_by_user("event types", past.kind, now.kind, list(now.kinds), periods, limits)]
    names = inputs.tables.catalogue.category_names
    if len(names) > 1:
        codes = inputs.tables.catalogue.category_codes
        labels = [*names, "no category"]
        found.append(
            _by_user(
                "categories acted on", codes[past.item], codes[now.item], labels, periods, limits
            )
        )
    whats = [("events on items nobody acted on before", "item", inputs.n_items)]
    if inputs.windows.scheme != "ordinal":  # histories that end together begin with nobody new
        whats.append(("events of users never seen before", "user", inputs.interactions.n_users))
    for what, field, size in whats:
        # More that is new than usual is what changed identifiers look like.
        usual = _share_new(getattr(older, field), getattr(past, field), size)
        known = np.concatenate([getattr(older, field), getattr(past, field)])
        found.append(drift.rise(what, usual, _share_new(known, getattr(now, field), size), limits))
    return found


def _by_user(
    what: str,
    before: npt.NDArray[np.integer],
    after: npt.NDArray[np.integer],
    names: Sequence[str],
    periods: Periods,
    limits: DriftConfig,
) -> Drift:
    """Distribution of a code over events in which every user counts once; -1 is the last name."""
    first, second = (
        _histogram(code, events.user, len(names))
        for code, events in ((before, periods.reference), (after, periods.current))
    )
    order = np.argsort(-(first + second), kind="stable")
    top, rest = order[: drift.TOP], order[drift.TOP :]
    if len(rest):
        first, second = (np.append(h[top], h[rest].sum()) for h in (first, second))
        names = [*(names[i] for i in top), "all others"]
    return drift.histograms(what, first, second, names, limits)


def _histogram(
    code: npt.NDArray[np.integer], user: npt.NDArray[np.integer], size: int
) -> npt.NDArray[np.float64]:
    """float64[size]: sum over users of each one's shares."""
    weight = 1.0 / np.bincount(user)[user]
    place = np.where(code < 0, size - 1, code)
    return np.bincount(place, weights=weight, minlength=size).astype(np.float64)


def _share_new(known: npt.NDArray[np.integer], seen: npt.NDArray[np.integer], size: int) -> float:
    """Share of `seen` that `known` has not got."""
    met = np.zeros(size, bool)
    met[known] = True
    return float(1.0 - met[seen].mean()) if len(seen) else 0.0


def of_texts(periods: Periods, inputs: Inputs, limits: DriftConfig) -> list[Drift]:
    """Texts of the items first acted on in the window against those first acted on before it."""
    older, past, now = (
        np.unique(p.item) for p in (periods.older, periods.reference, periods.current)
    )
    earlier = np.setdiff1d(past, older)
    fresh = np.setdiff1d(now, np.union1d(older, past))
    if min(len(fresh), len(earlier), len(older)) < LEAST_TEXTS:
        return []
    known, before, after = (_texts(inputs, items) for items in (older, earlier, fresh))
    usual = drift.vocabulary("", known, before)
    found = drift.vocabulary("", known, after)
    words = drift.rise("words of new items that are not in older ones", usual.value, found.value,
                        limits)  # fmt: skip
    mix = drift.categories("language mix of new items", languages_of(before), languages_of(after),
                           limits)  # fmt: skip
    return [words._replace(detail=f"{words.detail}; {found.detail}"), mix]


def _texts(inputs: Inputs, items: npt.NDArray[np.integer]) -> list[str]:
    chosen = items[:: max(1, -(-len(items) // TEXTS_READ))]
    return [inputs.texts[int(item)] for item in chosen]


def of_features(rows: RankingData, tested: RankingData, limits: DriftConfig) -> list[Drift]:
    """The features of the test's rows against those of the ranker's: warnings only.

    Left out is what differs by construction: features of the moment alone, since cuts are few and lie
    where the data puts them, and what only a request says. Rows of shown lists stand in no test.
    """
    warn_only = limits.model_copy(update={"psi_stop": NEVER})
    of_recall = slice(int(rows.table.offsets[int((~rows.shown).sum())]))
    learned = rows.x[of_recall]
    step = max(1, len(learned) // FEATURE_ROWS), max(1, len(tested.x) // FEATURE_ROWS)
    found = []
    for place, feature in enumerate(tested.features.features):
        name = feature.column
        if name not in rows.features.columns or feature.entity == OF_THE_REQUEST:
            continue
        other = rows.features.columns.index(name)
        before = np.asarray(learned[:: step[0], other], np.float64)
        after = np.asarray(tested.x[:: step[1], place], np.float64)
        found.append(drift.numbers(f"feature {name}", before, after, warn_only))
    found.sort(key=lambda row: -row.value / row.limit)
    return found[:FEATURES_SHOWN]


def of_scores(
    evaluated: npt.NDArray[np.float64], released: npt.NDArray[np.float64], limits: DriftConfig
) -> list[Drift]:
    """Scores of the same items at the same moments, by the evaluated and the released models."""
    if min(len(evaluated), len(released)) < LEAST_USERS:
        return []
    warn_only = limits.model_copy(update={"psi_stop": NEVER})
    return [drift.numbers("scores, released against evaluated", evaluated, released, warn_only)]


def stops(found: Sequence[Drift]) -> list[str]:
    """Findings that refuse promotion, in words."""
    return [row.in_words() for row in found if row.level == "stop"]


def warnings(found: Sequence[Drift]) -> list[str]:
    """Findings on the data that somebody should look at; features and scores stay in the table."""
    quiet = ("feature ", "scores")
    return [
        row.in_words() for row in found if row.level == "warn" and not row.what.startswith(quiet)
    ]
