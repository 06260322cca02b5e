"""Fusion by visible arithmetic, and what the stage promises."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from recsys.data_schemas.errors import UsageError
from recsys.features.protocols import Recalled
from recsys.retrieval.candidates import CandidateGenerator, kept


def free(n=10):
    return np.zeros(n, np.uint8)


def test_fused_score_is_the_weighted_sum_of_reciprocal_ranks(fixed, nobody):
    stage = CandidateGenerator(
        {"a": fixed("a", [3, 1, 2], [9, 6, 3]), "b": fixed("b", [1, 4], [0.5, 0.1])},
        depth=5,
        limit=10,
        weights={"a": 1.0, "b": 2.0},
    )
    found = stage.candidates(nobody, 0, free())
    expected = {1: 1 / 62 + 2 / 61, 4: 2 / 62, 3: 1 / 61, 2: 1 / 63}
    assert found.items.tolist() == [1, 4, 3, 2]
    np.testing.assert_allclose(
        found.signals["fused.score"], [expected[i] for i in found.items], rtol=1e-6
    )
    np.testing.assert_array_equal(found.signals["fused.rank"], [1, 2, 3, 4])
    np.testing.assert_array_equal(found.signals["a.rank"], [2, np.nan, 1, 3])
    np.testing.assert_array_equal(found.signals["b.rank"], [1, 2, np.nan, np.nan])
    np.testing.assert_allclose(found.signals["a.share"], [6 / 9, np.nan, 1, 3 / 9], rtol=1e-6)
    np.testing.assert_allclose(found.signals["a.score"], [6, np.nan, 9, 3])
    assert tuple(found.signals) == stage.signal_columns


def test_a_sources_first_items_are_in_whatever_the_fusion_makes_of_them(fixed, nobody):
    """`b` weighs next to nothing, and its first item is in no other list."""
    many = list(range(1, 40))
    sources = {"a": fixed("a", many, many[::-1]), "b": fixed("b", [50], [1])}
    stage = CandidateGenerator(sources, 40, 20, weights={"a": 1.0, "b": 1e-9})
    found = stage.candidates(nobody, 0, free(60)).items.tolist()
    assert found == [*many[:19], 50]


def kept_by_definition(ranked, reserved, limit):
    reserved = list(dict.fromkeys(reserved))
    alone = [item for item in reserved if item not in ranked]
    room = max(0, limit - len(reserved))
    others = [item for item in ranked if item not in reserved][:room]
    return [*(item for item in ranked if item in reserved or item in others), *alone][:limit]


def test_reserved_items_are_kept_and_the_best_of_the_others():
    draw = np.random.default_rng(3)
    for _ in range(500):
        ranked = draw.permutation(40)[: draw.integers(0, 30)].astype(np.int32)
        reserved = draw.integers(0, 40, draw.integers(0, 25)).astype(np.int32)
        limit = int(draw.integers(1, 40))
        expected = kept_by_definition(ranked.tolist(), reserved.tolist(), limit)
        assert kept(ranked, reserved, limit).tolist() == expected


class Counted:
    """A source that has counted events: items from 4 on have few."""

    events = np.array([9, 255, 4, 4, 0, 0, 0, 0], np.uint8)


def with_few(fixed):
    class Popular(Counted, fixed):
        pass

    return {
        "popular": Popular("popular", [0, 1, 2, 3], [4, 3, 2, 1]),
        "text": fixed("text", [1, 0, 6, 5, 9], [5, 4, 3, 2, 1]),
        "bm25": fixed("bm25", [5], [1]),
    }


def test_items_with_few_events_have_places_of_their_own(fixed, nobody):
    """Depth 2 leaves `text` no word on items 6, 5 and 9; among those with few events it has."""
    stage = CandidateGenerator(with_few(fixed), 2, 12)
    found = stage.candidates(nobody, 0, free())
    # item 9 came after the fit; three of twelve places are reserved, two for items without any
    # event, and 5 is in two lists
    assert set(found.items.tolist()) == {0, 1, 5, 6}
    rank = dict(zip(found.items.tolist(), found.signals["reserve.rank"].tolist(), strict=True))
    assert (rank[5], rank[6]) == (1, 2)
    assert np.isnan([rank[0], rank[1]]).all()


def test_the_reserve_asks_nobody_who_speaks_by_behaviour(fixed, nobody):
    sources = {**with_few(fixed), "als": fixed("als", [7, 6], [2, 1])}
    found = CandidateGenerator(sources, 1, 10).candidates(nobody, 0, free())
    assert dict(zip(found.items, found.signals["reserve.rank"], strict=True)).get(7, 9) != 1


def test_a_reserved_item_is_never_one_that_is_blocked(fixed, nobody):
    blocked = free()
    blocked[[5, 6]] = 1
    found = CandidateGenerator(with_few(fixed), 2, 12).candidates(nobody, 0, blocked)
    assert not {5, 6} & set(found.items.tolist())


def test_given_items_have_the_signals_of_candidates(fixed, nobody):
    stage = CandidateGenerator(with_few(fixed), 2, 12)
    found = stage.candidates(nobody, 0, free())
    again = stage.signals_for(nobody, found.items, 0, free())
    for name, values in found.signals.items():
        np.testing.assert_array_equal(again[name], values)


def test_equal_fused_scores_go_by_item_index(fixed, nobody):
    stage = CandidateGenerator({"a": fixed("a", [7], [1]), "b": fixed("b", [2], [1])}, 5, 10)
    assert stage.candidates(nobody, 0, free()).items.tolist() == [2, 7]


def test_the_limit_keeps_the_best(fixed, nobody):
    stage = CandidateGenerator({"a": fixed("a", [5, 3, 8, 1], [4, 3, 2, 1])}, 4, 2)
    found = stage.candidates(nobody, 0, free())
    assert found.items.tolist() == [5, 3]
    assert all(len(signal) == 2 for signal in found.signals.values())


def test_blocked_items_are_not_candidates(fixed, nobody):
    stage = CandidateGenerator({"a": fixed("a", [5, 3, 8], [4, 3, 2])}, 4, 4)
    blocked = free()
    blocked[3] = 1
    assert stage.candidates(nobody, 0, blocked).items.tolist() == [5, 8]
    assert len(stage.candidates(nobody, 0, np.ones(10, np.uint8)).items) == 0


def test_a_source_without_vote_still_speaks(fixed, nobody):
    sources = {"a": fixed("a", [5], [1]), "b": fixed("b", [6], [1])}
    found = CandidateGenerator(sources, 4, 4, weights={"b": 0.0}).candidates(nobody, 0, free())
    assert found.items.tolist() == [5]
    assert np.isnan(found.signals["b.score"]).all()


def test_scores_without_a_positive_best_share_by_difference(fixed, nobody):
    stage = CandidateGenerator({"a": fixed("a", [5, 6], [-1, -2])}, 4, 4)
    np.testing.assert_allclose(
        stage.candidates(nobody, 0, free()).signals["a.share"], [1, np.exp(-1)], rtol=1e-6
    )


def test_logarithms_share_by_difference_and_negative_scores_share_nothing(fixed, nobody):
    logs, plain = fixed("logs", [5, 6], [2, 1]), fixed("plain", [5, 6], [2, -1])
    logs.logarithmic = True
    signals = (
        CandidateGenerator({"logs": logs, "plain": plain}, 4, 4)
        .candidates(nobody, 0, free())
        .signals
    )
    np.testing.assert_allclose(signals["logs.share"], [1, np.exp(-1)], rtol=1e-6)
    np.testing.assert_allclose(signals["plain.share"], [1, 0])


def test_signals_for_given_items_are_those_of_recall(fitted, history):
    stage = CandidateGenerator(fitted, 20, 15)
    past, blocked = history([0, 2, 6]), free(40)
    blocked[past.item] = 1
    found = stage.candidates(past, 0, blocked)
    again = stage.signals_for(past, found.items, 0, blocked)
    assert list(found.signals) == list(again)
    for name, signal in found.signals.items():
        np.testing.assert_array_equal(signal, again[name], err_msg=name)


def test_each_source_says_in_the_stage_what_it_says_alone(fitted, history):
    """Also of an item that is given twice; scores of a list are those of its items."""
    stage = CandidateGenerator(fitted, 20, 15)
    past, blocked = history([0, 2, 6, 11]), free(40)
    items = np.array([3, 8, 3, 77, 12, 8], np.int32)
    signals = stage.signals_for(past, items, 0, blocked)
    for name, source in fitted.items():
        alone = source.score(past, items, 0)
        for place, column in enumerate(source.columns):
            np.testing.assert_array_equal(signals[f"{name}.{column}"], alone[:, place], column)
        listed = source.recall(past, 20, 0, blocked)
        scored = source.score(past, listed.items, 0)[:, 0]
        np.testing.assert_array_equal(listed.scores, scored, err_msg=name)
        rank = dict(zip(listed.items.tolist(), range(1, 21), strict=False))
        expected = [rank.get(item, np.nan) for item in items.tolist()]
        np.testing.assert_array_equal(signals[f"{name}.rank"], expected, err_msg=name)


def test_a_source_made_of_another_is_read_as_its_own(fitted, history):
    """A class that changes what is said is not asked through what it inherited, nor kept by it."""
    kind = type(fitted["item_item"])

    class Doubled(kind):
        def score(self, history, items, now):
            return 2 * super().score(history, items, now)

    plain = fitted["item_item"]
    doubled = Doubled(
        plain.offsets, plain.neighbour, plain.value, plain.known,
        params=plain.params, scale=plain.scale, fit_until=plain.fit_until,
    )  # fmt: skip
    past, items = history([0, 2, 6]), np.arange(20, dtype=np.int32)
    one, two = (CandidateGenerator({"item_item": s}, 20, 15) for s in (plain, doubled))
    said, twice = (s.signals_for(past, items, 0, free(40)) for s in (one, two))
    np.testing.assert_array_equal(twice["item_item.score"], 2 * said["item_item.score"])
    assert one.moment_key(past, 0) is not None
    assert two.moment_key(past, 0) is None


def test_what_of_the_moment_answers_depend_on_is_for_each_source_to_say(fixed, history):
    class ByTheHour(fixed):
        def moment_key(self, history, now):
            return bytes([now // 60 % 24])

    silent, told = fixed("a", [3, 1], [2, 1]), ByTheHour("b", [1, 2], [2, 1])
    past = history([0])
    assert CandidateGenerator({"b": told}, 5, 5).moment_key(past, 119) == (b"\x01",)
    assert CandidateGenerator({"a": silent, "b": told}, 5, 5).moment_key(past, 119) is None


def test_an_item_nobody_knows_has_no_signal(fitted, history):
    stage = CandidateGenerator(fitted, 20, 15)
    signals = stage.signals_for(history([0, 2]), np.array([77], np.int32), 0, free(80))
    assert np.isnan(np.array(list(signals.values()))).all()


@pytest.mark.parametrize("past", [[], [77]], ids=["no history", "history of unknown items"])
def test_nobody_gets_an_empty_list(past, fitted, history):
    stage = CandidateGenerator(fitted, 20, 15)
    assert len(stage.candidates(history(past), 0, free(80)).items) == 15
    all_but_one = np.ones(40, np.uint8)
    all_but_one[39] = 0
    assert stage.candidates(history(past), 0, all_but_one).items.tolist() == [39]


def test_somebody_new_gets_what_is_popular_though_it_weighs_nothing(fitted, history, nobody):
    sources = {name: fitted[name] for name in ("popular", "item_item", "als")}
    stage = CandidateGenerator(sources, 20, 5, weights={"popular": 0.0})
    blocked = np.zeros(fitted["popular"].n_items, np.uint8)
    new = stage.candidates(nobody, 0, blocked)
    popular = fitted["popular"].recall(nobody, 5, 0, blocked).items
    np.testing.assert_array_equal(new.items, popular)
    assert np.isfinite(new.signals["fused.score"]).all()
    somebody = history([0, 2, 4])
    known = stage.candidates(somebody, 10**15, blocked).items
    without = CandidateGenerator({n: fitted[n] for n in ("item_item", "als")}, 20, 5)
    np.testing.assert_array_equal(known, without.candidates(somebody, 10**15, blocked).items)


def test_threads_do_not_disturb_one_another(fitted, history):
    stage = CandidateGenerator(fitted, 20, 15)
    pasts = [history([i % 38, (i * 7) % 38, (i * 11) % 38]) for i in range(200)]
    one_by_one = [stage.candidates(past, 0, free(40)) for past in pasts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda past: stage.candidates(past, 0, free(40)), pasts))
    for one, other in zip(one_by_one, together, strict=True):
        np.testing.assert_array_equal(one.items, other.items)
        for name in one.signals:
            np.testing.assert_array_equal(one.signals[name], other.signals[name])


def test_an_item_beyond_the_mask_is_refused(fixed, nobody):
    careless = fixed("a", [12], [1])
    careless.recall = lambda *_: Recalled(careless.items, careless.scores)
    with pytest.raises(ValueError, match="proposed item 12"):
        CandidateGenerator({"a": careless}, 5, 5).candidates(nobody, 0, free(10))


def test_depth_and_limit_must_be_positive(fixed):
    with pytest.raises(UsageError, match="at least 1"):
        CandidateGenerator({}, 0, 10)
