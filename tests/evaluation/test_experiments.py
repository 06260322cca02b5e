"""An experiment's counts: by hand where they are few, against the truth where they are drawn."""

import numpy as np
import pytest

from recsys.evaluation.experiment_analysis import ExperimentPlan, Missing, analyse, as_json
from recsys.evaluation.experiment_page import write_experiment
from recsys.evaluation.experiment_statistics import (
    Settings,
    always_factor,
    clusters_needed,
    compare_rates,
    fixed_factor,
    preference,
    sample_ratio,
)
from recsys.evaluation.logged_lists import LaterEvents, LoggedLists

HOUR = 3600 * 1_000_000
PLAN = ExperimentPlan(
    "ab", "2", 0.5, "user", "list", True, True, 24 * HOUR, "positive", 0.02, {}, Settings()
)
LATER = 10**9 * HOUR


def lists_of(rows):
    """rows: (user, hour, items, {more})"""
    users = sorted({r[0] for r in rows})
    items = sorted({i for r in rows for i in r[2]})
    shown = [items.index(i) for r in rows for i in r[2]]

    def column(name):
        return np.array([(r[3] if len(r) > 3 else {}).get(name) for r in rows] + [0], object)[:-1]

    teams = [t for r in rows for t in (r[3] if len(r) > 3 else {}).get("teams", [None] * len(r[2]))]
    ruled = [i in (r[3] if len(r) > 3 else {}).get("ruled", ()) for r in rows for i in r[2]]
    return LoggedLists(
        np.cumsum([0, *(len(r[2]) for r in rows)]),
        np.array(shown, np.int64),
        np.array([users.index(r[0]) for r in rows], np.int64),
        np.array([r[1] * HOUR for r in rows], np.int64),
        column("id"), column("version"), column("surface"), column("experiment"), column("arm"),
        column("unit"),
        column("degraded").astype(bool),
        np.array([*teams, 0], object)[:-1],
        np.array(ruled, bool),
        np.full(len(rows), np.nan),
        np.array(users, object), np.array(items, object),
    )  # fmt: skip


def events_of(lists, rows):
    """rows: (user, item, hour, kind)"""
    users, items = list(lists.user_ids), list(lists.item_ids)
    kinds = sorted({r[3] for r in rows})

    def place(known, name):
        return known.index(name) if name in known else -1

    return LaterEvents(
        np.array([place(users, r[0]) for r in rows], np.int64),
        np.array([place(items, r[1]) for r in rows], np.int64),
        np.array([kinds.index(r[3]) for r in rows], np.int64),
        np.array([r[2] * HOUR for r in rows], np.int64),
        np.full(len(rows), -1),
        np.full(len(rows), np.nan),
        tuple(kinds),
    )


def found(plan, lists, events, **more):
    grade = np.array([events.kinds[k] != "view" for k in events.kind], np.int64)
    return analyse(plan, lists, events, grade, **{"now": LATER, **more})


C, T = {"arm": "control"}, {"arm": "challenger"}


def test_rates_by_hand():
    lists = lists_of([
        ("a", 0, ["x", "y"], C), ("a", 5, ["x"], C), ("b", 0, ["x"], T), ("c", 0, ["x", "y"], T),
    ])  # fmt: skip
    events = events_of(lists, [
        ("a", "x", 1, "click"), ("a", "y", 2, "click"), ("b", "x", 1, "view"),
        ("c", "x", 1, "click"), ("c", "y", 1, "purchase"), ("c", "z", 1, "click"),
    ])  # fmt: skip
    once = found(PLAN, lists, events)
    # a's two clicks both follow its first list; c's z was in no list.
    assert (once.rates["click"].control, once.rates["click"].challenger) == (0.5, 0.5)
    assert (once.rates["positive"].control, once.rates["positive"].challenger) == (0.5, 0.5)
    assert once.rates["view"].challenger == 0.5
    every = found(PLAN._replace(once=False), lists, events)
    assert (every.rates["click"].control, every.rates["positive"].challenger) == (1.0, 1.0)
    by_unit = found(PLAN._replace(denominator="unit"), lists, events)
    assert (by_unit.rates["click"].control, by_unit.units) == (1.0, (1, 2))
    whatever = found(PLAN._replace(shown=False, once=False), lists, events)
    assert whatever.rates["click"].challenger == 1.0
    assert once.deciding.fixed.low is None  # three persons


def test_who_was_seen_in_two_arms_is_left_out_and_counted():
    rows = [("a", 0, ["x"], C), ("a", 1, ["x"], T), ("b", 0, ["x"], C), ("c", 0, ["x"], T)]
    lists = lists_of(rows)
    result = found(PLAN, lists, events_of(lists, [("a", "x", 2, "click"), ("b", "x", 2, "click")]))
    assert (result.crossed, result.units, result.lists) == (1, (1, 1), (1, 1))
    assert (result.rates["click"].control, result.rates["click"].challenger) == (1.0, 0.0)


def test_a_person_may_have_visits_in_both_arms_where_visits_are_the_unit():
    rows = [("a", 0, ["x"], {**C, "unit": "v1"}), ("a", 1, ["x"], {**T, "unit": "v2"}),
            ("b", 1, ["x"], {**T, "unit": "v3"})]  # fmt: skip
    lists = lists_of(rows)
    result = found(PLAN._replace(unit="session"), lists, events_of(lists, [("a", "x", 2, "click")]))
    assert (result.crossed, result.units, result.persons) == (0, (1, 2), 2)
    assert result.rates["click"].challenger == 0.5


def test_lists_whose_window_is_open_wait():
    lists = lists_of([("a", 0, ["x"], C), ("b", 0, ["x"], T), ("b", 30, ["x"], T)])
    result = found(PLAN, lists, events_of(lists, [("b", "x", 31, "click")]), now=40 * HOUR)
    assert (result.unripe, result.lists, result.rates["click"].challenger) == (1, (1, 1), 0.0)


def test_credit_of_an_interleaved_list_goes_by_team_and_not_to_what_a_rule_moved():
    def row(user, teams, ruled=()):
        return (user, 0, ["x", "y"], {"arm": "interleaved", "teams": teams, "ruled": ruled})

    lists = lists_of([row("a", ["2", "1"]), row("b", ["1", "2"]), row("c", ["2", "1"], ("x",))])
    events = events_of(lists, [("a", "x", 1, "click"), ("b", "y", 1, "click"),
                               ("b", "x", 1, "click"), ("c", "x", 1, "click")])  # fmt: skip
    result = found(PLAN._replace(kind="interleave"), lists, events)
    # One win and one tie of two lists with credit: (1 + ½) / 2 − ½.
    assert result.preferences["click"].value == pytest.approx(0.25)
    assert (result.ratio_p, result.rates) == (None, {})


def many(rng, effect, n=4000, degraded=0.0):
    """One list a person, clicked with .2 or .2 + effect."""
    arm = rng.random(n) < 0.5
    rows = [
        (f"u{i:05}", i // 50, ["x"], {**(T if arm[i] else C), "surface": "home" if i % 2 else "mail",
         "degraded": bool(arm[i] and rng.random() < degraded)})
        for i in range(n)
    ]  # fmt: skip
    lists = lists_of(rows)
    clicked = rng.random(n) < 0.2 + effect * arm
    return lists, events_of(lists, [(r[0], "x", r[1] + 1, "click") for r, hit in zip(rows, clicked, strict=True) if hit])  # fmt: skip


def test_a_large_effect_is_found_in_both_directions_and_none_is_not():
    rng = np.random.default_rng(3)
    said = {}
    for effect in (0.1, 0.0, -0.1):
        lists, events = many(rng, effect)
        result = found(PLAN._replace(guardrails={"click": 0.1}), lists, events)
        always, fixed = result.deciding.always, result.deciding.fixed
        assert always.low < fixed.low < fixed.high < always.high
        assert always.low < effect < always.high
        said[effect] = (result.deciding.decided, result.guards[0].status, result.guards[1].status)
        assert set(result.segments["surface"]) == {"home", "mail"}
        assert as_json(result)["decision"] == result.decision
    assert said[0.1] == ("above", "kept", "kept")
    assert said[0.0][0] is None
    assert said[-0.1] == ("below", "broken", "kept")
    lists, events = many(rng, 0.0, degraded=0.2)
    worse = found(PLAN, lists, events)
    assert worse.guards[-1].status == "broken"
    assert worse.decision.startswith("Stop")


def test_shares_that_are_not_as_planned_silence_the_rest():
    lists, events = many(np.random.default_rng(4), 0.1)
    keep = np.flatnonzero((lists.arm == "challenger") | (np.arange(len(lists)) % 3 > 0))
    result = found(PLAN, lists.take(keep), events)
    assert result.shares_wrong
    assert result.decision.startswith("Do not read")
    assert not found(PLAN, lists, events).shares_wrong
    assert sample_ratio((500, 500), 0.5) == 1.0
    assert sample_ratio((0, 0), 0.5) == 1.0
    assert sample_ratio((900, 100), 0.1) == 1.0


def test_a_differential_loss_is_told_and_shown(tmp_path):
    lists, events = many(np.random.default_rng(5), 0.0, n=400)
    result = found(PLAN, lists, events, missing=(Missing(2, 7), Missing(3, 9)))
    page = write_experiment(result, {"unit": "user"}, tmp_path, "autumn <b>")
    text = page.read_text()
    assert "7 and 9" in text
    assert "autumn &lt;b&gt;" in text
    assert "<script" not in text


def test_the_margin_is_seen_when_the_formula_says():
    """At the number of persons that is named, a true margin leaves 0 outside in about 80 %."""
    rng, base, margin = np.random.default_rng(6), 0.2, 0.15
    settings = Settings(tightest_at=3000)

    def rates(n, lift):
        arm = rng.integers(0, 2, n)
        hit = rng.random(n) < base * (1 + lift * arm)
        sides = np.eye(2)[arm]
        return compare_rates(sides * hit[:, None], sides, settings)

    for always in (True, False):
        needed = int(clusters_needed(rates(4000, 0.0), 4000, margin, settings, always=always))
        seen = [getattr(rates(needed, margin).difference, "always" if always else "fixed").low > 0
                for _ in range(200)]  # fmt: skip
        assert 0.68 < np.mean(seen) < 0.92
    assert always_factor(3000, settings) > fixed_factor(3000, 0.95)


def test_intervals_hold_and_the_one_for_every_look_holds_at_all_of_them():
    """A smaller copy of benchmarks/experiment_coverage.py: people who come back, a look a day."""
    rng, stops, covered, runs = np.random.default_rng(8), 0, 0, 120
    settings = Settings(tightest_at=400)
    for _ in range(runs):
        person = rng.gamma(1.0, 1.0, 400)
        lists = np.cumsum(rng.poisson(person[:, None], (400, 10)), 1)
        clicks = np.cumsum(
            rng.binomial(np.diff(lists, axis=1, prepend=0), rng.beta(2, 12, 400)[:, None]), 1
        )
        side = np.eye(2)[rng.integers(0, 2, 400)]
        looks = [compare_rates(side * clicks[:, [d]], side * lists[:, [d]], settings).difference
                 for d in range(10)]  # fmt: skip
        stops += any(look.decided for look in looks)
        covered += looks[-1].fixed.low <= 0.0 <= looks[-1].fixed.high
    # Binomial: 95 % of 120 is 114 ± 2.4; four standard errors.
    assert 104 <= covered <= 120
    assert stops <= 6


def test_a_preference_counts_lists_and_doubts_by_person():
    settings, rng = Settings(tightest_at=500), np.random.default_rng(9)
    credit = np.where(rng.random(2000) < 0.6, 1.0, -1.0)
    alone = preference(credit, np.arange(2000), settings)
    assert alone.value == pytest.approx((credit > 0).mean() - 0.5)
    # Ten lists of each of 200 persons who always act alike say no more than 200 lists.
    alike = preference(np.repeat(credit[:200], 10), np.repeat(np.arange(200), 10), settings)
    single = preference(credit[:200], np.arange(200), settings)
    assert alike.error == pytest.approx(single.error)
    assert preference(np.zeros(0), np.zeros(0, int), settings).value is None
