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
