"""What a fit could not finish for lack of time, in sentences for the first screen.

Whatever stops by the clock says so under `CUT_SHORT` in its stage's facts, so that a night which uses the
output again still says it.
"""

from collections.abc import Mapping
from typing import Any, Final

CUT_SHORT: Final = "cut short"
"""Fact of a stage: a list of sentences."""
TIME_IS_USED: Final = "the time budget is used"
"""Why an encoder's fit stopped."""


def said_by(facts: Mapping[str, Any]) -> list[str]:
    """What a stage's facts say was cut short: their own list, that of an encoder's fit, that of a ranker's.

    >>> said_by({"ranker": {"ended by time": "the ranker's minutes ended the trees after 20 rounds"}})
    ["the ranker's minutes ended the trees after 20 rounds"]
    """
    learned = _under(_under(facts, "manifest"), "learned")
    ended = _under(facts, "ranker").get("ended by time")
    return [*facts.get(CUT_SHORT, ()), *learned.get(CUT_SHORT, ()), *([ended] if ended else [])]


def _under(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = facts.get(name)
    return found if isinstance(found, Mapping) else {}
