"""Single models: the same calls, the same lists as the sources of a night."""

import numpy as np
import pandas as pd
import pytest

import recsys

CHEAP = ["Popular", "ItemItem", "Transitions", "BM25", "EASE", "ALS"]


@pytest.mark.parametrize("name", CHEAP)
def test_a_model_recommends_to_everybody(name, data):
    model = getattr(recsys.models, name)()
    assert model.fit(data) is model
    recs = model.recommend(k=4)
    assert list(recs.columns) == ["user_id", "item_id", "score", "rank"]
    assert recs.groupby("user_id").size().eq(4).all(), "filled up with popular items"
    seen = data.interactions[["user_id", "item_id"]]
    assert recs.merge(seen, on=["user_id", "item_id"]).empty
    assert len(model.recommend(["nobody"], k=3)) == 3
    assert repr(model) == f"{name}()"


def test_taste_is_learned(data):
    recs = recsys.models.ItemItem().fit(data).recommend(k=3).dropna(subset="score")
    same = (recs["user_id"] - recs["item_id"]) % 2 == 0
    assert same.mean() > 0.9, "even people act on even items"


def test_the_text_alone(data, tiny_model):
    settings = {"model": str(tiny_model), "max_tokens": 16}
    model = recsys.models.Text(fine_tune=False, encoder=settings).fit(data)
    assert model.recommend([100], k=3)["score"].notna().all()
    assert model.get_params()["fine_tune"] is False


def test_params_are_named(data):
    model = recsys.models.ALS(factors=8, seed=3)
    assert model.get_params()["factors"] == 8
    assert repr(model) == "ALS(seed=3, factors=8)"
    with pytest.raises(recsys.UsageError, match="no such param"):
        recsys.models.ALS(factor=8)
    with pytest.raises(recsys.UsageError, match="nothing was fitted"):
        model.recommend()


def test_reports_compare_on_the_same_people(data):
    _, test = data.split(days=10)
    worst = pd.DataFrame({"user_id": test.user_ids, "item_id": -1, "rank": 1})

    def first_is_even(listed, relevant):
        return float(listed[0] % 2 == 0)

    report = recsys.evaluate(
        {"items": recsys.models.ItemItem(), "popular": recsys.models.Popular(), "worst": worst},
        test,
        metrics=[recsys.NDCG(5), "recall@10", recsys.per_list(first_is_even)],
        resamples=100,
    )
    frame = report.to_frame()
    assert set(frame["metric"]) == {"ndcg@5", "recall@10", "first_is_even"}
    value = frame.set_index(["system", "metric"])["value"]
    assert value["worst", "ndcg@5"] == 0
    assert value["items", "ndcg@5"] > value["popular", "ndcg@5"]
    found = report.compare("items", "worst").set_index("metric").loc["ndcg@5"]
    assert found["difference"] == pytest.approx(value["items", "ndcg@5"], abs=1e-6)
    assert found["verdict"] == "ahead"
    turned = report.compare("worst", "items").set_index("metric").loc["ndcg@5"]
    assert turned["difference"] == pytest.approx(-found["difference"])
    assert "first_is_even" in report._repr_html_()
    with pytest.raises(recsys.UsageError, match="nothing of this name"):
        report.compare("items", "nobody")


def test_ndcg_is_the_arithmetic_of_one_list(frames):
    """One person, two later purchases, the second place of the list a hit: 1/log2(3) of 1 + 1/log2(3)."""
    interactions, items = frames
    data = recsys.Dataset(interactions, items, event_type="purchase")
    train, test = data.split(days=10)
    user = test.user_ids[0]
    mine = test.interactions.query("user_id == @user")
    new = mine[~mine["item_id"].isin(train.interactions.query("user_id == @user")["item_id"])]
    hits = new["item_id"].tolist()
    lists = pd.DataFrame({"user_id": user, "item_id": [-1, hits[0]], "rank": [1, 2]})
    report = recsys.evaluate(lists, test, metrics=[recsys.NDCG(10)], resamples=10)
    groups = report.evaluation.per_group["DataFrame/ndcg@10"]
    ideal = sum(1 / np.log2(place + 2) for place in range(len(hits)))
    assert groups.max() == pytest.approx(1 / np.log2(3) / ideal, rel=1e-5)


def test_a_page_is_one_file(data, tmp_path):
    _, test = data.split(days=10)
    report = recsys.evaluate({"popular": recsys.models.Popular()}, test, resamples=50)
    page = report.save(tmp_path / "report.html")
    assert "popular" in page.read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(recsys.UsageError, match="HTML file"):
        report.save(tmp_path / "report.pdf")
    with pytest.raises(recsys.UsageError, match="nothing to fit it on"):
        recsys.evaluate({"popular": recsys.models.Popular()}, data)


def test_ids_that_went_through_a_float_are_the_numbers(data):
    train, test = data.split(days=10)
    model = recsys.models.ItemItem().fit(train)
    users = test.user_ids[:3]
    lists = model.recommend(users, k=3)
    as_floats = model.recommend(pd.Series(users, dtype=float), k=3)
    pd.testing.assert_frame_equal(as_floats, lists)
    everybody = model.recommend(test.user_ids, k=10)
    reports = [
        recsys.evaluate({"lists": frame}, test, resamples=10).to_frame()["value"].tolist()
        for frame in (everybody, everybody.astype({"user_id": float, "item_id": float}))
    ]
    assert reports[0] == reports[1]
    assert reports[0][0] > 0


@pytest.mark.parametrize("odd", [None, float("nan"), pd.NA, True, 1.5, np.bool_(True)])
def test_what_names_nobody_is_refused(data, odd):
    model = recsys.models.Popular().fit(data)
    with pytest.raises(recsys.UsageError, match="names nobody"):
        model.recommend([101, odd])
    with pytest.raises(recsys.UsageError, match="names nobody"):
        recsys.evaluate({"x": pd.DataFrame({"user_id": [odd], "item_id": 1, "rank": 1})},
                        data.split(days=10)[1])  # fmt: skip


def test_a_model_that_was_fitted_on_the_test_is_refused(data):
    train, test = data.split(days=10)
    with pytest.raises(recsys.UsageError, match="learned what it is tested on"):
        recsys.evaluate({"items": recsys.models.ItemItem().fit(data)}, test)
    fair = {"items": recsys.models.ItemItem().fit(train)}
    assert recsys.evaluate(fair, test, resamples=10).to_frame()["value"].max() > 0
    train, test = data.split(last=1)
    recsys.evaluate({"items": recsys.models.ItemItem().fit(train)}, test, resamples=10)


def test_lists_that_name_an_item_twice_or_nobody_are_refused(data):
    train, test = data.split(days=10)
    lists = recsys.models.Popular().fit(train).recommend(test.user_ids)
    with pytest.raises(recsys.UsageError, match="names an item twice"):
        recsys.evaluate({"twice": pd.concat([lists, lists])}, test)
    with pytest.raises(recsys.UsageError, match="nobody who is tested"):
        recsys.evaluate({"others": lists.assign(user_id="x" + lists["user_id"].astype(str))}, test)
