"""Attributes of users: the optional users table as numbers and codes.

Shapes: U users of the table.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from recsys.data_schemas.columns import USER_ID
from recsys.features.catalogue import Codes, as_attribute
from recsys.features.ids import IdIndex
from recsys.features.interactions import Floats
from recsys.features.store import (
    Array,
    open_arrays,
    read_json,
    write_arrays,
    write_json,
)

_META: Final = "users.json"


class UserTable:
    """Users and their attributes; a user absent from it has none."""

    def __init__(
        self, ids: IdIndex, numeric: Mapping[str, Floats], categorical: Mapping[str, Codes]
    ) -> None:
        self.ids = ids
        self.numeric = dict(numeric)
        """float32[U] by column; NaN where unknown."""
        self.categorical = dict(categorical)

    @classmethod
    def from_parquet(cls, path: Path | str) -> "UserTable":
        return cls.from_table(pq.read_table(path))

    @classmethod
    def from_table(cls, table: Any) -> "UserTable":
        """Read an Arrow table with `user_id`; its other columns become attributes."""
        numeric: dict[str, Floats] = {}
        categorical: dict[str, Codes] = {}
        for field in table.schema:
            values = None if field.name == USER_ID else as_attribute(table[field.name])
            if isinstance(values, Codes):
                categorical[field.name] = values
            elif values is not None:
                numeric[field.name] = values
        return cls(IdIndex.build(table[USER_ID]), numeric, categorical)

    def attributes(self, user_id: str) -> dict[str, Any]:
        """What is known of a user by column: a float or a string; empty for an unknown user."""
        index = self.ids.index_of(user_id)
        if index < 0:
            return {}
        known: dict[str, Any] = {}
        for name, numbers in self.numeric.items():
            if not np.isnan(numbers[index]):
                known[name] = float(numbers[index])
        for name, codes in self.categorical.items():
            if codes.values[index] >= 0:
                known[name] = codes.names[codes.values[index]]
        return known

    def save(self, folder: Path) -> None:
        """Write the table's files into an existing folder."""
        self.ids.save(folder, "attributed")
        arrays: dict[str, Array] = {
            f"user.numeric.{i}": v for i, v in enumerate(self.numeric.values())
        }
        arrays |= {
            f"user.categorical.{i}": c.values for i, c in enumerate(self.categorical.values())
        }
        write_arrays(folder, arrays)
        write_json(
            folder / _META,
            {
                "numeric": list(self.numeric),
                "categorical": [[n, c.names] for n, c in self.categorical.items()],
            },
        )

    @classmethod
    def open(cls, folder: Path) -> "UserTable | None":
        """Map what `save` wrote; none where nothing was."""
        if not (folder / _META).exists():
            return None
        meta = read_json(folder / _META)
        names = [f"user.numeric.{i}" for i in range(len(meta["numeric"]))]
        names += [f"user.categorical.{i}" for i in range(len(meta["categorical"]))]
        arrays = open_arrays(folder, names)
        return cls(
            IdIndex.open(folder, "attributed"),
            {n: arrays[f"user.numeric.{i}"] for i, n in enumerate(meta["numeric"])},
            {
                n: Codes(values, arrays[f"user.categorical.{i}"])
                for i, (n, values) in enumerate(meta["categorical"])
            },
        )


def with_told(users: UserTable | None, told: Mapping[str, Mapping[str, Any]]) -> UserTable:
    """The table with what was told of some persons, who may be new, in columns that may be new.

    A word where the column holds numbers, or the other way round, is left out.

    Args:
        users: the table so far; None without.
        told: user → column → float or string.
    """
    if users is None:
        users = UserTable(IdIndex.build([]), {}, {})
    known = len(users.ids)
    new = [user for user in told if users.ids.index_of(user) < 0]
    ids = IdIndex.build([*users.ids.all().to_pylist(), *new]) if new else users.ids
    size = known + len(new)
    numeric = {name: _longer(values, size, np.nan) for name, values in users.numeric.items()}
    codes = {n: _longer(column.values, size, -1) for n, column in users.categorical.items()}
    names = {n: list(column.names) for n, column in users.categorical.items()}
    for user, attributes in told.items():
        place = ids.index_of(user)
        for name, value in attributes.items():
            if isinstance(value, str) and name not in numeric:
                if name not in codes:
                    names[name], codes[name] = [], np.full(size, -1, np.int32)
                if value not in names[name]:
                    names[name].append(value)
                codes[name][place] = names[name].index(value)
            elif not isinstance(value, str) and name not in codes:
                column = numeric.setdefault(name, np.full(size, np.nan, np.float32))
                column[place] = value
    return UserTable(ids, numeric, {n: Codes(names[n], codes[n]) for n in codes})


def _longer(column: Array, size: int, fill: float) -> Array:
    """A copy of a column with `fill` behind it."""
    return np.concatenate([column, np.full(size - len(column), fill, column.dtype)])
