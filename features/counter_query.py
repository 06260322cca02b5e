"""The batch reading of counters as one Ibis expression, the same on DuckDB and on Spark.

Events and the asked (entity, bucket) pairs are reduced to one row per pair, laid in one table, and
summed by window functions over the bucket number: a range of whole buckets that ends before the
row's own. As-of joins are avoided; window functions are portable.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import ibis

ENTITY: Final = "entity"
BUCKET: Final = "bucket"
KIND: Final = "kind"
ASKED: Final = "is_asked"
ROW: Final = "row_number"
POSITION_BOUND: Final = "position_bound"
KNOWN_AT: Final = "known_at"

EVENTS_SCHEMA: Final = {ENTITY: "int32", KIND: "int16", BUCKET: "int64", KNOWN_AT: "int64"}
ASKED_SCHEMA: Final = {ENTITY: "int32", BUCKET: "int64"}
BOUNDED_SCHEMA: Final = {
    ROW: "int64",
    ENTITY: "int32",
    BUCKET: "int64",
    POSITION_BOUND: "int64",
}
EVENTS: Final = "events"
PAIRS: Final = "asked"
BOUNDED: Final = "bounded"
_SCHEMAS: Final = {EVENTS: EVENTS_SCHEMA, PAIRS: ASKED_SCHEMA, BOUNDED: BOUNDED_SCHEMA}


def table(name: str) -> Any:
    """One of the tables that the expressions read: events, asked or bounded."""
    return ibis.table(_SCHEMAS[name], name=name)


class CountColumn(NamedTuple):
    """One count: event types (codes; empty for all) and width in buckets (0 for unbounded)."""

    kinds: tuple[int, ...]
    width: int

    @property
    def per_bucket(self) -> str:
        """Name of the column that counts these types in a bucket."""
        return "k_" + ("_".join(map(str, self.kinds)) if self.kinds else "any")

    @property
    def name(self) -> str:
        return f"{self.per_bucket}_w{self.width}"


def window_counts(columns: Sequence[CountColumn]) -> Any:
    """Counts for the asked pairs.

    Reads the tables `events` (one row per event) and `asked` (distinct pairs).

    Returns:
        entity, bucket and one int64 column per count: the events in the `width` buckets before
        the pair's bucket, the pair's own bucket left out.
    """
    events, asked = table(EVENTS), table(PAIRS)
    types = {column.per_bucket: column.kinds for column in columns}
    cells = events.group_by([ENTITY, BUCKET]).agg(
        **{name: _count(events, kinds) for name, kinds in types.items()}
    )
    cells = cells.mutate(**{ASKED: ibis.literal(0, "int64")})
    pairs = asked.mutate(
        **{name: ibis.literal(0, "int64") for name in types},
        **{ASKED: ibis.literal(1, "int64")},
    )
    names = [ENTITY, BUCKET, *types, ASKED]
    together = cells.select(names).union(pairs.select(names), distinct=False)
    summed = together.group_by([ENTITY, BUCKET]).agg(
        **{name: together[name].sum().cast("int64") for name in types},
        **{ASKED: together[ASKED].max()},
    )
    windowed = summed.select(
        ENTITY,
        BUCKET,
        ASKED,
        **{column.name: _over(summed, column) for column in columns},
    )
    return windowed.filter(windowed[ASKED] == 1).drop(ASKED)


def _count(events: Any, kinds: tuple[int, ...]) -> Any:
    """Events of the given types, of all types when none is given."""
    if not kinds:
        return events.count().cast("int64")
    return events[KIND].isin(kinds).ifelse(1, 0).sum().cast("int64")


def _over(table: Any, column: CountColumn) -> Any:
    """Sum of a per-bucket column over the column's window, which ends before the row's bucket."""
    # A pair occurs once, so everything before it is a frame of rows; engines run that as one pass.
    frame = {"range": (-column.width, -1)} if column.width else {"rows": (None, -1)}
    window = ibis.window(group_by=table[ENTITY], order_by=table[BUCKET], **frame)
    return table[column.per_bucket].sum().over(window).fill_null(0).cast("int64")


def unknown_yet(columns: Sequence[CountColumn]) -> Any:
    """What served rows must not count: events in their windows that became known later.

    Reads the tables `events` and `bounded` (the rows that carry a position).

    Returns:
        row_number and one int64 column per count, for the rows that have any such event.
    """
    events, bounded = table(EVENTS), table(BOUNDED)
    late = bounded.join(
        events,
        [
            bounded[ENTITY] == events[ENTITY],
            events[KNOWN_AT] >= bounded[POSITION_BOUND],
            events[BUCKET] < bounded[BUCKET],
        ],
        rname="event_{name}",
    )
    counts = {column.name: _inside(late, column) for column in columns}
    return late.group_by(ROW).agg(**counts)


def _inside(late: Any, column: CountColumn) -> Any:
    """Joined events that fall into a row's window and are of its types."""
    conditions = []
    if column.width:
        conditions.append(late[f"event_{BUCKET}"] >= late[BUCKET] - column.width)
    if column.kinds:
        conditions.append(late[KIND].isin(column.kinds))
    if not conditions:
        return late.count().cast("int64")
    return ibis.and_(*conditions).ifelse(1, 0).sum().cast("int64")
