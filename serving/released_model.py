"""What stands behind the API: one released model with its online state, and where it comes from.

The service knows only these protocols. A model is called on one thread (the worker's event loop),
except `prepare`, `unencoded`, `encode_new` and `search`, which run beside it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from recsys.data_schemas.log_record import LogMark, LogRecord
from recsys.query import RankingQuery, RankingResult, SimilarQuery, SimilarResult


class ReleasedModel(Protocol):
    """One released model and its online state."""

    @property
    def version(self) -> str:
        """Version of the bundle; every answer carries it."""
        ...

    @property
    def snapshot(self) -> str:
        """Name of the state snapshot that it was opened over."""
        ...

    @property
    def log_position(self) -> int:
        """Position of the last record folded in; 0 for none."""
        ...

    @property
    def log_mark(self) -> LogMark:
        """Of which log the snapshot that was opened holds how much."""
        ...

    @property
    def moment(self) -> int:
        """When a frozen clock asks, µs: all that the state knows is known and counted then."""
        ...

    @property
    def event_types(self) -> Sequence[str]:
        """Event types met so far."""
        ...

    @property
    def attribute_kinds(self) -> Mapping[str, str]:
        """Kind of each attribute of items by name; see `limits.attribute_value`."""
        ...

    @property
    def taken_kinds(self) -> Mapping[str, str]:
        """Kind that an attribute of an item must have, by name: those, and of what only the log has told
        of."""
        ...

    @property
    def vector_length(self) -> int:
        """Numbers of an item's own vector; 0 where items bring none."""
        ...

    @property
    def user_attribute_kinds(self) -> Mapping[str, str]:
        """Kind of each attribute of users by name, also of those that only the log has told of."""
        ...

    @property
    def waiting(self) -> int:
        """Items whose text was not encoded yet; costs nothing to ask."""
        ...

    def answer(self, ask: RankingQuery) -> RankingResult:
        """Rank. Reads the state, never changes it."""
        ...

    def apply(self, records: Sequence[LogRecord]) -> None:
        """Fold records into the state, in position order; those already folded are skipped."""
        ...

    def similar_to(self, ask: SimilarQuery) -> SimilarResult:
        """Items like some, best first."""
        ...

    def popular(
        self, k: int, now: int, window: str, filters: Mapping[str, object]
    ) -> list[tuple[str, float]]:
        """Items of the most weight of events in a window, best first.

        Raises:
            UsageError: no such window, or a filter is wrong.
        """
        ...

    def search(self, query: str, limit: int) -> list[str]:
        """Ids of items whose text matches, best first; an empty query gives some items."""
        ...

    def prepare(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Encode the texts of new items, ahead of `answer` and many at once; thread-safe."""
        ...

    def unencoded(self, item_ids: Sequence[str]) -> list[Mapping[str, Any]]:
        """Those of some items whose text waits, as `prepare` takes them."""
        ...

    def encode_new(self, limit: int = ...) -> int:
        """Encode up to `limit` of the items that wait; how many still wait."""
        ...

    def user(self, user_id: str) -> dict[str, Any] | None:
        """What is stored: {"events": [...], "attributes": {...}}; None when nothing is."""
        ...

    def item(self, item_id: str) -> dict[str, Any] | None:
        """Columns and attributes of an item; None for an unknown one."""
        ...


class ModelProvider(Protocol):
    """Where released models come from."""

    def load(self, version: str | None) -> ReleasedModel:
        """Open a version (the champion for None), warmed and with its state; may take seconds.

        Raises:
            RecsysError: there is no such version.
        """
        ...

    def poll(self) -> str | None:
        """The champion's version now; None when there is none or the registry does not answer."""
        ...

    def snapshot(self) -> str | None:
        """Name of the newest state snapshot; None where it cannot be told."""
        ...

    def resolve(self, name: str) -> str:
        """The version that a name leads to.

        Raises:
            RecsysError: there is none.
        """
        ...

    def versions(self) -> Sequence[str]:
        """Versions that can be asked for, newest first.

        Raises:
            RecsysError: the registry does not answer.
        """
        ...

    def operations(self) -> dict[str, Any]:
        """What an operator looks at, as plain values; may take some hundred milliseconds."""
        ...

    def live(self) -> dict[str, Any] | None:
        """What the last night found of the lists that were shown; None where there is nothing."""
        ...
