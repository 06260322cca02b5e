"""The ranking path over a real release: new items, inline items, failing parts, reasons, search."""

import time

import numpy as np
import pytest

from recsys import explain
from recsys.data_schemas.api import Pin, Slot
from recsys.data_schemas.config import load_config
from recsys.data_schemas.errors import UsageError
from recsys.data_schemas.log_record import LogRecord
from recsys.filters import allowed_by
from recsys.operations.open_release import load_release
from recsys.query import RankingQuery, SimilarQuery
from recsys.retrieval.kept_recalls import KeptRecalls

pytestmark = pytest.mark.filterwarnings("default")
ITEM = {"item_id": "posted", "title": "Green alpha robot", "tags": ["robot"], "available": True}


@pytest.fixture
def loaded(released):
    return load_release(load_config(released / "recsys.yaml"))


@pytest.fixture
def somebody(loaded):
    """A user with a long history."""
    return max(loaded.state.user_ids(), key=lambda u: len(loaded.state.history(u, 2**62).item))


def ask(loaded, user, **more):
    return RankingQuery(user, loaded.moment, **more)


def post(loaded, position, **fields):
    item = {**ITEM, "created_at": loaded.moment - 1, **fields}
    loaded.apply([LogRecord(loaded.log_position + position, "item", item, 0)])


def test_a_posted_item_waits_for_its_text_beside_the_ranking(loaded, somebody):
    post(loaded, 1)
    everything = ask(loaded, somebody, k=10**6)
    before = loaded.answer(everything)
    assert before.waiting == 1
    assert loaded.encode_new() == 0
    after = loaded.answer(everything)
    assert (after.waiting, "posted" in after.item_ids) == (0, True)
    index = loaded.state.catalogue.index_of("posted")
    first = loaded._vectors_of(np.array([index]))
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    # A text that changes is encoded anew; one that is taken off the shelf never appears.
    post(loaded, 1, title="Blue paper boat", tags=[])
    assert loaded.answer(everything).waiting == 1
    loaded.encode_new()
    assert not np.allclose(first, loaded._vectors_of(np.array([index])))
    post(loaded, 1, available=False)
    assert "posted" not in loaded.answer(everything).item_ids


def test_items_given_with_text_are_ranked_by_it_and_leave_nothing_behind(loaded, somebody):
    known = loaded.answer(ask(loaded, somebody, k=5)).item_ids
    size = loaded.state.catalogue.n_items
    inline = {"inline": {**ITEM, "item_id": "inline"}}
    given = ask(loaded, somebody, items=[*known, "inline"], new_items=inline, explain=1)
    exact = loaded.answer(given)
    assert sorted(exact.item_ids) == sorted([*known, "inline"])
    assert exact.degraded == []
    assert loaded.state.catalogue.n_items == size
    assert "inline" not in loaded.answer(ask(loaded, somebody, k=10**6)).item_ids
    assert loaded.answer(ask(loaded, somebody, items=["inline"])).unknown == ["inline"]
    # Beside a deadline nothing is encoded in the call: what `prepare` made is there, or it is late.
    late = RankingQuery(**{**given.__dict__, "deadline": time.monotonic() + 60})
    assert loaded.answer(late).scores == exact.scores
    other = {"inline": {**ITEM, "item_id": "inline", "title": "Never prepared"}}
    assert loaded.answer(
        RankingQuery(**{**late.__dict__, "new_items": other})
    ).degraded == ["text_encoder_late"]  # fmt: skip


def test_a_source_that_fails_is_left_out_and_named(loaded, somebody, monkeypatch):
    whole = loaded.answer(ask(loaded, somebody, k=10))
    name = next(name for name in loaded.sources if name not in ("text", "popular", "recent"))
    source = loaded.recall.sources[name]

    def broken(*_):
        raise OSError("the file is gone")

    monkeypatch.setattr(type(source), "asked", broken)
    assert loaded.answer(ask(loaded, somebody, k=10)).degraded == []  # its answer was kept
    loaded.forget_kept()
    answer = loaded.answer(ask(loaded, somebody, k=10))
    assert answer.degraded == [f"source_failed:{name}"]
    assert len(answer.item_ids) == 10
    assert np.isfinite(answer.scores).all()
    monkeypatch.undo()
    assert loaded.answer(ask(loaded, somebody, k=10)).scores == whole.scores
    # With nothing left to ask, it is an error, for the service to answer with the popular list.
    loaded.forget_kept()
    for kind in {type(s) for s in loaded.recall.sources.values()}:
        monkeypatch.setattr(kind, "asked", broken)
    with pytest.raises(OSError, match="gone"):
        loaded.answer(ask(loaded, somebody, k=10))


def test_rules_hold_in_the_answer(loaded, somebody):
    catalogue = loaded.state.catalogue
    column = next(iter(("category", *catalogue.categorical_names)))
    tag = catalogue.tag_names[0]
    tagged = loaded.answer(ask(loaded, somebody, k=20, filters={"tags": tag})).item_ids
    assert tagged
    for item_id in tagged:
        assert tag in catalogue.fields(catalogue.index_of(item_id))["tags"]
    seen = set(loaded.state.history(somebody, 2**62).item.tolist())
    assert not seen & {catalogue.index_of(i) for i in tagged}
    for more in ({"filters": {"colour": 1}}, {"caps": {"tags": 1}}):
        with pytest.raises(UsageError, match="names a column"):
            loaded.answer(ask(loaded, somebody, k=3, **more))
    capped = loaded.answer(ask(loaded, somebody, k=20, caps={column: 1}, diversity=0.3))
    values = [catalogue.fields(catalogue.index_of(i))[column] for i in capped.item_ids]
    named = [value for value in values if value is not None]
    assert len(named) == len(set(named))


def test_reasons_are_shares_titles_and_a_sentence(loaded, somebody, monkeypatch):
    answer = loaded.answer(ask(loaded, somebody, k=30, explain=25))
    assert len(answer.reasons) == 25
    for reason in answer.reasons:
        assert sum(map(abs, reason["families"].values())) == pytest.approx(1, abs=0.01)
        assert set(reason["sentence"]) == {"en", "zh"}
    titles = [near["title"] for reason in answer.reasons for near in reason["similar"]]
    assert titles
    assert all(titles)
    late = loaded.answer(ask(loaded, somebody, k=30, explain=25, deadline=0.0))
    assert (late.reasons, late.degraded) == ([], ["explanations_late"])
    # Time that runs out after the second look at the clock leaves the first block's reasons.
    looks = iter([False, False, True])
    monkeypatch.setattr(explain, "_is_late", lambda deadline: next(looks))
    some = loaded.answer(ask(loaded, somebody, k=60, explain=60))
    assert some.reasons == runtime_reasons(loaded, somebody, monkeypatch)[: len(some.reasons)]
    assert 0 < len(some.reasons) < 60


def runtime_reasons(loaded, user, monkeypatch):
    monkeypatch.undo()
    return loaded.answer(ask(loaded, user, k=60, explain=60)).reasons


def test_search_finds_titles_as_they_are_now(loaded):
    assert loaded.search("no such words", 5) == []
    assert len(loaded.search("", 5)) == 5
    index = 3
    word = loaded.state.catalogue.title(index)
    item_id = loaded.state.catalogue.id_of(index)
    assert item_id in loaded.search(word.upper(), 100)
    post(loaded, 1)
    assert loaded.search("ROBOT alpha", 5)[-1] == "posted"
    post(loaded, 1, item_id=item_id, title="Something (else) entirely")
    assert item_id in loaded.search("(ELSE)", 5)
    assert item_id not in loaded.search(word, 10**6)


def test_similar_items_of_the_release_and_of_one_that_just_came(loaded):
    some = loaded.answer(ask(loaded, "nobody", k=3)).item_ids
    found = loaded.similar_to(SimilarQuery(some[:1], loaded.moment, k=5))
    assert len(found.item_ids) == 5
    assert some[0] not in found.item_ids
    assert found.scores == sorted(found.scores, reverse=True)
    genre = {"tags": {"any": ["Drama"]}}
    dramas = loaded.similar_to(SimilarQuery(some, loaded.moment, k=50, filters=genre))
    met = allowed_by(loaded.state.catalogue, genre)
    assert dramas.item_ids
    assert met[loaded.state.catalogue.indices_of(dramas.item_ids)].all()
    post(loaded, 1)
    late = loaded.similar_to(SimilarQuery(["posted", "who"], loaded.moment, k=5))
    assert (late.item_ids, late.unknown, late.degraded) == ([], ["who"], ["text_encoder_late"])
    loaded.prepare(loaded.unencoded(["posted", some[0]]))
    there = loaded.similar_to(SimilarQuery(["posted"], loaded.moment, k=5))
    assert (len(there.item_ids), there.degraded) == (5, [])


def test_what_is_popular_is_counted_in_the_window(loaded):
    everything = loaded.popular(5, loaded.moment, "all", {})
    state = loaded.state
    weight, _ = state.meaning.of(
        state.kinds, np.arange(len(state.kinds)), np.full(len(state.kinds), np.nan)
    )
    best, score = everything[0]
    events = [h for u in state.user_ids() for h in [state.history(u, 2**62)]]
    kinds = np.concatenate([h.kind[h.item == state.catalogue.index_of(best)] for h in events])
    assert score == pytest.approx(float(weight[kinds].sum()))
    assert [s for _, s in everything] == sorted((s for _, s in everything), reverse=True)
    with pytest.raises(UsageError, match="whole number of the counters' buckets"):
        loaded.popular(5, loaded.moment, "1m", {})


def test_a_visit_counts_as_its_own_history(loaded, somebody):
    asked = loaded.answer(ask(loaded, somebody, k=8))
    assert loaded.answer(ask(loaded, "nobody", session=somebody, k=8)).item_ids == asked.item_ids
    assert loaded.answer(ask(loaded, "nobody", k=8)).item_ids != asked.item_ids


def test_rules_place_what_recall_did_not_find_and_leave_the_scores(loaded, somebody):
    plain = loaded.answer(ask(loaded, somebody, k=10))
    everything = loaded.answer(ask(loaded, somebody, k=10**6)).item_ids
    far = everything[-1]
    rules = [
        Pin(name="editor", item_id=far, place=2),
        Slot(name="promo", filters={"tags": "Drama"}, places=[1]),
    ]
    ruled = loaded.answer(ask(loaded, somebody, k=10, rules=rules))
    assert ruled.item_ids[1] == far
    assert ruled.rules[:2] == ["promo", "editor"]
    drama = loaded.state.catalogue.index_of(ruled.item_ids[0])
    assert "Drama" in loaded.state.catalogue.fields(drama)["tags"]
    rest = [i for i in plain.item_ids if i not in ruled.item_ids[:2]]
    assert ruled.item_ids[2:] == rest[:8]
    score = dict(zip(plain.item_ids, plain.scores, strict=True))
    assert [ruled.scores[ruled.item_ids.index(i)] for i in rest[:8]] == [score[i] for i in rest[:8]]


def answered(loaded, questions):
    """Ids, scores, features and reasons of each question, as bits."""
    answers = [loaded.answer(question) for question in questions]
    return [(a.item_ids, a.scores, a.features.tobytes(), a.reasons, a.rules) for a in answers]


def test_what_is_kept_of_recall_is_what_a_fresh_look_gives(loaded, somebody):
    """After everything that can happen in between, an answer from what was kept is the fresh one."""
    ids = [loaded.state.catalogue.id_of(i) for i in range(40)]
    some = [i for i in loaded.answer(ask(loaded, somebody, k=12)).item_ids if i not in ids][:5]
    pin = [Pin(name="editor", item_id=ids[7], place=2)]
    users = [*loaded.state.user_ids()[:3], somebody, "nobody"]

    def questions(now):
        for user in users:
            for more in (
                {"k": 10, "explain": 3},
                {"k": 10, "keep_seen": True},
                {"k": 10, "exclude": some},
                {"k": 10, "filters": {"tags": {"any": ["Drama"]}}},
                {"k": 10, "filters": {"tags": {"not": ["Drama"]}}},
                {"k": 10, "rules": pin, "diversity": 0.3},
                {"k": 10, "session": somebody},
                {"k": 10**6},
                {"items": [*ids, *some], "keep_seen": True},
            ):
                yield RankingQuery(user, now, **more)

    def event(user, item, at, name="rating"):
        fields = {"user_id": user, "item_id": item, "event_type": name, "timestamp": at, "value": 5}
        return LogRecord(loaded.log_position + 1, "event", fields, 0)

    now = loaded.moment
    happenings = [
        list,
        lambda: [event(somebody, some[0], now - 2)],
        lambda: [event(users[0], some[1], now - 90 * 24 * 3600 * 10**6)],  # late, by three months
        lambda: [LogRecord(loaded.log_position + 1, "item", {"item_id": some[2], "available": False}, 0)],
        lambda: [LogRecord(loaded.log_position + 1, "item", {"item_id": some[3], "tags": ["Drama"]}, 0)],
        lambda: [LogRecord(loaded.log_position + 1, "item", {**ITEM, "created_at": now + 7}, 0)],
        lambda: [LogRecord(loaded.log_position + 1, "forget", {"user_id": users[1]}, 0)],
    ]  # fmt: skip
    for step, happens in enumerate([*happenings, lambda: loaded.encode_new() and []]):
        loaded.apply(happens() or [])
        for moment in (now, now + 10, now + 40 * 60 * 10**6 * (step + 1)):
            loaded.forget_kept()
            fresh = answered(loaded, questions(moment))
            assert answered(loaded, questions(moment)) == fresh
            again = [loaded.answer(question).kept for question in questions(moment)]
            assert all(again), step
            earlier = answered(loaded, questions(now))  # what was kept at one moment, at another
            loaded.forget_kept()
            assert answered(loaded, questions(now)) == earlier
    assert some[2] not in loaded.answer(ask(loaded, somebody, k=10**6)).item_ids
    assert loaded.answer(ask(loaded, users[1], k=5)).scores == pytest.approx(
        loaded.answer(ask(loaded, "nobody", k=5)).scores
    )
    inline = {"inline": {**ITEM, "item_id": "inline"}}
    assert loaded.answer(ask(loaded, somebody, items=["inline"], new_items=inline)).kept is None


def test_no_more_is_kept_than_may_be(loaded):
    loaded._kept = KeptRecalls(most_bytes=300_000)
    for user in loaded.state.user_ids():
        assert loaded.answer(ask(loaded, user, k=5)).kept is False
        assert loaded._kept.size <= 300_000
    assert 0 < len(loaded._kept) < len(loaded.state.user_ids())
    assert loaded.answer(ask(loaded, user, k=5)).kept is True  # the last one is among them
    first = loaded.state.user_ids()[0]
    assert loaded.answer(ask(loaded, first, k=5)).kept is False
