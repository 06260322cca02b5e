"""Cleaning and the template."""

import pytest

from recsys.data_schemas.errors import UsageError
from recsys.encoder.text import clean, item_text, item_texts


@pytest.mark.parametrize(
    ("dirty", "wanted"),
    [
        (None, ""),
        ("", ""),
        ("plain words", "plain words"),
        ("<p>Fast &amp;amp; quiet</p>", "Fast & quiet"),
        ("one<br/>two<BR>three", "one two three"),
        ("bold <b>word</b>s stay <i>together</i>", "bold words stay together"),
        ("a<script>var x = '<p>';</script>b", "a b"),
        ("cut short <style>.x {color:red", "cut short"),
        ("seen <!-- .headerM {color:#000} --> again", "seen again"),
        ("size < 5 and > 3", "size < 5 and > 3"),
        ("tab\tand\nline\x00\x07 end\u200b", "tab and line end"),
        ("['Glue', 'Tape']", "Glue, Tape"),
        ("['it's', 'broken', '\\n \\n']", "it's, broken"),
        ("[not a list]", "[not a list]"),
        ("see https://example.org/x?y=1 now", "see now"),
        ("Product Description: a pen", "a pen"),
        ("------- heading =====", "heading"),
    ],
)
def test_clean(dirty, wanted):
    assert clean(dirty) == wanted


def test_clean_of_a_huge_text_is_bounded():
    assert len(clean("<div>word " * 100_000)) <= 40_000


def test_fields_that_are_empty_drop_out_with_their_punctuation():
    template = "{title}. {tags}. {category}. {description}"
    assert item_text(template, "Glue.", ["a", "", "b"], None, "Sticks.") == "Glue. a, b. Sticks."
    assert item_text(template, None, [], "Crafts", "") == "Crafts"
    assert item_text(template, "Glue", None, None, None) == "Glue"


def test_prefix_stays_unless_nothing_is_said():
    assert item_text("passage: {title} | {category}", "", [], "Crafts", "") == "passage: Crafts"
    assert item_text("passage: {title}", "", [], "", "") == ""


@pytest.mark.parametrize("template", ["{name}", "no field", "{title", "{title:>9}"])
def test_a_wrong_template_is_refused(template):
    with pytest.raises(UsageError, match="template"):
        item_text(template, "Glue", [], None, None)


def test_texts_of_a_catalogue(world):
    _, inputs = world
    texts = item_texts(inputs.catalogue, "{title}. {tags}. {category}")
    assert len(texts) == 40
    assert texts[5] == "Globex widget number 5. shelf1. hall1"
