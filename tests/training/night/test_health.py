"""Findings on a night's data: what warns, what stops, and what is left alone."""

from types import SimpleNamespace

import numpy as np
import pytest

from recsys.data_schemas.config import DriftConfig
from recsys.evaluation.languages import language_of, languages_of
from recsys.features.feature_set import FeatureSet
from recsys.features.interactions import DAY, Interactions
from recsys.features.kinds import Attribute, Context, TimeOf
from recsys.training.night import health
from recsys.training.night.health import (
    Periods,
    stops,
    volume,
    warnings,
)

LIMITS = DriftConfig()


def make(time, user, item, kind, n_items=1000):
    n = len(time)
    return Interactions(
        np.asarray(user, np.int32),
        np.asarray(item, np.int32),
        np.asarray(kind, np.int16),
        np.asarray(time, np.int64),
        np.full(n, np.nan, np.float32),
        np.ones(n, np.float32),
        np.ones(n, np.int8),
        np.arange(n),
        np.array([f"u{u}" for u in range(max(500, max(user) + 1))], object),
        ("view", "click"),
        n_items,
    )


class Data:
    """What findings read of a night's inputs."""

    class tables:
        class catalogue:
            category_names = ("a", "b")
            category_codes = np.arange(1000) % 2

    def __init__(self, events, texts=(), scheme="time"):
        self.interactions, self.texts = events, texts
        self.n_items = events.n_items
        end = int(events.time.max()) + 1
        self.windows = type("Windows", (), {"end": end, "scheme": scheme})


def steady(n=40_000, late_kind=None, late_item=None, seed=1):
    """Events at an even pace for 40 days; the last tenth may have other kinds or items."""
    draw = np.random.default_rng(seed)
    time = np.linspace(0, 40 * DAY, n, endpoint=False).astype(np.int64)
    kind, item = draw.integers(0, 2, n), draw.integers(0, 500, n)
    late = time >= 36 * DAY
    if late_kind is not None:
        kind[late] = late_kind
    if late_item is not None:
        item[late] = late_item(draw, int(late.sum()))
    return make(time, draw.integers(0, 500, n), item, kind)


def findings(events):
    return {r.what: r for r in health.of_events(Periods.of(events, 36 * DAY), Data(events), LIMITS)}


def test_the_reference_is_just_before_the_window():
    periods = Periods.of(steady(), 36 * DAY)
    assert len(periods.reference) == 3 * len(periods.current)
    assert periods.reference.time.max() < 36 * DAY <= periods.current.time.min()
    assert periods.older.time.max() <= periods.reference.time.min()


def test_steady_data_is_no_alarm():
    found = findings(steady())
    assert {row.level for row in found.values()} == {"ok"}
    assert stops(list(found.values())) == []


def test_a_lost_event_type_stops():
    found = findings(steady(late_kind=0))
    assert found["event types"].level == "stop"
    assert "event types: PSI" in stops(list(found.values()))[0]


def test_one_busy_user_is_no_drift():
    events = steady()
    kind, user = events.kind.copy(), events.user.copy()
    last = slice(len(events) - 1500, None)
    user[last], kind[last] = 7, 0
    assert findings(make(events.time, user, events.item, kind))["event types"].level == "ok"


def test_items_nobody_knew_are_held_against_the_usual_share():
    fresh = findings(steady(late_item=lambda draw, n: draw.integers(500, 1000, n)))
    assert fresh["events on items nobody acted on before"].level == "stop"
    # Always half of the items new: nothing has changed.
    events = steady()
    item = np.where(np.arange(len(events)) % 2, np.arange(len(events)) // 45, events.item)
    usual = findings(make(events.time, events.user, item, events.kind))
    assert usual["events on items nobody acted on before"].level == "ok"


def test_more_new_users_than_usual_stop_and_fewer_are_no_finding():
    """Data that keeps users with a least number of events has hardly a new one at its end."""
    events = steady()
    late = events.time >= 36 * DAY
    place = np.arange(len(events))
    for new, level in (~late, "ok"), (late, "stop"):
        user = np.where(new & (place % 2 > 0), 1000 + place, events.user)
        changed = make(events.time, user, events.item, events.kind)
        row = findings(changed)["events of users never seen before"]
        assert row.level == level
        assert bool(warnings([row]) or stops([row])) == (level == "stop")
    periods = Periods.of(changed, 36 * DAY)
    ordinal = health.of_events(periods, Data(changed, scheme="ordinal"), LIMITS)
    assert "events of users never seen before" not in {row.what for row in ordinal}


def test_fewer_items_that_nobody_knew_are_no_finding():
    events = steady()
    late = events.time >= 36 * DAY
    item = np.where(late, events.item, np.arange(len(events)) // 45)
    found = findings(make(events.time, events.user, item, events.kind))
    assert found["events on items nobody acted on before"].level == "ok"


@pytest.mark.parametrize(
    ("clock", "until", "scheme", "alarms"),
    [
        ("wall", None, "time", 1),
        ("wall", None, "ordinal", 0),
        ("end_of_data", None, "time", 0),
        ("wall", 40 * DAY, "time", 0),
    ],
)
def test_only_dated_data_of_a_running_shop_grows_old(clock, until, scheme, alarms):
    data = Data(steady(), scheme=scheme)
    night = SimpleNamespace(config=SimpleNamespace(clock=clock), until=until, data=data)
    assert len(warnings(health._freshness(night))) == alarms


def ranking(hours, prices, shown=()):
    """Two moments of two rows for each hour, at that hour of the day, with a price a row; the moments of
    `shown` hours come last, as lists that were shown."""
    kinds = [TimeOf("day"), Context("surface"), Attribute("price")]
    every = [*hours, *shown]
    columns = [np.repeat(every, 4), np.full(4 * len(every), len(shown)), np.asarray(prices)]
    return SimpleNamespace(
        x=np.column_stack(columns).astype(np.float32),
        features=FeatureSet(kinds),
        table=SimpleNamespace(offsets=np.arange(0, 4 * len(every) + 1, 2)),
        shown=np.arange(2 * len(every)) >= 2 * len(hours),
    )


def test_what_differs_by_construction_is_no_drift():
    """Cuts lie at a few times of the day, and only a request says what surface it is for."""
    draw = np.random.default_rng(1)
    rows = ranking([16] * 300, draw.random(1500), shown=[3] * 75)
    tested = ranking([5] * 100, draw.random(400))
    assert [row.what for row in health.of_features(rows, tested, LIMITS)] == ["feature item.price"]
    rows.x[1200:, 2] += 9  # what was shown costs more than what recall finds, as ever
    assert health.of_features(rows, tested, LIMITS)[0].level == "ok"
    tested.x[:, 2] += 9
    assert health.of_features(rows, tested, LIMITS)[0].level == "warn"


@pytest.mark.parametrize(("kept", "level"), [(1.0, "ok"), (0.4, "warn"), (0.05, "stop")])
def test_a_cut_off_export_shows_in_the_last_whole_day(kept, level):
    events = steady()
    in_last_whole = (events.time >= 38 * DAY) & (events.time < 39 * DAY)
    chosen = np.random.default_rng(3).random(len(events)) < kept
    (row,) = volume(Data(events.where(~in_last_whole | chosen)), DriftConfig())
    assert row.level == level


def test_few_events_a_day_have_no_usual_volume():
    assert volume(Data(steady(400)), DriftConfig()) == []


def test_texts_in_another_language_stop():
    draw = np.random.default_rng(5)
    english = [f"The story of a {w} and the end of it" for w in draw.integers(0, 300, 500)]
    german = [f"Die Geschichte von der {w} und das Ende" for w in draw.integers(0, 300, 500)]
    events = steady(late_item=lambda draw, n: draw.integers(500, 1000, n))
    item = events.item.copy()
    before = (events.time >= 25 * DAY) & (events.time < 36 * DAY)
    item[before] = draw.integers(250, 500, int(before.sum()))
    item[events.time < 25 * DAY] %= 250
    for texts, level in ((english, "ok"), (german, "stop")):
        data = Data(make(events.time, events.user, item, events.kind), [*english, *texts])
        found = health.of_texts(Periods.of(data.interactions, 36 * DAY), data, LIMITS)
        assert {row.what: row.level for row in found}["language mix of new items"] == level


def test_features_and_scores_only_warn():
    draw = np.random.default_rng(1)
    (row,) = health.of_scores(draw.normal(size=5000), draw.normal(5, size=5000), LIMITS)
    assert row.level == "warn"
    assert stops([row]) == []
    assert warnings([row]) == []


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The Lord of the Rings", "english"),
        ("Das Leben der Anderen", "german"),
        ("Le fabuleux destin d'Amélie et les autres", "french"),
        ("Matrix 2", "latin"),
        ("Война и мир", "cyrillic"),
        ("千と千尋の神隠し", "kana"),
        ("霸王别姬", "han"),
        ("기생충", "hangul"),
        ("1917 (!)", "none"),
        ("", "none"),
    ],
)
def test_languages(text, language):
    assert language_of(text) == language
    assert languages_of([text]) == [language]
