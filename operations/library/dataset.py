"""`Dataset`: interactions, items and users as one thing that can be split, fitted on and asked about."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import RecsysConfig, parse_config
from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.data_schemas.tables import EVENTS
from recsys.features.ragged import offsets_of, places_of
from recsys.operations.library import frames

if TYPE_CHECKING:
    import pandas as pd

    from recsys.ingestion.tables.load import Tables

DAY: Final = 86_400_000_000
"""Microseconds."""
ITEMS_FILE, EVENTS_FILE, USERS_FILE = "items.parquet", "events.parquet", "users.parquet"


@dataclass(frozen=True)
class Ids:
    """Whether ids of users and items were whole numbers; they are given back as they came."""

    users: bool = False
    items: bool = False

    def of_users(self, ids: Any) -> Any:
        """Ids of users as the caller knows them."""
        return _as_given(ids, self.users)

    def of_items(self, ids: Any) -> Any:
        """Ids of items as the caller knows them."""
        return _as_given(ids, self.items)


def _as_given(ids: Any, whole: bool) -> Any:
    texts = np.asarray(ids, dtype=object)
    if whole:
        try:
            return texts.astype(np.int64)
        except (ValueError, OverflowError):  # an id that came later and is no number
            return texts
    return texts


class Dataset:
    """Interactions with the items and users they are about.

    Tables may be pandas or polars frames, Arrow tables, or paths of Parquet or CSV. They are copied
    and never changed. What a table does not say (the zone of its times, what an event was) is asked
    for by an error that holds the argument to add.

    Parameters
    ----------
    interactions
        Who did what when: `user_id`, `item_id`, `timestamp`, `event_type`, and `value` for ratings.
    items
        `item_id` and `title`; `description`, `tags`, `category`, `created_at`, `available`, and any
        further columns as attributes. Without it items have ids and no text.
    users
        `user_id` and attributes.
    columns
        Their names → ours, as in `{"movieId": "item_id", "rating": "value"}`; applied to every table
        that has such a column.
    tz
        Zone of times that have none, as in `"UTC"` or `"Europe/Lisbon"`.
    unit
        Unit of times that are numbers since 1970: `"s"`, `"ms"`, `"us"` or `"ns"`.
    event_type
        What every row was, where no column says it: `"purchase"`, `"rating"`.
    event_types
        What events of a type mean, as in `{"like": {"weight": 2, "grade": 1}}`: the `events.types` of
        a night's config.

    Raises
    ------
    UsageError
        A column is missing, or something has to be said; the message holds the argument.
    DataRefused
        A file cannot be read, or a column holds what it must not.

    Examples
    --------
    >>> import pandas as pd, recsys
    >>> frame = pd.DataFrame({"userId": [1, 1, 2], "movieId": [10, 20, 10],
    ...                       "rating": [5.0, 3.0, 4.0], "timestamp": [978300760, 978302109, 978301968]})
    >>> names = {"userId": "user_id", "movieId": "item_id", "rating": "value"}
    >>> recsys.Dataset(frame, columns=names, event_type="rating", unit="s")
    Dataset: 3 interactions of 2 users on 2 items, 2000-12-31 to 2000-12-31
    """

    def __init__(
        self,
        interactions: Any,
        items: Any = None,
        users: Any = None,
        *,
        columns: Mapping[str, str] | None = None,
        tz: str | None = None,
        unit: str | None = None,
        event_type: str | None = None,
        event_types: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        names = dict(columns or {})
        given = {"interactions": interactions, "items": items, "users": users}
        read = {
            argument: frames.read_table(source, argument, names)
            for argument, source in given.items()
            if source is not None
        }
        frames.require_used(names, {argument: table.names for argument, table in read.items()})
        events = read["interactions"]
        table = frames.with_event_type(events.table, event_type)
        for name in (c.TIMESTAMP, c.RECEIVED_AT):
            table = frames.with_time(table, name, "interactions", tz, unit)
        self._events = table.select([n for n in EVENTS.names if n in table.column_names])
        whole = set(events.whole_numbers)
        if items is None:
            self._items = _bare_items(self._events)
        else:
            self._items = frames.with_time(read["items"].table, c.CREATED_AT, "items", tz, unit)
            if c.ITEM_ID not in read["items"].whole_numbers:
                whole.discard(c.ITEM_ID)
        self._users = None if users is None else read["users"].table
        self.ids = Ids(c.USER_ID in whole, c.ITEM_ID in whole)
        self.event_types = {name: dict(meaning) for name, meaning in (event_types or {}).items()}
        self.history: Dataset | None = None
        """Of a test part: what was known before it, the other part of the split."""

    def __len__(self) -> int:
        return int(self._events.num_rows)

    def __repr__(self) -> str:
        first, last = self._span
        days = f"{_day(first)} to {_day(last)}" if first is not None else "no time"
        return (
            f"Dataset: {len(self):,} interactions of {pc.count_distinct(self._events[c.USER_ID])} users"
            f" on {self._items.num_rows:,} items, {days}"
        )

    @property
    def _span(self) -> tuple[Any, Any]:
        span = pc.min_max(self._events[c.TIMESTAMP]).as_py()
        return span["min"], span["max"]

    @property
    def interactions(self) -> "pd.DataFrame":
        """A copy of the interactions under this package's names, ids as they were given."""
        return self._frame(self._events)

    @property
    def items(self) -> "pd.DataFrame":
        """A copy of the items."""
        return self._frame(self._items)

    @property
    def users(self) -> "pd.DataFrame | None":
        """A copy of the users' attributes; None where none were given."""
        return None if self._users is None else self._frame(self._users)

    def _frame(self, table: pa.Table) -> "pd.DataFrame":
        frame: pd.DataFrame = table.to_pandas()
        for name, restore in ((c.USER_ID, self.ids.of_users), (c.ITEM_ID, self.ids.of_items)):
            if name in frame.columns:
                frame[name] = restore(frame[name])
        return frame

    @property
    def user_ids(self) -> Any:
        """Everybody with an interaction, each once, sorted; ids as they were given."""
        found = pc.unique(self._events[c.USER_ID]).drop_null().to_pylist()
        return np.sort(self.ids.of_users(found))

    # -- splitting --------------------------------------------------------------------------------

    def split(self, *, days: float | None = None, last: int | None = None) -> tuple[Self, Self]:
        """Train and test, with the same items and users.

        Parameters
        ----------
        days
            The test part is everything in the last so many days: nothing that is trained on came
            after anything that is tested. The cut is the same moment for everybody.
        last
            The test part is the last so many interactions of each user who has more. Other people's
            later interactions are trained on, so figures come out higher than they would in use.

        Returns
        -------
        (Dataset, Dataset)
            Train and test; the test part knows its train part.

        Raises
        ------
        UsageError
            Both or neither is given, or one part would be empty.

        Examples
        --------
        >>> import pandas as pd, recsys
        >>> frame = pd.DataFrame({"user_id": ["a", "a", "b"], "item_id": ["x", "y", "x"],
        ...     "timestamp": pd.to_datetime(["2026-01-01", "2026-01-09", "2026-01-02"], utc=True)})
        >>> train, test = recsys.Dataset(frame, event_type="click").split(days=2)
        >>> len(train), len(test)
        (2, 1)
        """
        if (days is None) == (last is None):
            raise UsageError(
                "a split is by time or by each user's last interactions",
                where="Dataset.split",
                found=f"days={days}, last={last}",
                expected="one of them",
                fix="data.split(days=14)",
            )
        said = f"Dataset.split({f'days={days}' if days is not None else f'last={last}'})"
        if (days if days is not None else last or 0) <= 0:
            raise UsageError("nothing would be tested on", where=said, expected="more than 0")
        tested = self._late(days) if days is not None else self._last(int(last or 0))
        if not tested.any() or tested.all():
            first, latest = self._span
            raise UsageError(
                "one part of the split would be empty",
                where=said,
                found=f"{int(tested.sum()):,} of {len(self):,} interactions would be tested on",
                expected=f"fewer days than lie between {first:%Y-%m-%d} and {latest:%Y-%m-%d}"
                if days is not None
                else "fewer than the longest history has: the earlier ones are learned from",
                fix="take fewer",
            )
        train, test = self._part(~tested), self._part(tested)
        test.history = train
        return train, test

    def _late(self, days: float) -> Any:
        time = self._times
        return time >= time.max(initial=0) - int(days * DAY)

    def _last(self, count: int) -> Any:
        _, user = np.unique(np.array(self._events[c.USER_ID].to_pylist(), str), return_inverse=True)
        order = np.lexsort((self._times, user))
        size = np.bincount(user)
        place = places_of(offsets_of(size))
        tested = np.zeros(len(user), bool)
        sizes = size[user[order]]
        tested[order] = (place >= sizes - count) & (sizes > count)
        return tested

    @property
    def _times(self) -> Any:
        return self._events[c.TIMESTAMP].cast(pa.int64()).fill_null(0).to_numpy()

    def _part(self, rows: Any) -> Self:
        part = object.__new__(type(self))
        part._events = self._events.filter(pa.array(rows))
        part._items, part._users = self._items, self._users
        part.ids, part.event_types, part.history = self.ids, self.event_types, None
        return part

    # -- what the stages read ---------------------------------------------------------------------

    def write(self, folder: Path) -> dict[str, str]:
        """Write the tables as Parquet; the `data:` section of a config beside that folder's parent.

        The same tables give the same bytes, so that a night over them finds what it did before.
        """
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(self._events, folder / EVENTS_FILE)
        pq.write_table(self._items, folder / ITEMS_FILE)
        section = {
            "items": str((folder / ITEMS_FILE).resolve()),
            "events": str((folder / EVENTS_FILE).resolve()),
        }
        if self._users is not None:
            pq.write_table(self._users, folder / USERS_FILE)
            section["users"] = str((folder / USERS_FILE).resolve())
        return section

    def config(self, folder: Path, settings: Mapping[str, Any] | None = None) -> RecsysConfig:
        """A night's config over these tables, which are written below `folder`.

        Args:
            folder: of the workspace and, in `data/`, of the tables.
            settings: sections of the config, as YAML would give them.
        """
        given = {
            key: dict(v) if isinstance(v, Mapping) else v for key, v in (settings or {}).items()
        }
        if self.event_types:
            events = dict(given.get("events", {}))
            given["events"] = events | {"types": {**self.event_types, **events.get("types", {})}}
        return parse_config(
            given | {"data": self.write(folder / "data")}, folder.resolve(), "settings"
        )

    @cached_property
    def tables(self) -> "Tables":
        """The tables as a night would check and number them.

        Raises:
            DataRefused: too many rows break a rule; the message names it.
        """
        from recsys.ingestion.tables.ingest import ingest
        from recsys.ingestion.tables.load import load_tables

        with tempfile.TemporaryDirectory(prefix="recsys-data-") as place:
            config = self.config(Path(place))
            ingest(config, Path(place) / "tables")
            return load_tables(Path(place) / "tables", config)


def _bare_items(events: pa.Table) -> pa.Table:
    """Items of which nothing is known but that people acted on them."""
    ids = pc.unique(events[c.ITEM_ID]).drop_null()
    if not len(ids):
        raise DataRefused(
            "there is no interaction", where="Dataset(interactions=…)", found="0 rows"
        )
    return pa.table({c.ITEM_ID: ids, c.TITLE: pa.array([""] * len(ids), pa.string())})


def _day(moment: Any) -> str:
    return f"{moment:%Y-%m-%d}"
