"""Long tables of ranked lists: one row per place, best first."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from recsys.features.catalogue import Catalogue
    from recsys.features.interactions import History
    from recsys.operations.library.dataset import Ids

SCORE: Final = "score"
RANK: Final = "rank"
SIMILAR: Final = "similar_item_id"
ABSENT: Final = ("NAType", "NaTType")
"""Classes of what pandas writes for a missing value, beside None and NaN."""


def long_frame(
    rows: Iterable[tuple[str, Sequence[str], Sequence[float]]],
    ids: "Ids",
    keys: tuple[str, str] = (c.USER_ID, c.ITEM_ID),
) -> "pd.DataFrame":
    """Lists as a long frame: key, item, score, rank from 1; whoever has an empty list is not in it.

    Args:
        rows: (key, item ids, scores) of each list, best first.
        ids: how ids were given.
        keys: names of the first two columns.
    """
    import numpy as np
    import pandas as pd

    owners: list[str] = []
    items: list[str] = []
    scores: list[float] = []
    ranks: list[int] = []
    for owner, listed, scored in rows:
        owners += [owner] * len(listed)
        items += listed
        scores += scored
        ranks += range(1, len(listed) + 1)
    first = ids.of_users(owners) if keys[0] == c.USER_ID else ids.of_items(owners)
    return pd.DataFrame(
        {
            keys[0]: first,
            keys[1]: ids.of_items(items),
            SCORE: np.array(scores, np.float64),
            RANK: np.array(ranks, np.int64),
        }
    )


def as_ids(given: Any, argument: str) -> list[str]:
    """One id or many, of any column or list, as strings; each once, in order.

    Raises:
        UsageError: there is none, or one is missing or no id.
    """
    values = [given] if given is None or isinstance(given, str | int | float) else list(given)
    found = list(dict.fromkeys(id_text(v, argument) for v in values))
    if not found:
        raise UsageError(
            "nothing is asked for", where=argument, found="0 ids", expected="at least one"
        )
    return found


def id_text(value: Any, where: str) -> str:
    """An id as a string; a whole number that went through a float is the number.

    Raises:
        UsageError: it is missing, a fraction or a truth value, which name nobody.

    >>> id_text(7.0, "users"), id_text("7.0", "users")
    ('7', '7.0')
    """
    if isinstance(value, str):
        return value
    number: Any = value.as_py() if hasattr(value, "as_py") else value
    number = number.item() if hasattr(number, "item") else number
    number = float(number) if isinstance(number, Decimal) else number
    if isinstance(number, float) and number.is_integer():
        return str(int(number))
    if number is None or isinstance(number, bool | float) or type(number).__name__ in ABSENT:
        raise UsageError(
            "this names nobody",
            where=where,
            found=repr(number),
            expected="strings or whole numbers",
            fix="leave missing ids out, as in ids.dropna().astype('Int64')",
        )
    return str(number)


def items_and_times(past: "History", catalogue: "Catalogue") -> set[tuple[str, int]]:
    """(item, µs) of each event of a history."""
    name = catalogue.id_of
    return {(name(int(i)), int(t)) for i, t in zip(past.item, past.time, strict=True)}


def require_k(k: int) -> int:
    """A length of list that can be asked for."""
    if not isinstance(k, int) or k < 1:
        raise UsageError("a list has at least one place", where="k", found=k, expected="1 or more")
    return k
