"""In which language a text is written, roughly: enough to see a mix change.

The script decides first; Latin texts are told apart by their commonest words. A short title often
holds none of them and counts as `latin`. This is no language identifier: it answers "did the mix
change?", without a model, in microseconds.
"""

import re
from collections import Counter
from collections.abc import Sequence

SCRIPTS = (
    ("kana", re.compile(r"[\u3040-\u30ff]")),
    ("han", re.compile(r"[\u3400-\u9fff\U00020000-\U0002ffff]")),
    ("hangul", re.compile(r"[\u1100-\u11ff\uac00-\ud7af]")),
    ("cyrillic", re.compile(r"[\u0400-\u052f]")),
    ("arabic", re.compile(r"[\u0600-\u06ff\u0750-\u077f]")),
    ("hebrew", re.compile(r"[\u0590-\u05ff]")),
    ("greek", re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]")),
    ("devanagari", re.compile(r"[\u0900-\u097f]")),
    ("thai", re.compile(r"[\u0e00-\u0e7f]")),
    ("latin", re.compile(r"[A-Za-z\u00c0-\u024f]")),
)
"""Kana before Han: Japanese is written with both."""
LEAST_SHARE = 0.3
"""Share of a text's letters from which its script counts; Latin names stand in every language."""
WORDS = {
    "english": "the of and to in is for with on that this from by an his her at are as it",
    "german": "der die das und ist mit für von den ein eine nicht auf im zu dem des sich auch wird",
    "french": "le la les des et est une pour dans du qui sur au pas avec ce il son aux sa",
    "spanish": "el los las y es una por con del que se su para al lo como más sus entre pero",
    "italian": "il gli e di che è una per con del della non si da nel sono alla dei anche suo",
    "portuguese": "o os as e é uma para com do da que não em no na dos um se por ao",
    "dutch": "de het een en van is op te dat met voor niet zijn aan er om door bij hij haar",
}
_COMMON = {language: frozenset(words.split()) for language, words in WORDS.items()}
_TOKEN = re.compile(r"[^\W\d_]+")
LETTERS_READ = 400
"""Characters of a text that are looked at."""


def language_of(text: str) -> str:
    """A language, a script, or `none` for a text without letters.

    >>> [language_of(t) for t in ("The end of the world", "Der Untergang und die Folgen", "Война")]
    ['english', 'german', 'cyrillic']
    """
    head = text[:LETTERS_READ]
    letters = sum(len(word) for word in _TOKEN.findall(head))
    if not letters:
        return "none"
    for script, pattern in SCRIPTS:
        if len(pattern.findall(head)) >= LEAST_SHARE * letters:
            return _of_latin(head) if script == "latin" else script
    return "other"


def _of_latin(text: str) -> str:
    words = Counter(_TOKEN.findall(text.lower()))
    hits = {lang: sum(words[w] for w in common) for lang, common in _COMMON.items()}
    best = max(hits, key=lambda language: hits[language])
    tied = [language for language, count in hits.items() if count == hits[best]]
    return best if hits[best] and len(tied) == 1 else "latin"


def languages_of(texts: Sequence[str]) -> list[str]:
    """`language_of` each text."""
    return [language_of(text) for text in texts]
