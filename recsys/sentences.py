"""The words of a reason: what is said, by language, of a fact that was found to hold.

Which fact holds is for `recsys/reasons.py` to find; here are only words, so that an owner can replace
them by a YAML file of their own (`serving.sentences`).
"""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from recsys.data_schemas.errors import UsageError
from recsys.data_schemas.yaml_text import read_yaml
from recsys.features.interactions import DAY
from recsys.features.time_buckets import UNBOUNDED

Texts = Mapping[str, str]


class Fact(NamedTuple):
    """Something true about an item and the one it is shown to."""

    kind: str
    """A key of FIELDS."""
    values: Mapping[str, Any] = {}
    """What its fields stand for; a `window` is its width in µs."""


FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "liked": ("title",),
    "chosen": ("title",),
    "looked_at": ("title",),
    "new_words": ("words",),
    "words": ("words",),
    "also_chosen": ("title",),
    "alike_people": (),
    "popular_in": ("window", "category"),
    "popular": (),
    "rising": (),
    "new": ("window",),
    "lately": ("category",),
    "again": (),
    "often": ("words",),
    "stated": ("words",),
    "request": ("words",),
    "agreed": ("count",),
    "nothing": (),
}
"""Fact → fields that its sentence may use."""
WINDOWS: Final = ("last_week", "last_month", "last_days", "overall")
"""What stands for `{window}`; `last_days` may use `{days}`."""
JOIN: Final = "between_words"
ENGLISH: Final = "en"
DEFAULTS: Final[Mapping[str, Texts]] = {
    ENGLISH: {
        "liked": "Because you liked {title}",
        "chosen": "Because you chose {title}",
        "looked_at": "Because you looked at {title}",
        "new_words": "New, and close to what you chose: {words}",
        "words": "Close to what you chose: {words}",
        "also_chosen": "People who chose {title} also chose this",
        "alike_people": "People with a history like yours chose this",
        "popular_in": "Popular {window} in {category}",
        "popular": "One of the most popular of late",
        "rising": "Chosen more often lately than before",
        "new": "New {window}",
        "lately": "You have been looking at {category} lately",
        "again": "You chose it before",
        "often": "You often choose {words}",
        "stated": "Suits what you say of yourself: {words}",
        "request": "Suits what you asked for: {words}",
        "agreed": "Found for you in {count} different ways",
        "nothing": "Suits you about as well as the others in this list",
        "last_week": "this week",
        "last_month": "this month",
        "last_days": "in the last {days} days",
        "overall": "overall",
        JOIN: ", ",
    },
    "zh": {
        "liked": "因为您喜欢《{title}》",
        "chosen": "因为您选择过《{title}》",
        "looked_at": "因为您看过《{title}》",
        "new_words": "新上架，与您选择过的内容相近：{words}",
        "words": "与您选择过的内容相近：{words}",
        "also_chosen": "选择《{title}》的人也选择了它",
        "alike_people": "与您有相似记录的人选择了它",
        "popular_in": "{window}在“{category}”中很受欢迎",
        "popular": "近来最受欢迎的内容之一",
        "rising": "近来选择它的人比以前多",
        "new": "{window}新上架",
        "lately": "您最近常看“{category}”",
        "again": "您以前选择过它",
        "often": "您经常选择{words}",
        "stated": "符合您的自我介绍：{words}",
        "request": "符合您的要求：{words}",
        "agreed": "有{count}种推荐方式为您找到了它",
        "nothing": "与此列表中的其他内容同样适合您",
        "last_week": "本周",
        "last_month": "本月",
        "last_days": "最近{days}天",
        "overall": "总体上",
        JOIN: "、",
    },
}
"""Language → the sentence of each fact, and the words that its fields are made of."""


@dataclass(frozen=True)
class Sentences:
    """What is said, by language."""

    texts: Mapping[str, Texts]

    @classmethod
    def default(cls) -> "Sentences":
        """English and Chinese."""
        return cls(DEFAULTS)

    @classmethod
    def load(cls, path: Path) -> "Sentences":
        """An owner's file over the defaults: language → fact → sentence.

        What a language leaves out stays as it was; a new language says everything.

        Raises:
            UsageError: the file cannot be read, or names a fact, a field or a language's part that is
                not there.
        """
        given = _read(path)
        texts: dict[str, Texts] = dict(DEFAULTS)
        for language, own in given.items():
            where = f"{path}: {language}"
            if not isinstance(own, Mapping):
                raise UsageError(
                    "a language holds no sentences",
                    where=where,
                    found=type(own).__name__,
                    expected="a fact and its sentence a line, such as `chosen: Like {title}`",
                )
            for kind, text in own.items():
                _check(f"{where}.{kind}", kind, text)
            texts[language] = {**DEFAULTS.get(language, {}), **own}
            missing = [kind for kind in DEFAULTS[ENGLISH] if kind not in texts[language]]
            if missing:
                raise UsageError(
                    "a language of your own lacks sentences",
                    where=where,
                    expected=", ".join(missing),
                    fix="add them, for a fact must not go unsaid in one language",
                )
        return cls(texts)

    def of(self, fact: Fact) -> dict[str, str]:
        """The fact in words, by language."""
        return {language: _filled(texts, fact) for language, texts in self.texts.items()}


def _filled(texts: Texts, fact: Fact) -> str:
    values: dict[str, Any] = dict(fact.values)
    if "window" in values:
        values["window"] = _window(texts, int(values["window"]))
    if "words" in values:
        values["words"] = texts[JOIN].join(values["words"])
    return texts[fact.kind].format(**values)


def _window(texts: Texts, width: int) -> str:
    if width == UNBOUNDED:
        return texts["overall"]
    days = max(1, round(width / DAY))
    named = {7: "last_week", 30: "last_month"}.get(days, "last_days")
    return texts[named].format(days=days)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        given = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        raise UsageError(
            "the file of sentences cannot be read",
            where=f"serving.sentences: {path}" + (f", line {mark.line + 1}" if mark else ""),
            found=getattr(error, "problem", None) or str(error),
            fix="correct the file, or take the setting out for the sentences we have",
        ) from None
    if not isinstance(given, Mapping):
        raise UsageError(
            "the file of sentences names no language",
            where=f"serving.sentences: {path}",
            found=type(given).__name__,
            expected="`en:` and below it a fact and its sentence a line",
        )
    return given


def _check(where: str, kind: str, text: Any) -> None:
    known: Sequence[str] = (*FIELDS, *WINDOWS, JOIN)
    if kind not in known:
        raise UsageError(
            "a sentence of an unknown fact", where=where, found=kind, expected=", ".join(known)
        )
    allowed = FIELDS.get(kind, ("days",) if kind == "last_days" else ())
    expected = " and ".join(f"{{{name}}}" for name in allowed) or "a text without fields"
    try:
        fields = [part for part in string.Formatter().parse(text) if part[1] is not None]
        wrong = [name for _, name, form, turn in fields if name not in allowed or form or turn]
    except (TypeError, ValueError) as error:
        raise UsageError(
            "a sentence is not a text with fields in braces",
            where=where,
            found=f"{text!r}: {error}",
            expected=expected,
        ) from None
    if wrong:
        raise UsageError(
            "a sentence has a field that its fact does not have",
            where=where,
            found=f"{{{wrong[0]}}}",
            expected=expected,
        )
