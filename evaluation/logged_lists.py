"""Lists as the service logged them, and what their people did with them afterwards.

An event belongs to the latest list in which its person had seen the item before, within the window of
attribution; one that names a list (`impression_id`) belongs to that one if the item was in it. So no
event counts twice.

Shapes: L lists, n shown items of all lists, E events.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.features.impressions import Texts
from recsys.features.interactions import Longs
from recsys.features.ragged import Ragged, list_column

Flags = npt.NDArray[np.bool_]
MOMENT: Final = pa.timestamp("us", tz="UTC")
NOBODY: Final = -1
"""No list: nobody showed the item."""
LIST_COLUMNS: Final = (
    c.IMPRESSION_ID, c.USER_ID, c.TIMESTAMP, c.ITEM_IDS, c.MODEL_VERSION, c.SURFACE, c.RULES, c.TEAMS,
    c.DEGRADED, c.EXPERIMENT, c.ARM, c.UNIT, c.SCORES,
)  # fmt: skip
EVENT_COLUMNS: Final = (
    c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.TIMESTAMP, c.IMPRESSION_ID, c.EVENT_ID, c.VALUE,
)  # fmt: skip


@dataclass(frozen=True)
class LoggedLists(Ragged):
    """L lists in the order of their times; texts are None where nothing was logged."""

    offsets: Longs
    items: Longs
    """int64[n] codes in shown order."""
    users: Longs
    time: Longs
    """int64[L] µs."""
    ids: Texts
    version: Texts
    surface: Texts
    experiment: Texts
    arm: Texts
    unit: Texts
    degraded: Flags
    team: Texts
    """object[n]: version that contributed an item of an interleaved list."""
    ruled: Flags
    """bool[n]: a rule of the shop moved the item, so that its place says nothing of the model."""
    first_score: npt.NDArray[np.float64]
    """float64[L]: score at place 1; NaN without one."""
    user_ids: Texts
    item_ids: Texts

    group_columns: ClassVar = (
        "users", "time", "ids", "version", "surface", "experiment", "arm", "unit", "degraded",
        "first_score",
    )  # fmt: skip
    row_columns: ClassVar = ("items", "team", "ruled")


@dataclass(frozen=True)
class LaterEvents:
    """E events in codes of the lists they are read with; -1 for who or what was in no list."""

    users: Longs
    items: Longs
    kind: Longs
    time: Longs
    named: Longs
    """int64[E]: place of the list that the event names; -1 for none."""
    value: npt.NDArray[np.float64]
    """float64[E], NaN where there is none."""
    kinds: tuple[str, ...]


def read_lists(files: Sequence[Path], since: int, until: int) -> LoggedLists:
    """Lists with since ≤ time < until (µs) out of drained tables, in the order of their times."""
    table = _read(files, LIST_COLUMNS, since, until)
    table = table.sort_by([(c.TIMESTAMP, "ascending"), (c.IMPRESSION_ID, "ascending")])
    return lists_of(table)


def lists_of(table: pa.Table) -> LoggedLists:
    """The rows of a table of impressions, in its order."""
    offsets, shown = list_column(table[c.ITEM_IDS])
    items = _coded(shown)
    users = _coded(table[c.USER_ID])
    ids = items[1][items[0]] if len(items[0]) else np.empty(0, object)
    team, ruled = _teams(table, offsets), _ruled(table, offsets, ids)
    return LoggedLists(
        offsets,
        items[0],
        users[0],
        table[c.TIMESTAMP].cast(pa.int64()).to_numpy(),
        _texts(table[c.IMPRESSION_ID]),
        _texts(table[c.MODEL_VERSION]),
        _texts(table[c.SURFACE]),
        _texts(table[c.EXPERIMENT]),
        _texts(table[c.ARM]),
        _texts(table[c.UNIT]),
        degraded=pc.fill_null(pc.greater(pc.list_value_length(table[c.DEGRADED]), 0), False)
        .to_numpy(),
        team=team,
        ruled=ruled,
        first_score=_first_scores(table),
        user_ids=users[1],
        item_ids=items[1],
    )  # fmt: skip


def read_events(files: Sequence[Path], lists: LoggedLists, until: int) -> LaterEvents:
    """Events from the first list on, before `until` (µs); of the same event_id in several tables the
    first counts."""
    since = int(lists.time.min()) if len(lists) else 0
    table = _read(files, EVENT_COLUMNS, since, until)
    event_ids = _texts(table[c.EVENT_ID])
    if len(event_ids):
        known = np.array([x is not None for x in event_ids])
        first = np.zeros(len(event_ids), bool)
        first[np.unique(np.where(known, event_ids, "").astype(str), return_index=True)[1]] = True
        table = table.filter(pa.array(first | ~known))
    kind, kinds = _coded(table[c.EVENT_TYPE])
    return LaterEvents(
        _places(table[c.USER_ID], lists.user_ids),
        _places(table[c.ITEM_ID], lists.item_ids),
        kind,
        table[c.TIMESTAMP].cast(pa.int64()).to_numpy(),
        _places(table[c.IMPRESSION_ID], lists.ids),
        table[c.VALUE].to_numpy(),
        tuple(map(str, kinds)),
    )


def before_lists(events: Sequence[Path], column: str, lists: LoggedLists) -> pa.ChunkedArray:
    """The values of a column of events, in one file or several, before the first of some lists."""
    before = pc.field(c.TIMESTAMP) < _moment(int(lists.time.min()))
    parts = [pq.read_table(file, columns=[column], filters=before) for file in events]
    return pa.concat_tables(parts)[column]


def credited_lists(lists: LoggedLists, events: LaterEvents, within: int, shown: bool) -> Longs:
    """int64[E]: which list each event followed; -1 where none.

    Args:
        lists: in the order of their times.
        events: of the same codes.
        within: µs after a list for which an event counts as its consequence.
        shown: whether the list must have shown the item; else it is the person's latest list.
    """
    if shown:
        row = credited(lists, events, within)
        return np.where(row >= 0, lists.owner[np.maximum(row, 0)], NOBODY) if len(lists) else row
    found = _latest(lists.users, lists.time, events.users, events.time)
    late = events.time - lists.time[np.maximum(found, 0)] if len(lists) else events.time
    return np.where((found >= 0) & (events.users >= 0) & (late < within), found, NOBODY)


def credited(lists: LoggedLists, events: LaterEvents, within: int) -> Longs:
    """int64[E]: which shown item (place in `lists.items`) each event followed; -1 where none.

    Args:
        lists: in the order of their times.
        events: of the same codes.
        within: µs after a list for which an event counts as its consequence.
    """
    width = len(lists.item_ids) + 1
    shown = lists.per_row(lists.users) * width + lists.items
    shown_at = lists.per_row(lists.time)
    asked = np.where(events.items >= 0, events.users * width + events.items, NOBODY)
    found = _latest(shown, shown_at, asked, events.time)
    named = np.where(events.named >= 0, _in_named(lists, events, shown, asked), NOBODY)
    found = np.where(named >= 0, named, found)
    if not len(shown_at):
        return np.full(len(events.time), NOBODY)
    late = events.time - shown_at[np.maximum(found, 0)]
    return np.where(
        (found >= 0) & (events.users >= 0) & (late >= 0) & (late < within), found, NOBODY
    )


def _latest(shown: Longs, shown_at: Longs, asked: Longs, moment: Longs) -> Longs:
    """The latest shown row of the same key at or before each moment; -1 where there is none."""
    n = len(shown)
    key, time = np.r_[shown, asked], np.r_[shown_at, moment]
    merged = np.lexsort((np.r_[np.zeros(n), np.ones(len(asked))], time, key))
    is_shown = merged < n
    last = np.maximum.accumulate(np.where(is_shown, np.arange(len(merged)), -1))
    row = np.where(last >= 0, merged[np.maximum(last, 0)], NOBODY)
    same = (row >= 0) & (key[np.maximum(row, 0)] == key[merged])
    found = np.full(len(asked), NOBODY, np.int64)
    found[merged[~is_shown] - n] = np.where(same, row, NOBODY)[~is_shown]
    return found


def _in_named(lists: LoggedLists, events: LaterEvents, shown: Longs, asked: Longs) -> Longs:
    """The row of each event's item in the list that it names, by the list's own person; else -1."""
    width = len(shown) + 1
    keys = np.unique(shown, return_inverse=True)
    code = np.searchsorted(keys[0], asked)
    known = (code < len(keys[0])) & (asked >= 0)
    known[known] = keys[0][code[known]] == asked[known]
    rows = lists.owner * width + keys[1]
    order = np.argsort(rows, kind="stable")
    wanted = events.named * width + code
    at = np.searchsorted(rows[order], wanted)
    ok = known & (events.named >= 0) & (at < len(rows))
    ok[ok] = rows[order][at[ok]] == wanted[ok]
    return np.where(
        ok, order[np.minimum(at, max(len(rows) - 1, 0))] if len(rows) else NOBODY, NOBODY
    )


def _read(files: Sequence[Path], names: Sequence[str], since: int, until: int) -> pa.Table:
    """The named columns of several tables with since ≤ time < until; absent ones are null."""
    kinds = {c.ITEM_IDS: pa.list_(pa.string()), c.TEAMS: pa.list_(pa.string()),
             c.DEGRADED: pa.list_(pa.string()), c.SCORES: pa.list_(pa.float64()), c.VALUE: pa.float64(),
             c.TIMESTAMP: MOMENT}  # fmt: skip
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    parts = [schema.empty_table()]
    for file in files:
        if not file.is_file():
            continue
        there = [name for name in names if name in pq.read_schema(file).names]
        at = pc.field(c.TIMESTAMP)
        chosen = (at >= _moment(since)) & (at < _moment(until))
        table = pq.read_table(file, columns=there, filters=chosen)
        absent = {name: pa.nulls(len(table), schema.field(name).type) for name in names}
        parts.append(
            pa.table({n: table[n] if n in there else absent[n] for n in names}).cast(schema)
        )
    return pa.concat_tables(parts).combine_chunks()


def _moment(at: int) -> pa.Scalar:
    return pa.scalar(at, pa.int64()).cast(MOMENT)


def _coded(values: Any) -> tuple[Longs, Texts]:
    """Codes of texts and the texts of the codes."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    coded = pc.dictionary_encode(values)
    coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), _texts(coded.dictionary)


def _texts(values: Any) -> Texts:
    return np.array(values.to_pylist(), dtype=object)


def _places(values: Any, known: Texts) -> Longs:
    found = pc.fill_null(pc.index_in(values, value_set=pa.array(known, pa.string())), NOBODY)
    return np.where(
        pc.is_null(values).to_numpy(zero_copy_only=False), NOBODY,
        found.to_numpy().astype(np.int64),
    )  # fmt: skip


def _teams(table: pa.Table, offsets: Longs) -> Texts:
    team = np.full(int(offsets[-1]) if len(offsets) else 0, None, object)
    for row in np.flatnonzero(pc.is_valid(table[c.TEAMS]).to_numpy()):
        names = table[c.TEAMS][int(row)].as_py()
        team[offsets[row] : offsets[row] + len(names)] = names
    return team


def _ruled(table: pa.Table, offsets: Longs, ids: Texts) -> Flags:
    """Which shown items a rule moved."""
    ruled = np.zeros(len(ids), bool)
    for row in np.flatnonzero(pc.is_valid(table[c.RULES]).to_numpy()):
        moved = json.loads(table[c.RULES][int(row)].as_py())
        span = slice(int(offsets[row]), int(offsets[row + 1]))
        ruled[span] = [item in moved for item in ids[span]]
    return ruled


def _first_scores(table: pa.Table) -> npt.NDArray[np.float64]:
    first = [scores[0] if scores else None for scores in table[c.SCORES].to_pylist()]
    return np.array([np.nan if score is None else score for score in first], np.float64)
