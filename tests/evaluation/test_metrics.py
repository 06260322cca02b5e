"""Each metric by visible arithmetic, then against independent libraries on random rankings."""

import numpy as np
import pytest

from recsys.data_schemas.errors import RecsysError
from recsys.evaluation import metrics
from recsys.evaluation.lists import PastItems, RankedLists, Truth
from recsys.evaluation.popularity_at import PopularityAt, popularity_percentile

NAN = float("nan")


def truth_of(*groups: dict[int, int]) -> Truth:
    """One {item: grade} per group; every group its own user."""
    return Truth.of(
        np.array([g for g, found in enumerate(groups) for _ in found], int),
        np.array([i for found in groups for i in found], int),
        np.array([v for found in groups for v in found.values()], int),
        np.arange(len(groups)),
        np.zeros(len(groups), int),
    )


def lists_of(*rows: list[int], scores: list[list[float]] | None = None) -> RankedLists:
    length = max(len(r) for r in rows)
    given = scores or [list(range(len(r), 0, -1)) for r in rows]
    return RankedLists.of("x", list(zip(rows, given, strict=True)), length)


def matched(groups: list[dict[int, int]], *rows: list[int]) -> metrics.MatchedLists:
    return metrics.match(truth_of(*groups), lists_of(*rows))


def test_recall_divides_by_all_relevant_items_even_beyond_k() -> None:
    found = matched([{1: 1, 2: 1, 3: 1}, {9: 1}], [1, 7, 2, 3], [4, 5, 6, 7])
    np.testing.assert_allclose(metrics.recall(found, 1), [1 / 3, 0])
    np.testing.assert_allclose(metrics.recall(found, 3), [2 / 3, 0])
    np.testing.assert_allclose(metrics.recall(found, 4), [1, 0])


def test_precision_divides_by_k_even_when_the_list_is_short() -> None:
    found = matched([{1: 1, 2: 1}], [1])
    np.testing.assert_allclose(metrics.precision(found, 5), [1 / 5])
    np.testing.assert_allclose(metrics.recall(found, 5), [1 / 2])


def test_hit_rate_and_reciprocal_rank_look_for_the_first_hit() -> None:
    found = matched([{1: 1, 2: 1}, {1: 1}, {8: 1}], [5, 1, 2], [1, 3, 4], [1, 2, 3])
    np.testing.assert_allclose(metrics.hit_rate(found, 1), [0, 1, 0])
    np.testing.assert_allclose(metrics.hit_rate(found, 2), [1, 1, 0])
    np.testing.assert_allclose(metrics.mrr(found), [1 / 2, 1, 0])
    np.testing.assert_allclose(metrics.mrr(found, 1), [0, 1, 0])


def test_average_precision_is_the_mean_of_precision_at_hits() -> None:
    found = matched([{1: 1, 2: 1, 3: 1}], [1, 7, 2, 8])
    np.testing.assert_allclose(metrics.average_precision(found, 4), [(1 / 1 + 2 / 3) / 3])
    np.testing.assert_allclose(metrics.average_precision(found, 2), [(1 / 1) / 3])


def test_ndcg_uses_exponential_gain_and_the_best_possible_order() -> None:
    found = matched([{1: 3, 2: 1}], [7, 2, 1])
    got = 1 / np.log2(3) + 7 / np.log2(4)
    best = 7 / np.log2(2) + 1 / np.log2(3)
    np.testing.assert_allclose(metrics.ndcg(found, 3), [got / best])
    linear = (1 / np.log2(3) + 3 / np.log2(4)) / (3 / np.log2(2) + 1 / np.log2(3))
    np.testing.assert_allclose(metrics.ndcg(found, 3, "linear"), [linear])
    np.testing.assert_allclose(metrics.ndcg(found, 1), [0])


def test_the_ideal_list_is_cut_at_k_too() -> None:
    found = matched([{1: 1, 2: 1, 3: 1}], [1, 9, 8])
    np.testing.assert_allclose(metrics.ndcg(found, 1), [1])
    best = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    np.testing.assert_allclose(metrics.ndcg(found, 3), [1 / best])


def test_auc_counts_pairs_and_what_the_list_lacks_as_lost() -> None:
    found = matched([{1: 1}, {1: 1, 2: 1}, {1: 1, 2: 1}], [5, 1, 6], [1, 5, 2], [1, 5, 6])
    np.testing.assert_allclose(metrics.auc(found), [1 / 2, (1 + 0) / 2, (2 + 0) / 4])


def test_auc_counts_a_tie_as_half() -> None:
    lists = lists_of([5, 1, 6], scores=[[0.5, 0.5, 0.1]])
    found = metrics.match(truth_of({1: 1}), lists)
    np.testing.assert_allclose(metrics.auc(found), [(0.5 + 1) / 2])


def test_a_group_without_relevant_items_has_no_value() -> None:
    found = matched([{}, {1: 0, 2: -1}, {1: 1}], [1, 2], [1, 2], [1, 2])
    for value in (
        metrics.ndcg(found, 2),
        metrics.recall(found, 2),
        metrics.precision(found, 2),
        metrics.hit_rate(found, 2),
        metrics.mrr(found),
        metrics.average_precision(found, 2),
        metrics.auc(found),
    ):
        assert np.isnan(value[:2]).all()
        assert np.isfinite(value[2])


def test_all_positive_groups_have_no_auc_but_everything_else() -> None:
    found = matched([{1: 1, 2: 1}], [2, 1])
    assert np.isnan(metrics.auc(found)[0])
    for value in (metrics.ndcg(found, 2), metrics.recall(found, 2), metrics.mrr(found)):
        np.testing.assert_allclose(value, [1])


def test_an_empty_list_is_a_list_of_misses() -> None:
    found = matched([{1: 1}, {1: 1}], [], [1])
    np.testing.assert_allclose(metrics.ndcg(found, 5), [0, 1])
    np.testing.assert_allclose(metrics.mrr(found), [0, 1])
    np.testing.assert_allclose(metrics.auc(found), [0, NAN])


def test_a_list_of_hits_alone_that_lacks_some_scores_the_share_it_holds() -> None:
    found = matched([{1: 1, 2: 1, 3: 1}], [2])
    np.testing.assert_allclose(metrics.auc(found), [1 / 3])


def test_lists_without_any_place_are_misses() -> None:
    lists = RankedLists("x", np.empty((1, 0), np.int32), np.empty((1, 0), np.float32))
    found = metrics.match(truth_of({1: 1}), lists)
    assert metrics.ndcg(found, 3)[0] == metrics.mrr(found)[0] == metrics.recall(found, 3)[0] == 0


def test_an_item_shown_again_is_no_second_hit() -> None:
    found = matched([{1: 1, 2: 1}], [1, 1, 1])
    np.testing.assert_allclose(metrics.recall(found, 3), [1 / 2])
    assert found.repeated == 2


def test_coverage_counts_distinct_items_of_the_catalogue() -> None:
    lists = lists_of([1, 2], [2, 3])
    assert metrics.coverage(lists, 1, 10) == 2 / 10
    assert metrics.coverage(lists, 2, 10) == 3 / 10
    assert np.isnan(metrics.coverage(lists, 2, 0))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([5, 5, 5, 5], 0.0),
        ([0, 0, 0, 8], 3 / 4),
        # Mean absolute difference over ordered pairs (0 + 2 + 2 + 0) / 4, over twice the mean 2.
        ([1, 3], 1 / 4),
    ],
)
def test_gini_is_half_the_relative_mean_difference(counts: list[int], expected: float) -> None:
    assert metrics.gini(np.array(counts)) == pytest.approx(expected)


def test_gini_of_nothing_shown_is_undefined() -> None:
    assert np.isnan(metrics.gini(np.zeros(3, int)))


def test_novelty_is_self_information_with_one_added() -> None:
    popularity = np.array([1, 0, 3])  # with one added: 2, 1, 4 of 7
    lists = lists_of([0, 1], [2])
    expected = [(-np.log2(2 / 7) - np.log2(1 / 7)) / 2, -np.log2(4 / 7)]
    np.testing.assert_allclose(
        metrics.novelty(lists, 2, PopularityAt.same(popularity, 2, 3)), expected
    )


def test_popularity_percentile_shares_ties() -> None:
    np.testing.assert_allclose(
        popularity_percentile(np.array([5, 1, 1, 9])), [2 / 3, 0.5 / 3, 0.5 / 3, 1]
    )


def test_popularity_bias_is_list_minus_history() -> None:
    popularity = np.array([0, 1, 2])  # percentiles 0, 1/2, 1
    lists = lists_of([2, 1], [0], [1])
    bias = metrics.popularity_bias(
        lists,
        2,
        PopularityAt.same(popularity, 3, 3),
        PastItems(np.array([0, 2, 3, 3]), np.array([0, 1, 2], np.int32)),
    )
    np.testing.assert_allclose(bias, [3 / 4 - 1 / 4, 0 - 1, NAN])


def test_serendipity_pays_for_hits_nobody_would_guess() -> None:
    popularity = np.array([0, 1, 2])
    found_truth, lists = truth_of({0: 1, 2: 1}), lists_of([2, 0, 1])
    value = metrics.serendipity(
        metrics.match(found_truth, lists), lists, 3, PopularityAt.same(popularity, 1, 3)
    )
    np.testing.assert_allclose(value, [(0 + 1) / 3])


def test_category_diversity_counts_differing_pairs() -> None:
    category = np.array([0, 0, 1, -1, -1])
    lists = lists_of([0, 1, 2], [3, 4], [0])
    np.testing.assert_allclose(metrics.category_diversity(lists, 3, category), [2 / 3, 1, NAN])


def test_embedding_diversity_is_mean_cosine_distance() -> None:
    vectors = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    lists = lists_of([0, 1, 2], [0, 2], [1])
    np.testing.assert_allclose(
        metrics.embedding_diversity(lists, 3, vectors), [(1 + 0 + 1) / 3, 0, NAN], atol=1e-7
    )


def test_reliability_and_calibration_error() -> None:
    prediction, label = np.array([0.1, 0.1, 0.8, 0.8]), np.array([0, 1, 1, 1])
    bins = metrics.reliability(prediction, label, 2)
    assert [(b.observed, b.rows) for b in bins] == [(0.5, 2), (1.0, 2)]
    assert metrics.expected_calibration_error(bins) == pytest.approx((2 * 0.4 + 2 * 0.2) / 4)
    assert metrics.reliability(np.empty(0), np.empty(0, int)) == []
    assert np.isnan(metrics.expected_calibration_error([]))


def test_equal_predictions_share_a_bin() -> None:
    bins = metrics.reliability(np.full(50, 0.3), np.arange(50) % 2)
    assert [(b.predicted, b.observed, b.rows) for b in bins] == [(pytest.approx(0.3), 0.5, 50)]


def test_arrays_that_do_not_fit_say_what_was_expected() -> None:
    with pytest.raises(RecsysError, match=r"lists 'x' \(groups\)"):
        metrics.match(truth_of({1: 1}), lists_of([1], [2]))
    with pytest.raises(RecsysError, match="item after padding"):
        RankedLists("x", np.array([[-1, 2]], np.int32), np.zeros((1, 2), np.float32))
    with pytest.raises(RecsysError, match="twice in one group"):
        Truth(
            np.array([0, 2]),
            np.array([3, 3], np.int32),
            np.ones(2, np.int8),
            np.zeros(1, np.int32),
            np.zeros(1, np.int64),
        )


def test_truth_keeps_the_highest_grade_of_a_repeated_item() -> None:
    truth = Truth.of(
        np.array([1, 0, 1]), np.array([4, 2, 4]), np.array([1, 2, 3]), np.arange(2), np.zeros(2)
    )
    assert truth.offsets.tolist() == [0, 1, 2]
    assert truth.items.tolist() == [2, 4]
    assert truth.grades.tolist() == [2, 3]


@pytest.fixture(scope="module")
def random_case() -> tuple[Truth, RankedLists]:
    """80 groups, 60 items, lists of 30; grades 0–3; some groups without a relevant item."""
    rng = np.random.default_rng(5)
    groups = [
        {int(i): int(rng.integers(0, 4)) for i in rng.choice(60, rng.integers(0, 9), False)}
        for _ in range(80)
    ]
    rows = [rng.permutation(60)[:30].tolist() for _ in range(80)]
    return truth_of(*groups), lists_of(*rows)


@pytest.mark.parametrize("k", [1, 5, 10, 30, 50])
def test_accuracy_metrics_equal_ir_measures(random_case: tuple[Truth, RankedLists], k: int) -> None:
    import ir_measures
    from ir_measures import AP, RR, P, R, Success, nDCG

    truth, lists = random_case
    relations = [
        ir_measures.Qrel(str(g), str(i), int(v))
        for g, i, v in zip(truth.group_of_item, truth.items, truth.grades, strict=True)
    ]
    run = [
        ir_measures.ScoredDoc(str(g), str(i), float(s))
        for g in range(truth.n_groups)
        for i, s in zip(lists.items[g], lists.scores[g], strict=True)
    ]
    found = metrics.match(truth, lists)
    pairs = {
        nDCG @ k: metrics.ndcg(found, k, "linear"),
        R @ k: metrics.recall(found, k),
        P @ k: metrics.precision(found, k),
        AP @ k: metrics.average_precision(found, k),
        RR @ k: metrics.mrr(found, k),
        Success @ k: metrics.hit_rate(found, k),
    }
    seen = 0
    for value in ir_measures.iter_calc(list(pairs), relations, run):
        group = int(value.query_id)
        if found.relevant[group] == 0:
            continue
        assert value.value == pytest.approx(pairs[value.measure][group], abs=1e-9), value
        seen += 1
    assert seen == len(pairs) * int((found.relevant > 0).sum())


def test_ndcg_and_auc_equal_scikit_learn() -> None:
    from sklearn.metrics import ndcg_score, roc_auc_score

    rng = np.random.default_rng(6)
    for _ in range(30):
        grade = rng.integers(0, 4, 20)
        score = rng.integers(0, 6, 20).astype(float)
        order = np.argsort(-score, kind="stable")
        truth = truth_of({i: int(v) for i, v in enumerate(grade)})
        lists = lists_of(order.tolist(), scores=[score[order].tolist()])
        found = metrics.match(truth, lists)
        label = (grade > 0).astype(int)
        if 0 < label.sum() < 20:
            assert metrics.auc(found)[0] == pytest.approx(roc_auc_score(label, score))
        tied_free = np.arange(20, 0, -1.0)
        peer = ndcg_score([2.0 ** grade[order] - 1], [tied_free], k=7)
        assert metrics.ndcg(found, 7)[0] == pytest.approx(peer)


def test_calibration_bins_equal_scikit_learn() -> None:
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(7)
    chance = rng.random(5000)
    label = (rng.random(5000) < chance).astype(int)
    observed, predicted = calibration_curve(label, chance, n_bins=10, strategy="quantile")
    bins = metrics.reliability(chance, label)
    np.testing.assert_allclose([b.observed for b in bins], observed, atol=2e-3)
    np.testing.assert_allclose([b.predicted for b in bins], predicted, atol=1e-3)


def test_embedding_diversity_equals_the_pairwise_sum() -> None:
    rng = np.random.default_rng(8)
    vectors = rng.normal(size=(40, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [rng.permutation(40)[:7].tolist() for _ in range(9)]
    upper = np.triu_indices(7, 1)
    expected = [1 - (vectors[r] @ vectors[r].T)[upper].mean() for r in rows]
    got = metrics.embedding_diversity(lists_of(*rows), 7, vectors)
    np.testing.assert_allclose(got, expected, atol=1e-6)
