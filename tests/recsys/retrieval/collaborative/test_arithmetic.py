"""Each source against arithmetic that can be done by hand, and against the reference formula."""

import numpy as np
import pytest
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix

from recsys.data_schemas.errors import DataRefused
from recsys.features.interactions import DAY
from recsys.retrieval.ann import InvertedLists, scan
from recsys.retrieval.collaborative.als import Als, fit_factors
from recsys.retrieval.collaborative.ease import Ease, ridge_weights
from recsys.retrieval.collaborative.item_item import ItemItem, Transitions
from recsys.retrieval.collaborative.popularity import Popular, Recent
from recsys.retrieval.content.words import phrases, tokens
from recsys.retrieval.fitted_source import (
    SourceInputs,
    positive,
    read_source,
    save_source,
    weight_scale,
)
from recsys.retrieval.sequence.source import SequenceSource
from recsys.retrieval.source_kinds import load_source
from recsys.training.sources.fit_source import fit_one
from recsys.training.sources.sequence import Sequences

PLAIN = {"left": 0.5, "right": 0.5, "shrink": 0.0, "decay": 0.5}


def fit(cls, interactions, params, inputs=None):
    inputs = inputs or SourceInputs(None, ["a"] * interactions.n_items, None)
    return cls.fit(interactions, inputs, params, seed=1, workers=1)


def test_cosine_of_items_by_hand(interactions_of, history):
    # users 0 and 1 have items 0 and 1, user 2 has 0 and 2: n = 3, 2, 1
    source = fit(
        ItemItem, interactions_of([0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 2], n_items=4), PLAIN
    )
    scores = source.score(history([0]), np.array([0, 1, 2, 3], np.int32), 0)
    np.testing.assert_allclose(scores[:, 0], [0, 2 / 6**0.5, 1 / 3**0.5, np.nan], rtol=1e-6)
    # the newest event counts whole, the one before half: 0.5·sim(0, 2) + 1·sim(1, 2)
    both = source.score(history([0, 1]), np.array([2], np.int32), 0)[0]
    np.testing.assert_allclose(both, [0.5 / 3**0.5, 0.5 / 3**0.5, 0.0], rtol=1e-6)


def test_transitions_look_ahead_only_and_fade_with_distance(interactions_of, history):
    events = interactions_of([0, 0, 0], [0, 1, 2], n_items=3)
    source = fit(Transitions, events, PLAIN | {"gap_decay": 0.25, "window": 20})
    items = np.arange(3, dtype=np.int32)
    np.testing.assert_allclose(source.score(history([0]), items, 0)[:, 0], [0, 1, 0.25])
    np.testing.assert_allclose(source.score(history([2]), items, 0)[:, 0], [0, 0, 0])
    near = fit(Transitions, events, PLAIN | {"gap_decay": 1.0, "window": 1})
    np.testing.assert_allclose(near.score(history([0]), items, 0)[:, 0], [0, 1, 0])


def test_event_weights_make_evidence(interactions_of, history):
    weak = interactions_of([0, 0, 1, 1], [0, 1, 0, 2], [5, 5, 5, 1], n_items=3)
    scores = fit(ItemItem, weak, PLAIN | {"right": 0.0}).score(
        history([0]), np.array([1, 2], np.int32), 0
    )[:, 0]
    assert scores[0] > scores[1] > 0


def test_popularity_halves(interactions_of):
    events = interactions_of([0, 1, 2, 3], [0, 1, 1, 0], n_items=2)  # days 0, 1, 2, 3
    counts = fit(Popular, events, {"half_life": 1.0}).counts
    np.testing.assert_allclose(counts, [1 / 8 + 1, 1 / 4 + 1 / 2], rtol=1e-6)
    np.testing.assert_allclose(fit(Popular, events, {}).counts, [2, 2])


def test_recent_counts_a_creation_as_events(interactions_of, world):
    catalogue = world[1].catalogue

    class Dated:
        created_at = np.array([0, 3 * DAY, 99 * DAY], np.int64)

    events = interactions_of([0, 1, 2, 3], [0, 0, 0, 0], n_items=3)
    source = fit(
        Recent, events, {"half_life": 1.0, "newness": 4.0}, SourceInputs(Dated, ["a"] * 3, None)
    )
    # item 1 was created at the last event's time; item 2 after it, which the fit cannot know
    np.testing.assert_allclose(source.counts, [1 + 1 / 2 + 1 / 4 + 1 / 8, 4.0, 0.0], rtol=1e-6)
    assert catalogue.created_at.max() <= 0


def test_ease_solves_its_equation(world):
    interactions = world[0]
    items = np.arange(38, dtype=np.int32)
    weights = ridge_weights(interactions, items, 10.0, 1)
    x = np.zeros((interactions.n_users, 38))
    x[interactions.user, interactions.item] = 1.0
    inverse = np.linalg.inv(x.T @ x + 10.0 * np.eye(38))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0.0)
    np.testing.assert_allclose(weights, expected, atol=2e-5)


def test_ease_leaves_rare_items_to_others(world, history):
    source = fit(Ease, world[0], {"items": 5}, world[1])
    assert source.known.sum() == 5
    rare = np.flatnonzero(source.known == 0).astype(np.int32)
    assert np.isnan(source.score(history(np.flatnonzero(source.known)), rare, 0)).all()


def test_fold_in_is_the_normal_equation(world, history):
    """The h×h solve against (YᵀY + Yᵀ(C-I)Y + λI)⁻¹ Yᵀc on the whitened factors, λI whitened."""
    source = fit(Als, world[0], {"alpha": 4.0, "decay": 0.5}, world[1])
    past = history([3, 9, 15])
    query = source._query(past)
    white = source.white.astype(np.float64)
    confidence = np.zeros(40)
    preference = np.zeros(40)
    for step, item in enumerate([15, 9, 3]):
        confidence[item] = 4.0 * 0.5**step
        preference[item] = (4.0 + 1.0) * 0.5**step
    # in whitened coordinates the matrix of all unseen items and the ridge is the identity
    system = np.eye(white.shape[1]) + white.T @ (confidence[:, None] * white)
    np.testing.assert_allclose(query, np.linalg.solve(system, white.T @ preference), rtol=1e-4)


def test_als_factors_are_those_of_the_librarys_own_fit(world):
    events = positive(world[0])
    scale = weight_scale(world[0])
    params = {"factors": 8, "iterations": 3, "regularization": 0.1, "alpha": 4.0}
    factors = fit_factors(world[0], params, scale, 7, 1)
    model = AlternatingLeastSquares(
        factors=8, regularization=0.1, alpha=1.0, dtype=np.float32, use_native=True, use_cg=True,
        iterations=3, num_threads=1, random_state=7,
    )  # fmt: skip
    cells = (4.0 * events.weight / scale, (events.user, events.item))
    model.fit(csr_matrix(cells, (events.n_users, events.n_items), np.float32), show_progress=False)
    np.testing.assert_allclose(factors, model.item_factors, rtol=1e-5, atol=1e-6)


def test_als_does_not_continue_from_an_earlier_fit(world, interactions_of, history):
    first = fit(Als, world[0], {}, world[1])
    fit(Als, interactions_of([0, 0, 1], [0, 1, 5]), {}, world[1])
    again = fit(Als, world[0], {}, world[1])
    np.testing.assert_array_equal(first.white, again.white)


def test_inverted_lists_find_what_a_scan_finds():
    draw = np.random.default_rng(4)
    centres = draw.normal(size=(30, 8))
    vectors = (centres[draw.integers(0, 30, 6000)] + 0.1 * draw.normal(size=(6000, 8))).astype("f4")
    lists = InvertedLists.build(vectors, 1)
    known, blocked = np.ones(6000, np.uint8), np.zeros(6000, np.uint8)
    blocked[::7] = 1
    query = vectors[3].copy()
    full = scan(vectors, query, known, blocked, 50, None)
    quick = scan(vectors, query, known, blocked, 50, lists)
    np.testing.assert_array_equal(full.items, quick.items)
    np.testing.assert_array_equal(full.scores, quick.scores)
    assert sorted(lists.member.tolist()) == list(range(6000))


def test_inverted_lists_in_8_bits_find_to_the_bit_what_the_vectors_give():
    draw = np.random.default_rng(5)
    centres = draw.normal(size=(40, 24))
    vectors = centres[draw.integers(0, 40, 9000)] + 0.3 * draw.normal(size=(9000, 24))
    # Lengths as different as those of factors; many equal rows, so that ties are decided too.
    vectors = (vectors * draw.exponential(size=(9000, 1))).astype("f4")
    vectors[1000:1200], vectors[77] = vectors[999], 0.0
    lists = InvertedLists.build(vectors, 1)
    known = (draw.random(9000) < 0.9).astype(np.uint8)
    for turn in range(40):
        query = vectors[draw.integers(0, 9000)] * np.float32(draw.exponential() + 0.01)
        blocked = (draw.random(9000) < 0.3).astype(np.uint8)
        probed = np.ones(9000, np.uint8)
        for one in lists.probe(query):
            probed[lists.member[lists.offsets[one] : lists.offsets[one + 1]]] = 0
        limit = (1, 7, 200, 8999)[turn % 4]
        wanted = scan(vectors, query, known, blocked | probed, limit, None)
        found = scan(vectors, query, known, blocked, limit, lists)
        np.testing.assert_array_equal(found.items, wanted.items)
        np.testing.assert_array_equal(found.scores, wanted.scores)


def test_inverted_lists_of_an_earlier_release_are_read():
    draw = np.random.default_rng(6)
    vectors = draw.normal(size=(900, 8)).astype("f4")
    lists = InvertedLists.build(vectors, 1)
    kept = {name: lists.arrays()[name] for name in ("centroids", "list_offsets", "list_member")}
    opened = InvertedLists.of(kept | {"list_rows": vectors[lists.member]})
    for name, array in lists.arrays().items():
        np.testing.assert_array_equal(opened.arrays()[name], array)


@pytest.mark.parametrize("name", ["als", "sequence"])
def test_inverted_lists_are_saved_with_their_source(name, fitted, history, tmp_path, monkeypatch):
    plain = fitted[name]
    vectors = plain.white if name == "als" else plain.targets
    monkeypatch.setattr(plain, "lists", InvertedLists.build(vectors, 1))
    plain.save(tmp_path)
    opened = load_source(tmp_path)
    past, free = history([0, 2, 4]), np.zeros(plain.n_items, np.uint8)
    listed = opened.recall(past, 10, 0, free)
    np.testing.assert_array_equal(listed.items, plain.recall(past, 10, 0, free).items)
    monkeypatch.setattr(plain, "lists", None)
    np.testing.assert_array_equal(listed.items, plain.recall(past, 10, 0, free).items)
    assert sorted(opened.lists.member.tolist()) == list(range(plain.n_items))


def test_sequence_served_is_the_sequence_trained(world, history):
    torch = pytest.importorskip("torch")
    from recsys.training.sources.sequence_model import SequenceModel

    params = SequenceSource.Params().model_dump() | {"width": 16.0, "blocks": 2.0}
    torch.manual_seed(0)
    counts = np.ones(40, np.int32)
    model = SequenceModel(counts, world[1].vectors, params, 1000)
    arrays = model.exported()
    source = SequenceSource(
        arrays.pop("items"),
        arrays.pop("targets"),
        model.known(),
        arrays,
        params=params,
        fit_until=0,
    )
    with torch.no_grad():
        embedded, _ = model.items(torch.tensor([[3, 9, 27, 5]]))
        wanted = model.states(embedded)[0, -1].numpy()
    np.testing.assert_allclose(source.query(history([3, 9, 27, 5]))[:-1], wanted, atol=1e-5)


def test_sequence_continues_from_an_earlier_fit(world, small, interactions_of):
    settings = {"seed": 1, "workers": 1}
    first = SequenceSource.fit(*world, small["sequence"], **settings)
    none = interactions_of([], [])
    kept = SequenceSource.fit(none, world[1], small["sequence"], **settings, previous=first)
    fresh = SequenceSource.fit(none, world[1], small["sequence"], **settings)
    shared = first.training["blocks.0.attend.weight"]
    np.testing.assert_array_equal(kept.training["blocks.0.attend.weight"], shared)
    assert not np.array_equal(fresh.training["blocks.0.attend.weight"], shared)


def test_sequence_scores_items_without_events_by_their_text(fitted, history):
    scores = fitted["sequence"].score(history([0, 2]), np.array([38, 39], np.int32), 0)
    assert np.isfinite(scores).all()


def test_windows_cover_every_event_but_the_first(interactions_of):
    events = interactions_of([0] * 10 + [1], [*list(range(10)), 3])
    sequences = Sequences.of(events, 4, scale=5.0)
    targets = [
        i for s, n in zip(sequences.start, sequences.size, strict=True) for i in range(s + 1, s + n)
    ]
    assert sorted(targets) == list(range(1, 10))
    assert sequences.size.max() <= 5


def test_tokens_and_phrases():
    assert tokens("Tom Clancy's (PS4) x_y") == ["tom", "clancy's", "ps4", "x", "y"]
    found = phrases("Halo: Reach - Xbox 360 (Limited)")
    assert {"halo", "reach", "xbox 360", "limited"} <= found
    assert "reach xbox" not in found


def test_a_newer_format_is_refused(tmp_path):
    save_source(tmp_path, "als", {"format": 99}, {})
    with pytest.raises(DataRefused, match="another source"):
        read_source(tmp_path, "als")


def test_attributes_find_the_brand(world, history, interactions_of, inputs_of):
    source = fit_one("attributes", *world, {}, seed=1, workers=1)
    found = source.recall(history([0]), 5, 0, np.zeros(40, np.uint8)).items
    assert (found % 4 == 0).all()
