"""From frames to lists and back: one recommender, asked everything it can be asked."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import recsys
from recsys.data_schemas.log_record import LogRecord


def test_lists_are_long_and_hold_nothing_seen(shop):
    model, train, _ = shop
    recs = model.recommend(k=5)
    assert list(recs.columns) == ["user_id", "item_id", "score", "rank"]
    assert recs["user_id"].dtype == recs["item_id"].dtype == np.int64, "as they were given"
    assert recs["user_id"].drop_duplicates().tolist() == train.user_ids.tolist()
    assert recs.groupby("user_id")["rank"].apply(list).map(lambda r: r == [1, 2, 3, 4, 5]).all()
    assert recs.groupby("user_id")["score"].apply(lambda s: s.is_monotonic_decreasing).all()
    seen = train.interactions[["user_id", "item_id"]].drop_duplicates()
    assert recs.merge(seen, on=["user_id", "item_id"]).empty
    again = model.recommend(k=30, filter_viewed=False)
    assert len(again.merge(seen, on=["user_id", "item_id"])) == len(seen)


def test_filters_and_exclusions_hold(shop):
    model, _, _ = shop
    recs = model.recommend([100, "nobody"], k=5, filters={"category": "hall 1"}, exclude=[1, 4])
    assert set(recs["user_id"]) == {"100", "nobody"}, "an id that is no number: all are texts"
    assert all(int(i) % 3 == 1 and int(i) not in (1, 4) for i in recs["item_id"])
    with pytest.raises(recsys.UsageError, match="do not have"):
        model.recommend([100], filters={"colour": "red"})


def test_given_items_are_ranked_and_explained(shop):
    model, _, _ = shop
    ranked = model.rank(pd.DataFrame({"user_id": [100, 100, 101], "item_id": [3, 4, 5]}))
    assert ranked.groupby("user_id")["rank"].max().to_dict() == {100: 2, 101: 1}
    why = model.explain(100, [3, 4])
    assert why["item_id"].tolist() == ranked.query("user_id == 100")["item_id"].tolist()
    shares = why.filter(like="share_of_")
    assert shares.abs().sum(axis=1).round(2).isin([0.0, 1.0]).all()
    assert why["because"].str.len().gt(0).all()
    with pytest.raises(recsys.UsageError, match="no such item"):
        model.rank([(100, 999)])


def test_texts_and_neighbours_come_from_the_same_encoder(shop):
    model, _, _ = shop
    vectors = model.encode(["red widget", "blue widget"])
    np.testing.assert_allclose((vectors**2).sum(1), 1, atol=1e-4)
    for by in ("blend", "bought_together"):
        assert set(model.similar_items([0], k=3, by=by)["item_id"]) == {0}
    with pytest.raises(recsys.UsageError, match="blend, text, bought_together"):
        model.similar_items([0], by="colour")
    near = model.similar_items([0, 1], k=3, by="text")
    assert near.groupby("item_id").size().to_dict() == {0: 3, 1: 3}
    assert (near["item_id"] != near["similar_item_id"]).all()


def test_what_is_saved_answers_alike(shop, tmp_path):
    model, _, _ = shop
    opened = recsys.load(model.save(tmp_path / "kept"))
    pd.testing.assert_frame_equal(opened.recommend(k=3), model.recommend(k=3))
    assert opened.budget_minutes == 2
    with pytest.raises(recsys.UsageError, match="holds something else"):
        model.save(tmp_path)
    with pytest.raises(recsys.UsageError, match="no recommender was saved here"):
        recsys.load(tmp_path)


def test_params_are_scikit_learns():
    model = recsys.Recommender(3, sources=["als"])
    assert model.get_params()["budget_minutes"] == 3
    assert (
        repr(model.set_params(seed=1)) == "Recommender(budget_minutes=3, sources=['als'], seed=1)"
    )
    assert type(model)(**model.get_params()).get_params() == model.get_params()
    with pytest.raises(recsys.UsageError, match="no such param"):
        model.set_params(sed=1)
    with pytest.raises(recsys.UsageError, match="nothing was fitted yet"):
        model.recommend()
    with pytest.raises(recsys.UsageError, match="no source 'alx'"):
        recsys.Recommender(sources=["alx"]).fit(None)


def test_a_registered_model_is_opened_over_any_histories(shop, tmp_path, monkeypatch):
    model, train, _ = shop
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    version = model.register("models:/toys", description="from a notebook")
    assert version == 1
    config = recsys.parse_config(
        {"data": {"items": "-", "events": "-"}, "workspace": "work", "name": "toys"},
        model.workspace,
    )
    opened = recsys.load("models:/toys@champion", config=config, data=train)
    ours, theirs = model.recommend(k=3), opened.recommend(k=3)
    pd.testing.assert_series_equal(ours["item_id"], theirs["item_id"])
    fresh = recsys.Recommender(2)
    fresh._asked = model._asked
    with pytest.raises(recsys.UsageError, match="which registry"):
        fresh.register("models:/toys")


def test_beside_folders_of_the_same_names(frames, tmp_path):
    """A project with a `features/` and a `training/` of its own, which nothing of ours may find."""
    for room in ("features", "training", "evaluation"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text(
            f"raise ImportError('the {room} of a project')"
        )
    frames[0].to_pickle(tmp_path / "interactions.pickle")
    script = (
        "import pandas, recsys\n"
        "data = recsys.Dataset(pandas.read_pickle('interactions.pickle'), event_type='purchase')\n"
        "print(len(recsys.models.Popular().fit(data).recommend([100], k=3)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "3", done.stderr


def test_frames_are_what_pickle_takes(shop):
    model, _, _ = shop
    assert len(pickle.loads(pickle.dumps(model.recommend([100], k=2)))) == 2


def test_own_vectors_are_a_source_and_a_feature_for_new_items_too(shop, tmp_path):
    model, train, _ = shop
    release = recsys.load(model.save(tmp_path / "kept"))._ready.release
    assert {"own_vectors.score", "own_vectors.nearest"} <= set(release.features.columns)
    user = str(train.user_ids[0])  # buys even items, whose first number is 1
    now = release.moment
    late = [
        {"item_id": f"late {side}", "title": "", "vector": vector}
        for side, vector in (("even", [1.0, 0.0, 0.2]), ("odd", [0.0, 1.0, 0.2]))
    ]
    position = release.log_position
    release.apply(
        [
            LogRecord(position + n, "item", {**item, "created_at": now - 1}, now - 1)
            for n, item in enumerate(late, 1)
        ]
    )
    ask = recsys.RankingQuery(user, now, items=["late even", "late odd"])
    answer = release.answer(ask)
    column = release.features.columns.index("own_vectors.score")
    score = dict(zip(answer.item_ids, answer.features[:, column].tolist(), strict=True))
    assert score["late even"] > 0.9 > 0.5 > score["late odd"]
    # Lent to one request it is read alike.
    inline = recsys.RankingQuery(
        user, now, items=["lent"], new_items={"lent": {**late[0], "item_id": "lent"}}
    )
    np.testing.assert_array_equal(
        release.answer(inline).features[0, column], np.float32(score["late even"])
    )
    history = release.state.history(user, now)
    source = release.recall.sources["own_vectors"]
    found = source.recall(history, 40, now, release.state.catalogue.blocked.copy())
    assert release.state.catalogue.index_of("late even") in found.items
