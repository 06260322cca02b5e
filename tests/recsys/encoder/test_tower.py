"""The user tower: arithmetic, the source's contract, and recall against a full scan."""

import numpy as np
import pytest

from recsys.data_schemas.errors import RecsysError
from recsys.encoder.index import open_index, write_index
from recsys.encoder.tower import (
    InterestSource,
    Tower,
    age_place,
    grade_place,
)
from recsys.features.interactions import DAY, EMPTY_HISTORY, History
from recsys.features.protocols import RecallSource, ScoreSource

D, N = 16, 300


def unit(rng, n, d=D):
    vectors = rng.normal(size=(n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def random_tower(rng, places=6, kinds=2):
    plain = Tower.plain(D, places, kinds)
    noise = {
        name: (value + rng.normal(scale=0.3, size=value.shape)).astype(np.float32)
        for name, value in vars(plain).items()
    }
    noise["calibration"] = np.array([3.0, -0.5], np.float32)
    return Tower(**noise)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def folder(rng, tmp_path):
    random_tower(rng).save(tmp_path)
    return tmp_path


@pytest.fixture
def source(rng, folder):
    return InterestSource.open(folder, unit(rng, N), 5 * DAY)


def a_history(items, grades=None):
    n = len(items)
    grade = np.full(n, 3, np.int8) if grades is None else np.array(grades, np.int8)
    return History(
        np.array(items, np.int32),
        (np.arange(n) % 3).astype(np.int16),
        np.arange(n, dtype=np.int64) * DAY,
        np.where(grade < 0, -1, 5).astype(np.float32),
        grade,
    )


def test_it_is_a_score_and_recall_source(source):
    assert isinstance(source, ScoreSource)
    assert isinstance(source, RecallSource)


def test_plain_tower_is_a_decayed_mean():
    vectors = np.eye(D, dtype=np.float32)
    tower = Tower.plain(D, 5, 1, decay=0.5)
    scores = InterestSource.of(tower, vectors, 0).score(
        a_history([3, 7]), np.array([7, 3, 1], np.int32), 10 * DAY
    )
    # The last item weighs 2/3, the one before 1/3, and their mean has length √5/3.
    np.testing.assert_allclose(scores[:, 0], [2 / 5**0.5, 1 / 5**0.5, 0], atol=1e-6)
    np.testing.assert_allclose(scores[:, 2], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(scores[:, 3], [1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(scores[:, 4], [0.5, 0.5, 0], atol=1e-6)


def test_scores_agree_with_plain_numpy(source):
    history, now = a_history([4, 9, 2, 30], [3, -1, 0, 3]), 9 * DAY
    t, v = source.tower, source.vectors
    past = v[history.item]
    logits = past @ t.key @ (past[-1] @ t.query) / np.sqrt(t.query.shape[1])
    logits += t.kind_bias[np.where(history.kind < 2, history.kind, -1)]
    logits += t.grade_bias[grade_place(history.grade)] + t.position_bias[:4][::-1]
    logits += t.age_bias[age_place(now, history.time)]
    logits += t.weight_slope[0] * np.log1p(np.maximum(history.weight, 0))
    share = np.exp(logits - logits.max())
    share *= t.grade_gate[grade_place(history.grade)] / share.sum()
    user = t.project @ (share @ past)
    user /= np.linalg.norm(user)
    found = source.score(history, np.arange(N, dtype=np.int32), now)
    np.testing.assert_allclose(found[:, 0], v @ user, atol=2e-6)
    np.testing.assert_allclose(found[:, 1], 1 / (1 + np.exp(-(3 * (v @ user) - 0.5))), atol=2e-6)
    liked = past[[0, 2, 3]]
    np.testing.assert_allclose(found[:, 2], v @ liked[-1], atol=2e-6)
    np.testing.assert_allclose(found[:, 3], (v @ liked.T).max(1), atol=2e-6)
    near = v @ liked.T
    np.testing.assert_allclose(found[:, 4], near.mean(1), atol=2e-6)
    speaks = np.exp(8.0 * near)
    np.testing.assert_allclose(found[:, 5], (speaks * near).sum(1) / speaks.sum(1), atol=2e-6)


def test_the_short_term_is_the_latest_three_that_were_liked(source):
    history, v = a_history([4, 9, 2, 30, 7, 11], [3, 3, 3, -1, 3, 3]), source.vectors
    found = source.score(history, np.arange(N, dtype=np.int32), 9 * DAY)
    np.testing.assert_allclose(found[:, 6], (v @ v[[2, 7, 11]].T).mean(1), atol=2e-6)
    one = source.score(a_history([4]), np.arange(N, dtype=np.int32), 9 * DAY)
    for column in (2, 3, 4, 5, 6):  # one item is the last, the nearest, the mean and all there is
        np.testing.assert_allclose(one[:, column], v @ v[4], atol=2e-6)


def test_a_score_does_not_depend_on_its_list(source):
    history, items = a_history([1, 2, 3]), np.arange(N, dtype=np.int32)
    together = source.score(history, items, 9 * DAY)
    one_by_one = np.concatenate(
        [source.score(history, items[i : i + 1], 9 * DAY) for i in range(N)]
    )
    assert np.array_equal(together, one_by_one)


@pytest.mark.parametrize("limit", [1, 10, 299, 1000])
def test_recall_is_the_full_scan(source, limit):
    history, now = a_history([4, 9, 2, 30]), 9 * DAY
    blocked = np.zeros(N, np.uint8)
    blocked[history.item] = 1
    found = source.recall(history, limit, now, blocked)
    scores = source.score(history, np.arange(N, dtype=np.int32), now)[:, 0]
    order = np.lexsort((np.arange(N), -scores))
    wanted = order[blocked[order] == 0][:limit]
    assert found.items.tolist() == wanted.tolist()
    assert np.array_equal(found.scores, scores[wanted])


def test_only_events_before_now_are_seen(source):
    items = np.arange(20, dtype=np.int32)
    whole, now = a_history([1, 2, 3, 4]), 2 * DAY
    cut = History(*(column[:2] for column in whole))
    assert np.array_equal(source.score(whole, items, now), source.score(cut, items, now))


def test_unknown_history_and_items_have_no_score(source):
    items = np.array([0, N, -1], np.int32)
    assert np.isnan(source.score(EMPTY_HISTORY, items, 0)).all()
    assert np.isnan(source.score(a_history([N + 5]), items, DAY)).all()
    assert np.isnan(source.score(a_history([3, 4], [-1, -1]), items, 3 * DAY)).all()
    scores = source.score(a_history([3, N + 5]), items, 3 * DAY)
    assert np.isfinite(scores[0]).all()
    assert np.isnan(scores[1:]).all()
    assert len(source.recall(EMPTY_HISTORY, 5, 0, np.zeros(N, np.uint8)).items) == 0


def test_appended_items_are_scored_and_recalled(source, rng):
    more = source.with_extra(source.vectors[:2] * -1)
    assert more.n_items == N + 2
    history, now = a_history([5, N + 1]), 9 * DAY
    scores = more.score(history, np.arange(N + 2, dtype=np.int32), now)
    assert np.isfinite(scores).all()
    found = more.recall(history, 5, now, np.zeros(N + 2, np.uint8))
    assert found.items[0] == np.argmax(scores[:, 0])
    blocked = np.zeros(N + 2, np.uint8)
    blocked[N + 1] = 1
    assert N + 1 not in more.recall(history, N + 2, now, blocked).items


def test_an_index_may_stand_in_for_the_scan(source, folder):
    def nearest(vector, count, blocked):
        order = np.argsort(-(source.vectors @ vector), kind="stable")
        return order[blocked[order] == 0][:count]

    indexed = InterestSource.open(folder, source.vectors, 0, neighbours=nearest)
    history, blocked = a_history([4, 9]), np.zeros(N, np.uint8)
    blocked[::2] = 1
    plain = source.recall(history, 7, 9 * DAY, blocked)
    found = indexed.recall(history, 7, 9 * DAY, blocked)
    assert found.items.tolist() == plain.items.tolist()


def test_similar_items(source):
    free = np.zeros(N, np.uint8)
    found = source.similar(np.array([7], np.int32), 3, free)
    near = source.vectors @ source.vectors[7]
    near[7] = -2
    assert found.items.tolist() == np.argsort(-near)[:3].tolist()
    two = np.array([7, 9], np.int32)
    near = source.vectors @ (source.vectors[7] + source.vectors[9])
    near[two] = -2
    assert source.similar(two, 3, free).items.tolist() == np.argsort(-near)[:3].tolist()


def test_nothing_is_near_a_text_that_was_not_encoded(source):
    waiting = source.with_extra(np.zeros((1, source.vectors.shape[1]), np.float32))
    assert not len(waiting.similar(np.array([N], np.int32), 3, np.zeros(N + 1, np.uint8)).items)


def test_save_and_load_keep_every_bit(source, tmp_path):
    target = tmp_path / "saved"
    target.mkdir()
    source.save(target)
    again = InterestSource.load(target)
    history, items = a_history([1, 2, 3]), np.arange(N, dtype=np.int32)
    assert again.fit_until == source.fit_until
    assert isinstance(again.vectors, np.memmap)
    assert np.array_equal(
        again.score(history, items, DAY * 9), source.score(history, items, DAY * 9)
    )


def test_attention_adds_up_and_is_sorted(source):
    found = source.attention(a_history([1, 2, 3, 4]), 9 * DAY)
    assert sorted(found.items.tolist()) == [1, 2, 3, 4]
    assert found.scores.sum() == pytest.approx(1.0, abs=1e-6)
    assert (np.diff(found.scores) <= 0).all()


def test_vectors_of_another_encoder_are_refused(folder, rng):
    with pytest.raises(RecsysError, match="not this encoder's"):
        InterestSource.open(folder, unit(rng, 5, D + 1), 0)


def test_a_damaged_tower_is_refused(folder, rng):
    (folder / "tower.safetensors").write_bytes(b"half")
    with pytest.raises(RecsysError, match="user tower cannot be read"):
        InterestSource.open(folder, unit(rng, 5), 0)


def test_a_large_catalogues_index_is_written_once_and_filters_inside_the_search(
    source, tmp_path, monkeypatch
):
    write_index(tmp_path, source.vectors)
    assert open_index(tmp_path, source.vectors) is None
    monkeypatch.setattr("recsys.encoder.index.LISTS_FROM", N)
    write_index(tmp_path, source.vectors)
    search = open_index(tmp_path, source.vectors)
    blocked = np.zeros(N, np.uint8)
    blocked[::2] = 1
    near = source.vectors @ source.vectors[7]
    near[::2] = -2
    assert search(source.vectors[7], 5, blocked).tolist() == np.argsort(-near)[:5].tolist()


def test_a_tower_follows_its_event_types_by_name(rng):
    tower = random_tower(rng, places=4, kinds=2)
    moved = tower.aligned(["click", "view"], ["view", "share", "click"], 6)
    click, view, unknown = tower.kind_bias
    assert moved.kind_bias.tolist() == [view, unknown, click, unknown]
    assert moved.position_bias.tolist() == [*tower.position_bias, *[tower.position_bias[-1]] * 2]
    assert np.array_equal(moved.project, tower.project)
