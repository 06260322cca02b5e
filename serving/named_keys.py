"""Names the key of an object whose value is wrong: msgspec's messages say `$.attributes[...]` of them all.

Asked for only where a body was refused already, so that what is right pays nothing.
"""

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

import msgspec

from recsys.data_schemas.limits import ATTRIBUTES

_VALUE: Final = re.compile(r" - at `(\$[^`]*)\[\.\.\.\]`\Z")
_KEY: Final = re.compile(r" - at `key` in `(\$[^`]*)`\Z")
_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]")
_LOOKED_AT: Final = ATTRIBUTES + 1
"""Keys of one object, so that a body of very many is not gone through for a message; what comes behind
is one too many anyway."""


def named(message: str, body: bytes, kind: Any) -> str | None:
    """The place of a wrong value of an object of any keys, `$.attributes.stock`; where the key itself is
    wrong, or is not found again, that of the object. None for a message about anything else.

    Args:
        message: of a `msgspec.ValidationError`.
        body: the JSON that was refused.
        kind: the type that it was to be.
    """
    value = _VALUE.search(message)
    if value is None:
        found = _KEY.search(message)
        return found and found[1]
    key = _wrong_key(body, value[1], kind, value[0])
    return value[1] if key is None else f"{value[1]}.{key}"


def _wrong_key(body: bytes, place: str, kind: Any, ending: str) -> str | None:
    """The first key that alone, in an object at `place` of a body with nothing else, is refused with a
    message of this ending."""
    path = [name or int(number) for name, number in _STEP.findall(place)]
    try:
        there = msgspec.json.decode(body)
        for step in path:
            there = there[step]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError):
        return None
    if not isinstance(there, Mapping):
        return None
    alone = re.sub(r"\[\d+\]", "[0]", ending)
    for key, value in islice(there.items(), _LOOKED_AT):
        try:
            msgspec.convert(_within(path, {key: value}), kind)
        except msgspec.ValidationError as error:
            if str(error).endswith(alone):
                return str(key)
    return None


def _within(path: list[str | int], inner: Any) -> Any:
    """A body that holds something at the end of a path, and nothing else; of lists, at the first place."""
    for step in reversed(path):
        inner = [inner] if isinstance(step, int) else {step: inner}
    return inner
