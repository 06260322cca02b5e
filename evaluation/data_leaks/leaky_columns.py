"""What is told of items and users, as columns of numbers or codes: the caller's attributes, and what can be
read off ids, order and texts.

Shapes: N items, U users with events, n entities.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.columns import (
    AVAILABLE,
    CATEGORY,
    CREATED_AT,
    DESCRIPTION,
    ITEM_ID,
    TAGS,
    TITLE,
    USER_ID,
)
from recsys.evaluation.data_leaks.logged_data import NEVER, LoggedData
from recsys.evaluation.data_leaks.numbers import Doubles, codes_of
from recsys.evaluation.report_context import DROP, REFUSE, WARN
from recsys.features.interactions import Longs
from recsys.features.on_disk import filled

ITEMS, USERS = "items", "users"
TAIL = 200
"""Characters at the end of a text in which its last number is looked for."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class SuspectColumn:
    """One thing told of every item or of every user."""

    table: str
    """`items` or `users`."""
    name: str
    """As it is called in a finding."""
    values: Doubles
    """float64[n], NaN where nothing is told; codes of names where `named`."""
    named: bool = False
    source: str = ""
    """Column of the table that it is read off."""
    outcome: str = DROP
    """What follows when it knows the future: whether it can be left out."""

    def codes(self, most: int) -> Longs:
        """int64[n] from 0; at most `most` bands of a number."""
        if self.named:
            return np.where(np.isfinite(self.values), self.values + 1, 0).astype(np.int64)
        return codes_of(self.values, most)

    @property
    def tells(self) -> bool:
        """Whether two entities differ in it."""
        return _differ(self.values)

    @property
    def own(self) -> bool:
        """Whether it is an attribute, rather than read off ids, order or texts."""
        return self.name == self.source and self.outcome == DROP


def item_columns(log: LoggedData) -> list[SuspectColumn]:
    """Everything told of items, N long."""
    found = [*_attributes_of_items(log), *_orders_of_items(log), *_texts_of_items(log)]
    return [column for column in found if column.tells]


def user_columns(log: LoggedData) -> list[SuspectColumn]:
    """Everything told of users, U long."""
    events = log.events
    looked = log.users_looked_at
    ids = events.user_ids[looked].tolist()
    found = list(_read_off_ids(USERS, USER_ID, ids, looked, events.n_users))
    if log.users is not None:
        at = log.users.ids.indices_of(events.user_ids)
        for name, values in log.users.numeric.items():
            told = (
                np.where(at >= 0, values[at], np.nan) if len(values) else np.full(len(at), np.nan)
            )
            found.append(SuspectColumn(USERS, name, told.astype(np.float64), source=name))
        for name, codes in log.users.categorical.items():
            found.append(_named(USERS, name, np.where(at >= 0, codes.values[at], -1)))
    return [column for column in found if column.tells]


def _attributes_of_items(log: LoggedData) -> Iterator[SuspectColumn]:
    catalogue = log.catalogue
    for name in catalogue.numeric_names:
        yield SuspectColumn(ITEMS, name, catalogue.numeric(name).astype(np.float64), source=name)
    for name in catalogue.categorical_names:
        yield _named(ITEMS, name, catalogue.categorical(name))
    yield _named(ITEMS, CATEGORY, catalogue.category_codes)
    created = catalogue.created_at
    moments = np.where(created == NEVER, np.nan, created.astype(np.float64))
    yield SuspectColumn(ITEMS, CREATED_AT, moments, source=CREATED_AT)
    there = catalogue.available.astype(np.float64)
    yield SuspectColumn(ITEMS, AVAILABLE, there, source=AVAILABLE, outcome=WARN)


def _orders_of_items(log: LoggedData) -> Iterator[SuspectColumn]:
    catalogue = log.catalogue
    order = np.arange(catalogue.n_items, dtype=np.float64)
    yield SuspectColumn(ITEMS, "the order of the items", order, outcome=WARN)
    all_of_them = np.arange(catalogue.n_items)
    yield from _read_off_ids(
        ITEMS, ITEM_ID, catalogue.item_ids.to_pylist(), all_of_them, len(all_of_them)
    )


def _texts_of_items(log: LoggedData) -> Iterator[SuspectColumn]:
    catalogue, looked = log.catalogue, log.items_looked_at

    def tags(item: int) -> str:
        return " ".join(catalogue.tag_names[code] for code in catalogue.tags_of(item))

    for name, text, outcome in (
        (TITLE, catalogue.title, REFUSE),
        (DESCRIPTION, catalogue.description, DROP),
        (TAGS, tags, DROP),
    ):
        written = [text(item) for item in looked.tolist()]
        for what, told in (
            ("length of", np.array([len(words) for words in written], np.float64)),
            ("last number in", last_numbers(written)),
        ):
            values = _of_some(told, looked, catalogue.n_items)
            yield SuspectColumn(ITEMS, f"the {what} {name}", values, source=name, outcome=outcome)


def _read_off_ids(
    table: str, name: str, ids: Sequence[str], looked: Longs, size: int
) -> Iterator[SuspectColumn]:
    """The number in an id, its first letter, its length, of those looked at: no feature reads them, but an id
    that was given after the fact orders what has no other order."""
    letters = np.unique(np.array([word[:1] for word in ids]), return_inverse=True)[1]
    for what, told, named in (
        ("number in", last_numbers(ids), False),
        ("length of", np.array([len(word) for word in ids], np.float64), False),
        ("first letter of", letters.astype(np.float64), True),
    ):
        if _differ(told):
            values = _of_some(told, looked, size)
            name_of_it = f"the {what} {name}"
            yield SuspectColumn(table, name_of_it, values, named, source=name, outcome=WARN)


def _differ(values: Doubles) -> bool:
    """Whether something is told of one and not of another, or something else."""
    known = values[np.isfinite(values)]
    return bool(len(known) and (len(known) < len(values) or np.ptp(known) > 0))


def _of_some(told: Doubles, looked: Longs, size: int) -> Doubles:
    """float64[size]: what is told of those looked at, NaN of the others."""
    values = filled(size, np.float64, lambda _: np.nan)
    values[looked] = told
    return values


def _named(table: str, name: str, codes: npt.NDArray[np.integer]) -> SuspectColumn:
    values = np.where(codes >= 0, codes.astype(np.float64), np.nan)
    return SuspectColumn(table, name, values, named=True, source=name)


def last_numbers(texts: Iterable[str]) -> Doubles:
    """float64[n]: the last number in each text, NaN where it has none.

    >>> last_numbers(["sold 12 times", "none"])
    array([12., nan])
    """
    found = ([*_NUMBER.finditer(text[-TAIL:])] for text in texts)
    return np.array([float(hits[-1][0][:15]) if hits else np.nan for hits in found], np.float64)
