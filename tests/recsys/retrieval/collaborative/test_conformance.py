"""What every source must do, whatever it is: one suite for all."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.features.interactions import EMPTY_HISTORY
from recsys.features.protocols import RecallSource, ScoreSource
from recsys.retrieval.source_kinds import load_source, shipped, source_class
from recsys.retrieval.source_params import declared
from recsys.training.sources.fit_source import fit_one

NAMES = tuple(shipped())
PERSONAL = tuple(name for name in NAMES if name not in ("popular", "recent"))


@pytest.fixture(params=NAMES)
def source(request, fitted):
    return fitted[request.param]


def free(n):
    return np.zeros(n, np.uint8)


def test_implements_both_protocols(source):
    assert isinstance(source, ScoreSource)
    assert isinstance(source, RecallSource)
    assert shipped()[source.name] is type(source)


def test_fit_until_is_the_last_event(source, world):
    assert source.fit_until == world[0].time.max()


def test_scores_have_a_row_per_item_and_a_column_per_name(source, history):
    scores = source.score(history([0, 2, 4]), np.arange(5, dtype=np.int32), 0)
    assert scores.shape == (5, len(source.columns))
    assert scores.dtype == np.float32


def test_items_beyond_the_vocabulary_are_unknown(source, history):
    items = np.array([40, 41, 10_000, -1, 6], np.int32)
    scores = source.score(history([0, 2, 4]), items, 0)
    assert np.isnan(scores[:4]).all()
    assert not np.isnan(scores[4]).any()


def test_history_beyond_the_vocabulary_is_ignored(source, history):
    items = np.arange(40, dtype=np.int32)
    known = source.score(history([0, 2, 4]), items, 0)
    with_new = source.score(history([0, 2, 77, 4]), items, 0)
    np.testing.assert_array_equal(known, with_new)


@pytest.mark.parametrize("name", PERSONAL)
def test_an_empty_history_says_nothing(name, fitted, history):
    for nothing in (EMPTY_HISTORY, history([500]), history([1, 3], [-1, -1])):
        assert np.isnan(fitted[name].score(nothing, np.arange(9, dtype=np.int32), 0)).all()
        assert len(fitted[name].recall(nothing, 5, 0, free(40)).items) == 0


@pytest.mark.parametrize("name", ["popular", "recent"])
def test_an_empty_history_still_gets_what_is_popular(name, fitted):
    assert len(fitted[name].recall(EMPTY_HISTORY, 40, 0, free(40)).items) == 40


def test_dislikes_add_nothing(source, history):
    items = np.arange(40, dtype=np.int32)
    plain = source.score(history([0, 2, 4]), items, 0)
    disliked = source.score(history([0, 1, 2, 3, 4], [5, -1, 5, -1, 5]), items, 0)
    np.testing.assert_array_equal(plain, disliked)


def test_recall_is_the_best_of_score(source, history):
    past = history([0, 2, 4, 10])
    found = source.recall(past, 12, 0, free(40))
    scores = source.score(past, np.arange(40, dtype=np.int32), 0)[:, 0]
    np.testing.assert_array_equal(found.scores, scores[found.items])
    order = np.lexsort((np.arange(40), -np.nan_to_num(scores, nan=-np.inf)))
    np.testing.assert_array_equal(found.items, order[: len(found.items)])


def test_blocked_items_never_come_back(source, history):
    past = history([0, 2, 4, 10])
    mask = free(50)
    mask[source.recall(past, 6, 0, free(40)).items] = 1
    again = source.recall(past, 40, 0, mask).items
    assert mask[again].sum() == 0
    assert len(source.recall(past, 40, 0, np.ones(40, np.uint8)).items) == 0


def test_a_mask_that_is_too_short_is_refused(source, history):
    with pytest.raises(ValueError, match="expected at least 40"):
        source.recall(history([0]), 5, 0, free(39))


def test_a_limit_of_zero_is_an_empty_list(source, history):
    assert len(source.recall(history([0, 2]), 0, 0, free(40)).items) == 0


def test_saved_and_loaded_gives_the_same_bits(source, history, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "fusion_weight", 0.37)
    source.save(tmp_path)
    opened = load_source(tmp_path)
    past = history([1, 3, 9, 11])
    items = np.arange(45, dtype=np.int32)
    np.testing.assert_array_equal(source.score(past, items, 0), opened.score(past, items, 0))
    for mine, theirs in zip(
        source.recall(past, 20, 0, free(40)), opened.recall(past, 20, 0, free(40)), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    assert opened.fit_until == source.fit_until
    assert opened.params == source.params
    assert opened.fusion_weight == 0.37
    assert not any(p.suffix in (".pkl", ".pickle") for p in tmp_path.iterdir())


def test_a_damaged_folder_is_refused(source, tmp_path):
    source.save(tmp_path)
    next(tmp_path.glob("*.npy")).unlink()
    with pytest.raises(DataRefused, match="cannot be read"):
        load_source(tmp_path)


def test_two_fits_are_equal(source, world, history, small):
    interactions, inputs = world
    params = small.get(source.name, {})
    again = fit_one(source.name, interactions, inputs, params, seed=1, workers=1)
    past, items = history([1, 3, 9]), np.arange(40, dtype=np.int32)
    np.testing.assert_array_equal(source.score(past, items, 0), again.score(past, items, 0))


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    past=st.lists(st.integers(0, 60), max_size=70), pick=st.lists(st.integers(0, 60), min_size=1)
)
def test_a_candidates_score_does_not_depend_on_the_others(source, history, past, pick):
    together = source.score(history(past), np.array(pick, np.int32), 0)
    for row, item in zip(together, pick, strict=True):
        one_item = source.score(history(past), np.array([item], np.int32), 0)[0]
        np.testing.assert_array_equal(row, one_item)


@pytest.mark.parametrize("name", PERSONAL)
def test_taste_is_found(name, fitted, history):
    past = history([0, 4, 8, 12])
    blocked = free(40)
    blocked[past.item] = 1
    found = fitted[name].recall(past, 10, 0, blocked).items
    assert np.mean(found % 2 == 0) >= 0.8


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("users", "items", "n_items"),
    [([], [], 3), ([0], [0], 1), ([0, 1, 2], [0, 1, 2], 3), ([0, 0, 1, 1], [1, 1, 1, 1], 3)],
    ids=["no events", "one item", "one event each", "one item for all"],
)
def test_degenerate_data_gives_a_source_that_answers(
    name, users, items, n_items, interactions_of, inputs_of, history, small
):
    source = fit_one(
        name,
        interactions_of(users, items, n_items=n_items),
        inputs_of(n_items),
        small.get(name, {}),
        seed=1,
        workers=1,
    )
    found = source.recall(history([0]), 5, 0, free(n_items))
    assert np.isfinite(found.scores).all()
    assert source.score(history([0]), np.array([0], np.int32), 0).shape[0] == 1


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_param_is_refused_by_name(name, world):
    with pytest.raises(UsageError, match="no parameter 'colour'"):
        fit_one(name, *world, {"colour": 1.0}, seed=1, workers=1)


@pytest.mark.parametrize("name", NAMES)
def test_an_unusable_param_is_refused(name, world):
    param = next(iter(declared(source_class(name).Params)))
    with pytest.raises(UsageError, match="not usable"):
        fit_one(name, *world, {param: float("nan")}, seed=1, workers=1)


def test_an_unknown_source_lists_the_known_ones():
    with pytest.raises(UsageError, match="item_item"):
        source_class("als2")
