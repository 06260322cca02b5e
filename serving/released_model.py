"""What stands behind the API: one released model with its online state.

The service knows only these protocols. An engine is called on one thread (the worker's event
loop), except `prepare`, `encode_new` and `search`, which run beside it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from recsys.query import RankingQuery, RankingResult, SimilarQuery, SimilarResult
from recsys.storage.eventlog import LogRecord

__all__ = [
    "Encoding",
    "EngineProvider",
    "Overseeing",
    "Preparing",
    "RankingQuery",
    "RankingResult",
    "ReleasedModel",
    "Resolving",
    "Searchable",
    "SimilarQuery",
    "SimilarResult",
]


class ReleasedModel(Protocol):
    """One released model and its online state."""

    @property
    def version(self) -> str:
        """Version of the bundle; every answer carries it."""
        ...

    @property
    def log_position(self) -> int:
        """Position of the last record folded in; 0 for none."""
        ...

    @property
    def moment(self) -> int:
        """When a frozen clock asks, µs: all that the state knows is known and counted then."""
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

    def user(self, user_id: str) -> dict[str, Any] | None:
        """What is stored: {"events": [...], "attributes": {...}}; None when nothing is."""
        ...

    def item(self, item_id: str) -> dict[str, Any] | None:
        """Columns and attributes of an item; None for an unknown one."""
        ...


class Searchable(Protocol):
    """An engine that can look through its catalogue, on another thread."""

    def search(self, query: str, limit: int) -> list[str]:
        """Ids of items whose text matches, best first; an empty query gives some items."""
        ...


class Counting(Protocol):
    """An engine that can say what is popular."""

    def popular(
        self, k: int, now: int, window: str, filters: Mapping[str, object]
    ) -> list[tuple[str, float]]:
        """Items of the most weight of events in a window, best first.

        Raises:
            UsageError: no such window, or a filter is wrong.
        """
        ...


class Preparing(Protocol):
    """An engine that can encode texts ahead of `answer`, on another thread, many at once."""

    def prepare(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Encode the texts of new items into the engine's cache; thread-safe."""
        ...


class Encoding(Protocol):
    """An engine that encodes the texts of posted items beside `answer`, on another thread."""

    def unencoded(self, item_ids: Sequence[str]) -> list[Mapping[str, Any]]:
        """Those of some items whose text waits, as `prepare` takes them."""
        ...

    @property
    def waiting(self) -> int:
        """Items whose text was not encoded yet; costs nothing to ask."""
        ...

    def encode_new(self, limit: int = ...) -> int:
        """Encode up to `limit` of the items that wait; how many still wait."""
        ...


class Resolving(Protocol):
    """A provider whose versions have several names."""

    def resolve(self, name: str) -> str:
        """The version that a name leads to.

        Raises:
            RecsysError: there is none.
        """
        ...


class Overseeing(Protocol):
    """A provider that knows the workspace its models come from."""

    def operations(self) -> dict[str, Any]:
        """What an operator looks at, as plain values; may take some hundred milliseconds."""
        ...

    def live(self) -> dict[str, Any] | None:
        """What the last night found of the lists that were shown; None where there is nothing."""
        ...


class EngineProvider(Protocol):
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
