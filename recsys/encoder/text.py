"""What the encoder reads of an item: its columns, cleaned and put into the configured template.

The same functions serve the nightly run and text sent inline with a request, so that an item
means the same on both sides.
"""

import ast
import html
import re
import string
from collections.abc import Iterable
from functools import lru_cache

from recsys.data_schemas.columns import (
    CATEGORY,
    DESCRIPTION,
    TAGS,
    TITLE,
)
from recsys.data_schemas.errors import UsageError
from recsys.features.catalogue import Catalogue
from recsys.features.on_disk import stretches
from recsys.features.packed_strings import AT_ONCE, PackedStrings

MAX_CHARACTERS = 40_000
"""Characters of one column that are looked at; no encoder reads further (8,192 tokens)."""
FIELDS = (TITLE, TAGS, CATEGORY, DESCRIPTION)

_INVISIBLE_BLOCKS = re.compile(r"<(script|style)\b[^>]*>.*?(</\1\s*>|\Z)", re.I | re.S)
_COMMENTS = re.compile(r"<!--.*?(-->|\Z)", re.S)
_BREAKING_TAGS = re.compile(
    r"</?(?:br|p|div|li|ul|ol|tr|td|th|h[1-6]|table|tbody|section)\b[^<>]{0,2000}>", re.I
)
_TAGS = re.compile(r"</?[a-zA-Z][^<>]{0,2000}>")
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff\ufffd]"
)
_URLS = re.compile(r"\b(?:https?://|www\.)\S+", re.I)
_BOILERPLATE = re.compile(
    r"\b(?:product description|from the manufacturer|read more|see more product details|"
    r"click (?:here )?to (?:enlarge|view larger)|view larger)\b:?",
    re.I,
)
_SPACES = re.compile(r"\s+")
_RULES = re.compile(r"([-_=*~.•|])\1{3,}")
_LIST_AS_TEXT = re.compile(r"\s*\[.*\]\s*\Z", re.S)
_BETWEEN = re.compile(r"""['"], ['"]""")
_LOOSE_POINTS = re.compile(r"\s+([,;:.!?])(?=\s|\Z)")


def clean(text: str | None) -> str:
    """Readable text of a dirty column: no HTML, entities, control characters or boilerplate.

    A list that was turned into text (`['a', 'b']`) becomes `a, b`. None becomes "".

    >>> clean("<p>Fast &amp;amp; quiet</p><br>['A4', 'A5']")
    "Fast & quiet ['A4', 'A5']"
    >>> clean("['Glue', 'Tape']")
    'Glue, Tape'
    """
    if not text:
        return ""
    text = text[:MAX_CHARACTERS]
    if "[" in text and _LIST_AS_TEXT.match(text):
        text = _unlist(text)
    if "&" in text:
        text = html.unescape(html.unescape(text))
    if "<" in text:
        text = _COMMENTS.sub(" ", _INVISIBLE_BLOCKS.sub(" ", text))
        text = _TAGS.sub("", _BREAKING_TAGS.sub(" ", text))
    text = _UNSEEN.sub("", _URLS.sub(" ", text))
    text = _RULES.sub(" ", _BOILERPLATE.sub(" ", text))
    return _LOOSE_POINTS.sub(r"\1", _SPACES.sub(" ", text)).strip()


def _unlist(text: str) -> str:
    """`['a', 'b']` → `a, b`; text that is no list of words comes back unchanged."""
    text = text.strip()
    try:
        parts = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        parts = _split_broken_list(text)
    if not isinstance(parts, list) or not all(isinstance(p, str | int | float) for p in parts):
        return text
    return ", ".join(word for word in (str(part).strip() for part in parts) if word)


def _split_broken_list(text: str) -> list[str] | None:
    """A list whose quotes were unescaped on the way (`['it's', 'b']`), split where it looks so."""
    if text[1:2] not in ("'", '"') or text[-2:-1] not in ("'", '"'):
        return None
    return [part.replace("\\n", " ") for part in _BETWEEN.split(text[2:-2])]


@lru_cache(maxsize=64)
def _parse(template: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """((separator before a field, field), …) and the literal after the last field."""
    pieces: list[tuple[str, str]] = []
    tail = ""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise _bad_template(template, str(error)) from None
    for literal, field, spec, conversion in parsed:
        if field is None:
            tail = literal
        elif field not in FIELDS or spec or conversion:
            raise _bad_template(template, "{" + str(field) + "}")
        else:
            pieces.append((literal, field))
    if not pieces:
        raise _bad_template(template, "no field")
    return tuple(pieces), tail


def _bad_template(template: str, found: str) -> UsageError:
    return UsageError(
        "the text template cannot be read",
        where=f"encoder.template: {template}",
        found=found,
        expected="text with fields out of " + ", ".join("{" + f + "}" for f in FIELDS),
        fix="write each field in braces, and a brace of the text itself twice",
    )


def item_text(
    template: str,
    title: str | None,
    tags: Iterable[str] | None,
    category: str | None,
    description: str | None,
) -> str:
    """One item's text. A field that is empty drops out with the literal before it.

    The literal before the first field (such as an E5 model's `passage: `) always stays, unless no
    field has anything to say: then the text is "", whose tuned vector is the learned blank.

    Args:
        template: literals and the fields {title}, {tags}, {category}, {description}.
        title: as given; None where there is none.
        tags: joined by commas.
        category: as given.
        description: as given; HTML is cleaned out of it.

    Raises:
        UsageError: the template holds an unknown field.

    >>> item_text("{title}. {tags}. {category}", "Glue", [], "Crafts", None)
    'Glue. Crafts'
    """
    values = {
        TITLE: clean(title),
        TAGS: ", ".join(t for t in map(clean, () if tags is None else tags) if t),
        CATEGORY: clean(category),
        DESCRIPTION: clean(description),
    }
    pieces, tail = _parse(template)
    text_so_far = ""
    for place, (literal, field) in enumerate(pieces):
        value = values[field]
        if not value:
            continue
        if text_so_far and literal[:1] in ".,;:":
            text_so_far = text_so_far.rstrip(" .,;:")
        text_so_far = text_so_far + (literal if text_so_far else "") + value if place else value
    return pieces[0][0] + text_so_far + tail if text_so_far else ""


def item_texts(catalogue: Catalogue, template: str) -> PackedStrings:
    """The text of every item of a catalogue, in its order."""
    return PackedStrings.joined(
        [item_text(template, *row) for row in catalogue.text_rows(part)]
        for part in stretches(catalogue.n_items, AT_ONCE)
    )
