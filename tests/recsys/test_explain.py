"""What a reason says: a fact that is true, and no more than the features it rests on support."""

import numpy as np
import pyarrow as pa
import pytest

from recsys.data_schemas.errors import UsageError
from recsys.data_schemas.meaning import DEFAULT_TYPES, EventMeaning
from recsys.encoder.tower import InterestSource
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import DAY, EMPTY_HISTORY, History, Interactions
from recsys.features.state import OnlineState
from recsys.reasons import RESTS_ON, Facts, ListAsked, ReasonEvidence, TellingWords
from recsys.retrieval.collaborative.item_item import ItemItem
from recsys.sentences import DEFAULTS, FIELDS, Fact, Sentences

NOW = 1000 * DAY
COLUMNS = (
    "text.score", "bm25.score", "item_item.score", "als.score", "count.item.any.7d",
    "popular.score", "trend.any.1d.over.7d", "age.item", "recency.category", "recency.item",
    "overlap.tag.last20", "stated.interest", "context.device",
)  # fmt: skip
TITLES = ["Heat {1995}", "Ronin", "Rififi", "Paddington", "Amélie", "Alien"]
DESCRIPTIONS = [
    "A crew plans a heist while a detective watches from Lisbon",
    "A chase over the coast",
    "Four men and a heist near Lisbon",
    "A bear finds a family",
    "A waitress helps her neighbours",
    "A creature on a ship",
]
NEAR = [{"item_id": "i0", "title": TITLES[0], "similarity": 0.8}]


def catalogue(created=()):
    n = len(TITLES)
    times = [dict(created).get(i, NOW - 900 * DAY) for i in range(n)]
    return Catalogue.from_table(
        pa.table(
            {
                "item_id": [f"i{i}" for i in range(n)],
                "title": TITLES,
                "description": DESCRIPTIONS,
                "tags": [["Crime"]] * 3 + [["Family"], ["Romance"], ["Horror"]],
                "category": ["Thriller"] * 3 + ["Comedy"] * 2 + [None],
                "created_at": pa.array(times, pa.timestamp("us", "UTC")),
            }
        )
    )


def state(items, kinds=("click", "rating", "view"), created=(), days_ago=3):
    """Each of the items is clicked by somebody else, some days ago."""
    n = len(items)
    empty = np.full(n, np.nan, np.float32)
    given = Interactions(
        np.zeros(n, np.int32), np.array(items, np.int32), np.zeros(n, np.int16),
        np.full(n, NOW - days_ago * DAY), empty, np.ones(n, np.float32), np.ones(n, np.int8),
        np.arange(n, dtype=np.int64), np.array(["somebody"], object), kinds, len(TITLES),
    )  # fmt: skip
    return OnlineState.build(
        given, catalogue(created), bucket_us=DAY, windows_us=(DAY, 7 * DAY, 30 * DAY),
        log_position=-1, meaning=EventMeaning(DEFAULT_TYPES),
    )  # fmt: skip


def history(*events):
    """(item, kind code, grade, days ago) …"""
    item, kind, grade, ago = (np.array(part) for part in zip(*events, strict=True))
    return History(
        item.astype(np.int32), kind.astype(np.int16), NOW - ago * DAY,
        np.sign(grade).astype(np.float32), grade.astype(np.int8),
    )  # fmt: skip


LIKED = history((0, 1, 3, 400))


def say(
    families, lifted, item=2, past=LIKED, near=(), world=None, sources=None, ranks=None,
    context=None, columns=COLUMNS, x=None, user=None,
):  # fmt: skip
    world = state([]) if world is None else world
    asked = ListAsked(NOW, past, world, sources or {}, ranks or {}, context or {}, user or {})
    facts = Facts(
        asked, ReasonEvidence(columns), TellingWords(world.catalogue),
        np.array([0]), np.array([item], np.int32),
    )  # fmt: skip
    by_column = np.array([lifted.get(name, 0.0) for name in columns])
    values = np.zeros(len(columns), np.float32) if x is None else x
    return facts.best(0, families, by_column, values, near)


def pairs():
    """People who chose item 0 chose item 2."""
    offsets = np.array([0, 1, 1, 1, 1, 1, 1], np.int64)
    return ItemItem(
        offsets, np.array([2], np.int32), np.array([0.4], np.float32), np.ones(6, np.uint8),
        params={"decay": 1.0}, scale=1.0, fit_until=0,
    )  # fmt: skip


def test_a_stated_interest_is_named_where_the_item_meets_it():
    told, nobody = ({"attributes": 1.0}, {"stated.interest": 1.0}), EMPTY_HISTORY
    assert say(*told, past=nobody, user={"likes": "Thriller", "born": 1970.0}) == Fact(
        "stated", {"words": ["Thriller"]}
    )
    assert say(*told, past=nobody, user={"likes": "Comedy"}).kind == "nothing"
    assert say(*told, past=nobody).kind == "nothing"


def test_text_names_what_was_liked_chosen_or_looked_at():
    told = {"text": 1.0}, {"text.score": 1.0}
    assert say(*told, near=NEAR) == Fact("liked", {"title": "Heat {1995}"})
    assert say(*told, near=NEAR, past=history((0, 0, 1, 9))).kind == "chosen"
    assert say(*told, near=NEAR, past=history((0, 2, 0, 9))).kind == "looked_at"
    # The last word on an item counts, and one of an unknown type was not "liked".
    assert say(*told, near=NEAR, past=history((0, 1, 3, 9), (0, 1, -1, 8))).kind == "nothing"
    assert say(*told, near=NEAR, past=history((0, -1, 1, 9))).kind == "chosen"
    assert say(*told, near=NEAR, past=history((0, 1, 0, 9))).kind == "nothing"
    assert say(*told, near=[]).kind == "nothing"


def test_a_new_item_is_told_by_the_words_that_it_shares():
    told, created = ({"text": 1.0}, {"text.score": 1.0}), {2: NOW - 3 * DAY}
    new = say(*told, near=NEAR, world=state([], created=created))
    assert new == Fact("new_words", {"words": ["heist", "Lisbon"]})
    said = Sentences.default().of(new)
    assert said["en"] == "New, and close to what you chose: heist, Lisbon"
    assert said["zh"] == "新上架，与您选择过的内容相近：heist、Lisbon"
    # Nothing in common but what every text has, and an order instead of dates: no news.
    assert say(*told, item=3, near=NEAR, world=state([], created={3: NOW - DAY})).kind == "liked"
    undated = tuple(n for n in COLUMNS if not n.startswith(("age.", "recency.")))
    world = state([], created=created)
    assert say(*told, near=NEAR, world=world, columns=undated).kind == "liked"
    assert say({"text": 1.0}, {"bm25.score": 1.0}, near=NEAR).kind == "words"


def test_what_others_chose_is_told_of_the_item_that_leads_there():
    told, by_pairs = {"collaborative": 1.0}, {"item_item.score": 1.0}
    found = say(told, by_pairs, sources={"item_item": pairs()})
    assert found == Fact("also_chosen", {"title": "Heat {1995}"})
    assert say(told, by_pairs, item=4, sources={"item_item": pairs()}).kind == "alike_people"
    assert say(told, {"als.score": 1.0}, sources={"item_item": pairs()}).kind == "alike_people"
    # A source of somebody's own may be anything, and nobody is like somebody without a history.
    assert say(told, {"mine.score": 1.0}, columns=("mine.score",)).kind == "nothing"
    assert say(told, {"als.score": 1.0}, past=EMPTY_HISTORY).kind == "nothing"


def test_popular_is_what_has_many_times_the_events_of_its_category():
    told = {"counters": 1.0}, {"count.item.any.7d": 1.0}
    # All events of a category of three are three times its mean item's, and five are asked for.
    assert say(*told, world=state([2] * 40)).kind == "nothing"
    few = state([2] * 4)
    assert say(*told, world=few).kind == "nothing"
    ranks = {"popular.rank": np.array([7.0])}
    assert say(*told, world=few, ranks=ranks).kind == "popular"
    assert say(*told, world=few, ranks={"popular.rank": np.array([np.nan])}).kind == "nothing"


@pytest.mark.parametrize(("days_ago", "window"), [(3, 7), (20, 30), (200, 0)])
def test_popular_in_a_category_says_since_when(days_ago, window, monkeypatch):
    monkeypatch.setattr("recsys.reasons.POPULAR_TIMES", 2.0)
    found = say({"counters": 1.0}, {"popular.score": 1.0}, world=state([2] * 9, days_ago=days_ago))
    assert found == Fact("popular_in", {"window": window * DAY, "category": "Thriller"})
    phrase = {7: "this week", 30: "this month", 0: "overall"}[window]
    assert Sentences.default().of(found)["en"] == f"Popular {phrase} in Thriller"
    assert say({"counters": 1.0}, {"popular.score": 1.0}, item=5, world=state([5] * 9)).kind == (
        "nothing"
    )


def test_time_attributes_and_the_request():
    rising = np.array([1.0 if n.startswith("trend") else 0.0 for n in COLUMNS], np.float32)
    by = {"trend.any.1d.over.7d": 1.0}
    assert say({"counters": 1.0}, by, world=state([2] * 9), x=rising).kind == "rising"
    assert say({"counters": 1.0}, by, world=state([2] * 9)).kind == "nothing"
    news = say({"recency": 1.0}, {"age.item": 1.0}, world=state([], created={2: NOW - 20 * DAY}))
    assert Sentences.default().of(news)["en"] == "New this month"
    assert say({"recency": 1.0}, {"age.item": 1.0}).kind == "nothing"
    lately = {"recency": 1.0}, {"recency.category": 1.0}
    assert say(*lately, past=history((1, 0, 1, 5))) == Fact("lately", {"category": "Thriller"})
    assert say(*lately, past=history((1, 0, 1, 50))).kind == "nothing"
    assert say({"recency": 1.0}, {"recency.item": 1.0}, past=history((2, 0, 1, 5))).kind == "again"
    often = {"attributes": 1.0}, {"overlap.tag.last20": 1.0}
    twice = history((0, 0, 1, 5), (1, 0, 1, 4))
    assert say(*often, past=twice) == Fact("often", {"words": ["Crime", "Thriller"]})
    assert say(*often, past=LIKED).kind == "nothing"
    asked = {"context": 1.0}, {"context.device": 1.0}
    assert say(*asked, context={"device": "phone"}) == Fact("request", {"words": ["phone"]})
    assert say(*asked).kind == "nothing"


def test_no_more_is_said_than_the_shares_support():
    lifted = {"text.score": 0.2, "als.score": 0.8}
    families = {"collaborative": 0.8, "text": 0.2}
    assert say(families, lifted, near=NEAR).kind == "alike_people"
    # The leading family has nothing true to say; a much quieter one does not speak for it.
    nobody = {"user": 0.8, "text": 0.2}
    assert say(nobody, {"text.score": 0.2}, near=NEAR).kind == "nothing"
    assert say({"user": 0.6, "text": 0.4}, {"text.score": 0.4}, near=NEAR).kind == "liked"
    # The family lifted the item, but not by the features that the fact rests on.
    assert say({"recency": 1.0}, {"age.item": -0.1, "recency.item": 0.9}).kind == "nothing"
    assert say({"text": -1.0}, {"text.score": -1.0}, near=NEAR).kind == "nothing"
    assert say({"a family of somebody's own": 1.0}, {}).kind == "nothing"


def test_the_recall_stage_speaks_through_the_source_that_lists_the_item_highest():
    sources = {"item_item": pairs(), "text": InterestSource, "mine": object()}
    ranks = {"item_item.rank": [4.0], "text.rank": [2.0], "fused.rank": [1.0], "mine.rank": [1.0]}
    signals = {name: np.array(rank) for name, rank in ranks.items()}
    told = {"sources": sources, "ranks": signals}
    assert say({"recall": 1.0}, {}, near=NEAR, **told).kind == "liked"
    assert say({"recall": 1.0}, {}, **told).kind == "also_chosen"
    assert say({"recall": 1.0}, {}, past=EMPTY_HISTORY, **told) == Fact("agreed", {"count": 3})
    low = {name: rank + 100 for name, rank in signals.items()}
    assert say({"recall": 1.0}, {}, near=NEAR, sources=sources, ranks=low).kind == "nothing"


def test_a_list_does_not_say_one_thing_over_and_over_where_more_is_true():
    world = state([2] * 9 + [1] * 9)
    asked = ListAsked(NOW, LIKED, world, {}, {"popular.rank": np.array([1.0, 2.0, 3.0])}, {})
    facts = Facts(
        asked, ReasonEvidence(COLUMNS), TellingWords(world.catalogue),
        np.array([0, 1, 2]), np.array([2, 1, 3], np.int32),
    )  # fmt: skip
    lifted = np.array([float(name == "text.score" or name == "popular.score") for name in COLUMNS])
    x, families = np.zeros(len(COLUMNS), np.float32), {"counters": 0.5, "text": 0.4}
    said = [facts.best(place, families, lifted, x, NEAR).kind for place in range(3)]
    assert said == ["popular", "liked", "popular"]
    quiet = {"counters": 0.8, "text": 0.2}
    assert facts.best(2, quiet, lifted, x, NEAR).kind == "popular"


# -- the words ----------------------------------------------------------------------------------


def test_every_language_says_every_fact():
    values = {"title": "{T}", "words": ["a", "b"], "window": 3 * DAY, "category": "C", "count": 2}
    for texts in DEFAULTS.values():
        assert texts.keys() == DEFAULTS["en"].keys()
    for kind, fields in FIELDS.items():
        said = Sentences.default().of(Fact(kind, {name: values[name] for name in fields}))
        assert said.keys() == DEFAULTS.keys()
        assert all(said.values())
    assert {way for ways in RESTS_ON.values() for way in ways} - {"near"} <= FIELDS.keys()


def test_an_owner_s_file_replaces_words_and_adds_languages(tmp_path):
    file = tmp_path / "sentences.yaml"
    german = "\n".join(f'  {kind}: "…"' for kind in DEFAULTS["en"] if kind != "liked")
    file.write_text(
        f"en:\n  liked: As you enjoyed {{title}}\nde:\n  liked: Wie {{title}}\n{german}"
    )
    said = Sentences.load(file).of(Fact("liked", {"title": "Heat"}))
    assert said == {"en": "As you enjoyed Heat", "zh": "因为您喜欢《Heat》", "de": "Wie Heat"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("en:\n  likes: Oh", "likes"),
        ("en:\n  liked: Oh {price}", "{price}"),
        ("en:\n  liked: Oh {title.__class__}", "title.__class__"),
        ("en:\n  liked: Oh {title!r}", "title"),
        ("en:\n  liked: Oh {", "{"),
        ("en:\n  liked: [1]", "1"),
        ("en: Oh", "str"),
        ("- en", "list"),
        ("de:\n  liked: Oh", "also_chosen"),
        ("en: [", "line 1"),
        (None, "No such file"),
    ],
)
def test_a_wrong_file_says_where_and_what(tmp_path, text, found):
    file = tmp_path / "sentences.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError) as caught:
        Sentences.load(file)
    assert "sentences.yaml" in str(caught.value)
    assert found in str(caught.value)
