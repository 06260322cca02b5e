"""Two versions on the same rows."""

import json
from pathlib import Path

import numpy as np
import pytest

from recsys.evaluation.comparison import compare_lists, overlap_at, rank_biased_overlap
from recsys.evaluation.comparison_page import write_comparison
from recsys.evaluation.lists import RankedLists, Truth
from recsys.evaluation.report import evaluate_lists


def lists_of(name: str, *rows: list[int]) -> RankedLists:
    length = max(len(r) for r in rows)
    return RankedLists.of(name, [(r, list(range(len(r), 0, -1))) for r in rows], length)


def test_overlap_is_over_the_longer_list() -> None:
    a = lists_of("a", [1, 2, 3], [1, 2, 3], [1], [])
    b = lists_of("b", [3, 2, 9], [1, 2, 3], [1, 2, 4], [])
    np.testing.assert_allclose(overlap_at(a, b, 3), [2 / 3, 1, 1 / 3, np.nan])
    np.testing.assert_allclose(overlap_at(a, b, 1), [0, 1, 1, np.nan])


def test_rank_biased_overlap_by_arithmetic() -> None:
    a, b = lists_of("a", [1, 2], [1, 2], [1, 2]), lists_of("b", [2, 1], [1, 2], [8, 9])
    p = 0.9
    swapped = (1 - p) * (0 / 1 + p * 2 / 2) + p**2 * 2 / 2
    np.testing.assert_allclose(rank_biased_overlap(a, b, p), [swapped, 1.0, 0.0])


@pytest.mark.usefixtures("undrawn")
def test_gains_losses_and_examples(
    truth: Truth, systems: list[RankedLists], popularity: np.ndarray, tmp_path: Path
) -> None:
    newer, older = systems[0], systems[1]
    evaluation = evaluate_lists(
        truth, [newer, older], main="good", ks=(10,), catalogue_size=200,
        item_popularity=popularity, resamples=100,
    )  # fmt: skip
    found = compare_lists(truth, newer, older, evaluation, examples=3)
    change = evaluation.per_group["good/ndcg@10"] - evaluation.per_group["fair/ndcg@10"]
    assert found.gained == int((change > 0).sum())
    assert found.lost == int((change < 0).sum())
    assert found.gained + found.lost + found.unchanged == truth.n_groups
    best = found.most_gained[0]
    assert best.after - best.before == pytest.approx(change.max())
    assert len(found.most_gained) == 3
    assert all(c.after < c.before for c in found.most_lost)
    assert 0 < found.overlap[10].value < 1

    titles = np.array([f"Title <{i}>" for i in range(150)], object)
    page = write_comparison(found, tmp_path, titles=titles, warnings=["a & b"])
    source = page.read_text(encoding="utf-8")
    assert "is ahead of fair" in source
    assert "Title &lt;" in source
    assert "Title <" not in source
    assert "a &amp; b" in source
    tree = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    assert tree["gained"] == found.gained
    assert tree["evaluation"]["main"] == "good"


def test_a_version_against_itself(
    truth: Truth, systems: list[RankedLists], popularity: np.ndarray
) -> None:
    twin = RankedLists("twin", systems[0].items, systems[0].scores)
    evaluation = evaluate_lists(
        truth, [systems[0], twin], main="good", ks=(10,), catalogue_size=200,
        item_popularity=popularity, resamples=30,
    )  # fmt: skip
    found = compare_lists(truth, systems[0], twin, evaluation)
    assert (found.gained, found.lost, found.most_gained, found.most_lost) == (0, 0, [], [])
    assert found.rank_biased_overlap.value == pytest.approx(1.0)
    assert found.same_first.value == 1.0
