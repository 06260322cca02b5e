"""The sentence of a reason."""

import pytest

from recsys.explain import SENTENCES, sentence

NEAR = [{"item_id": "7", "title": "Heat {1995}", "similarity": 0.8}]


@pytest.mark.parametrize(
    ("families", "near", "key"),
    [
        ({"text": 0.6, "counters": 0.4}, NEAR, "text_of"),
        ({"text": 0.6, "counters": 0.4}, [], "text"),
        ({"recency": -0.7, "collaborative": 0.3}, NEAR, "collaborative"),
        ({"text": 0.0, "counters": 0.0}, NEAR, "nothing"),
        ({"counters": -1.0}, [], "nothing"),
        ({"a family of somebody's own": 1.0}, [], "nothing"),
    ],
)
def test_it_says_what_speaks_most_for_the_item(families, near, key):
    said = sentence(families, near)
    assert set(said) == {"en", "zh"}
    for language, text in said.items():
        assert text == SENTENCES[language][key].replace("{title}", "Heat {1995}")


def test_every_language_says_the_same_things():
    assert SENTENCES["en"].keys() == SENTENCES["zh"].keys()
