"""The ranking path over a real release: new items, lent items, failing parts, reasons, search."""

import time

import numpy as np
import pytest

from recsys import explain
from recsys.data_schemas.config import load_config
from recsys.data_schemas.errors import UsageError
from recsys.data_schemas.log_record import LogRecord
from recsys.operations.open_release import open_runtime
from recsys.query import Ask

pytestmark = pytest.mark.filterwarnings("default")
ITEM = {"item_id": "posted", "title": "Green alpha robot", "tags": ["robot"], "available": True}


@pytest.fixture
def runtime(released):
    return open_runtime(load_config(released / "recsys.yaml"))


@pytest.fixture
def somebody(runtime):
    """A user with a long history."""
    return max(runtime.state.user_ids(), key=lambda u: len(runtime.state.history(u, 2**62).item))


def ask(runtime, user, **more):
    return Ask(user, runtime.data_end + 1, **more)


def post(runtime, position, **fields):
    item = {**ITEM, "created_at": runtime.data_end, **fields}
    runtime.apply([LogRecord(runtime.log_position + position, "item", item, 0)])


def test_a_posted_item_waits_for_its_text_beside_the_ranking(runtime, somebody):
    post(runtime, 1)
    everything = ask(runtime, somebody, k=10**6)
    before = runtime.answer(everything)
    assert before.waiting == 1
    assert runtime.encode_new() == 0
    after = runtime.answer(everything)
    assert (after.waiting, "posted" in after.item_ids) == (0, True)
    index = runtime.state.catalogue.index_of("posted")
    first = runtime._vectors_of(np.array([index]))
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    # A text that changes is encoded anew; one that is taken off the shelf never appears.
    post(runtime, 1, title="Blue paper boat", tags=[])
    assert runtime.answer(everything).waiting == 1
    runtime.encode_new()
    assert not np.allclose(first, runtime._vectors_of(np.array([index])))
    post(runtime, 1, available=False)
    assert "posted" not in runtime.answer(everything).item_ids


def test_items_given_with_text_are_ranked_by_it_and_leave_nothing_behind(runtime, somebody):
    known = runtime.answer(ask(runtime, somebody, k=5)).item_ids
    size = runtime.state.catalogue.n_items
    lent = {"lent": {**ITEM, "item_id": "lent"}}
    given = ask(runtime, somebody, items=[*known, "lent"], new_items=lent, explain=1)
    exact = runtime.answer(given)
    assert sorted(exact.item_ids) == sorted([*known, "lent"])
    assert exact.degraded == []
    assert runtime.state.catalogue.n_items == size
    assert "lent" not in runtime.answer(ask(runtime, somebody, k=10**6)).item_ids
    assert runtime.answer(ask(runtime, somebody, items=["lent"])).unknown == ["lent"]
    # Beside a deadline nothing is encoded in the call: what `prepare` made is there, or it is late.
    late = Ask(**{**given.__dict__, "deadline": time.monotonic() + 60})
    assert runtime.answer(late).scores == exact.scores
    other = {"lent": {**ITEM, "item_id": "lent", "title": "Never prepared"}}
    assert runtime.answer(
        Ask(**{**late.__dict__, "new_items": other})
    ).degraded == ["text_encoder_late"]  # fmt: skip


def test_a_source_that_fails_is_left_out_and_named(runtime, somebody, monkeypatch):
    whole = runtime.answer(ask(runtime, somebody, k=10))
    name = next(name for name in runtime.sources if name not in ("text", "popular", "recent"))
    source = runtime.recall.sources[name]

    def broken(*_):
        raise OSError("the file is gone")

    monkeypatch.setattr(type(source), "score", broken)
    answer = runtime.answer(ask(runtime, somebody, k=10))
    assert answer.degraded == [f"source_failed:{name}"]
    assert len(answer.item_ids) == 10
    assert np.isfinite(answer.scores).all()
    monkeypatch.undo()
    assert runtime.answer(ask(runtime, somebody, k=10)).scores == whole.scores
    # With nothing left to ask, it is an error, for the service to answer with the popular list.
    for kind in {type(s) for s in runtime.recall.sources.values()}:
        monkeypatch.setattr(kind, "score", broken)
    with pytest.raises(OSError, match="gone"):
        runtime.answer(ask(runtime, somebody, k=10))


def test_rules_hold_in_the_answer(runtime, somebody):
    catalogue = runtime.state.catalogue
    column = next(iter(("category", *catalogue.categorical_names)))
    tag = catalogue.tag_names[0]
    tagged = runtime.answer(ask(runtime, somebody, k=20, filters={"tags": tag})).item_ids
    assert tagged
    for item_id in tagged:
        assert tag in catalogue.fields(catalogue.index_of(item_id))["tags"]
    seen = set(runtime.state.history(somebody, 2**62).item.tolist())
    assert not seen & {catalogue.index_of(i) for i in tagged}
    for more in ({"filters": {"colour": 1}}, {"caps": {"tags": 1}}):
        with pytest.raises(UsageError, match="names a column"):
            runtime.answer(ask(runtime, somebody, k=3, **more))
    capped = runtime.answer(ask(runtime, somebody, k=20, caps={column: 1}, diversity=0.3))
    values = [catalogue.fields(catalogue.index_of(i))[column] for i in capped.item_ids]
    named = [value for value in values if value is not None]
    assert len(named) == len(set(named))


def test_reasons_are_shares_titles_and_a_sentence(runtime, somebody, monkeypatch):
    answer = runtime.answer(ask(runtime, somebody, k=30, explain=25))
    assert len(answer.reasons) == 25
    for reason in answer.reasons:
        assert sum(map(abs, reason["families"].values())) == pytest.approx(1, abs=0.01)
        assert set(reason["sentence"]) == {"en", "zh"}
    titles = [near["title"] for reason in answer.reasons for near in reason["similar"]]
    assert titles
    assert all(titles)
    late = runtime.answer(ask(runtime, somebody, k=30, explain=25, deadline=0.0))
    assert (late.reasons, late.degraded) == ([], ["explanations_late"])
    # Time that runs out after the second look at the clock leaves the first block's reasons.
    looks = iter([False, False, True])
    monkeypatch.setattr(explain, "_is_late", lambda deadline: next(looks))
    some = runtime.answer(ask(runtime, somebody, k=60, explain=60))
    assert some.reasons == runtime_reasons(runtime, somebody, monkeypatch)[: len(some.reasons)]
    assert 0 < len(some.reasons) < 60


def runtime_reasons(runtime, user, monkeypatch):
    monkeypatch.undo()
    return runtime.answer(ask(runtime, user, k=60, explain=60)).reasons


def test_search_finds_titles_as_they_are_now(runtime):
    assert runtime.search("no such words", 5) == []
    assert len(runtime.search("", 5)) == 5
    index = 3
    word = runtime.state.catalogue.title(index)
    item_id = runtime.state.catalogue.id_of(index)
    assert item_id in runtime.search(word.upper(), 100)
    post(runtime, 1)
    assert runtime.search("ROBOT alpha", 5)[-1] == "posted"
    post(runtime, 1, item_id=item_id, title="Something (else) entirely")
    assert item_id in runtime.search("(ELSE)", 5)
    assert item_id not in runtime.search(word, 10**6)
