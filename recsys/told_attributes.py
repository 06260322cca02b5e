"""What the log has told since the state's snapshot of attributes: of persons, and of which kind new ones are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from recsys.data_schemas import columns as c
from recsys.data_schemas.limits import COLUMNS, RESERVED, kind_of
from recsys.data_schemas.log_record import FORGET, ITEM, USER, LogRecord


class _LogFold:
    """What takes the log's records in their order, each once."""

    def __init__(self, position: int) -> None:
        """Begin behind a position."""
        self._position = position

    def _further(self, records: Sequence[LogRecord]) -> Iterator[LogRecord]:
        """Those behind the last one that was taken."""
        for record in records:
            if record.position > self._position:
                self._position = record.position
                yield record


class ToldAttributes(_LogFold):
    """A fold over the log: the latest word on each person, attribute by attribute.

    A number is a float and a flag 1 or 0, as the tables of a night will have them.
    """

    def __init__(self, position: int, keeps: Callable[[str], bool] = lambda user_id: True) -> None:
        """Begin behind a position; `keeps` says whose attributes are kept."""
        super().__init__(position)
        self._keeps = keeps
        self._users: dict[str, dict[str, Any]] = {}

    def take(self, records: Sequence[LogRecord]) -> None:
        """Fold records in the order of the log; those at or before the last one are skipped."""
        for record in self._further(records):
            if record.kind == FORGET:
                self._users.pop(record.payload.get(c.USER_ID, ""), None)
            elif record.kind == USER and self._keeps(record.payload[c.USER_ID]):
                known = self._users.setdefault(record.payload[c.USER_ID], {})
                for name, value in record.payload[c.ATTRIBUTES].items():
                    known[name] = value if isinstance(value, str) else float(value)

    def all(self) -> Mapping[str, Mapping[str, Any]]:
        """What was told, person by person."""
        return self._users

    def of(self, user_id: str) -> dict[str, Any]:
        """What was told of a person; empty where nothing was."""
        return self._users.get(user_id, {})


class ToldKinds(_LogFold):
    """A fold over the log: the kind of each attribute by its first value, of items and of users.

    The tables of a night hold a column in one type, so that what comes later in another is refused at
    the door. Kept of as many names as a table has columns at most.
    """

    def __init__(self, position: int) -> None:
        """Begin behind a position."""
        super().__init__(position)
        self.of_items: dict[str, str] = {}
        """Name → kind as `limits.kind_of` says it."""
        self.of_users: dict[str, str] = {}
        """The same of users."""

    def take(self, records: Sequence[LogRecord]) -> None:
        """Fold records in the order of the log; those at or before the last one are skipped."""
        for record in self._further(records):
            if record.kind == ITEM:
                _take(self.of_items, record.payload, RESERVED)
            elif record.kind == USER:
                _take(self.of_users, record.payload[c.ATTRIBUTES], frozenset())


def _take(kinds: dict[str, str], told: Mapping[str, Any], reserved: frozenset[str]) -> None:
    for name, value in told.items():
        if (
            name not in kinds
            and name not in reserved
            and isinstance(value, bool | int | float | str)
        ):
            if len(kinds) >= COLUMNS:
                return
            kinds[name] = kind_of(value)
