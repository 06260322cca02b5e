"""The online state: a fold over the log, from a snapshot.

One state serves nightly, evaluation, replay and serving. It is a function of the log alone:
snapshot plus the log after it gives the same bytes whatever the sizes of the batches folded.

- Histories are exact to the last event strictly before the moment asked for.
- Counters see whole buckets before the moment's own (see `counters`).
- An event may come arbitrarily late or out of order: it takes its place by its own time (ties by
  log position). One with a time ahead of the clock is kept and is seen once the clock passes it.
- An event that names an item unknown at its position is ignored and counted.
- Forgetting a user removes their history and their share of the event counters; lists shown to
  them were counted without their name and stay until the next snapshot is built from the tables.

Memory: the snapshot is mapped and shared by workers; a process keeps only what came after it.
Shapes: U users, E events of the snapshot, N items, K event types, W windows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import compress, count
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data_schemas.columns import (
    EVENT_TYPE,
    ITEM_ID,
    ITEM_IDS,
    TIMESTAMP,
    USER_ID,
    VALUE,
)
from recsys.data_schemas.errors import RecsysError
from recsys.data_schemas.limits import EVENT_TYPES
from recsys.data_schemas.log_record import LogMark, LogRecord
from recsys.data_schemas.meaning import DEFAULT_RATINGS, DEFAULT_TYPES, EventMeaning
from recsys.data_schemas.shards import Shards
from recsys.features.catalogue import Catalogue
from recsys.features.counted_events import (
    ENTITY_CATEGORY,
    ENTITY_ITEM,
    ENTITY_SHOWN,
    ENTITY_TAG,
    counted,
    tag_rows,
)
from recsys.features.counters import CounterTable, Kinds
from recsys.features.ids import IdIndex
from recsys.features.impressions import Impressions
from recsys.features.interactions import (
    EMPTY_HISTORY,
    Histories,
    History,
    Interactions,
    Ints,
    Longs,
)
from recsys.features.on_disk import empty, taken
from recsys.features.packed_strings import PackedStrings
from recsys.features.ragged import chosen_groups, offsets_of, offsets_of_owners, owners_of
from recsys.features.store import (
    grown,
    open_arrays,
    read_json,
    write_arrays,
    write_json,
)
from recsys.features.time_buckets import MISSING_TIME, microseconds, window_buckets
from recsys.features.user_table import UserTable, with_told
from recsys.storage.files import atomic_folder

FORMAT: Final = 1
_SERIALS = count()
NAN: Final = float("nan")
ENTITIES: Final = ("item", "category", "tag", "shown")
"""Sorts of counters; `shown` counts an item's appearances in lists."""
_META: Final = "state.json"
_HISTORY: Final = ("item", "kind", "time", "weight", "grade")
_TYPES: Final = (np.int32, np.int16, np.int64, np.float32, np.int8)


class CounterView:
    """The counters as of one moment."""

    def __init__(self, tables: Mapping[str, CounterTable], bucket_us: int, now: int) -> None:
        self._tables = tables
        self._bucket_us = bucket_us
        self._bucket = now // bucket_us

    def read(self, entity: str, codes: Ints, kinds: Kinds, widths_us: Longs) -> Longs:
        """int64[n, K+1, W] counts of n entities; see `CounterTable.read`. Widths are in µs."""
        widths = widths_us // self._bucket_us
        return self._tables[entity].read(codes, kinds, widths, self._bucket)


class OnlineState:
    """Histories, counters, items and user attributes as of a log position."""

    def __init__(
        self,
        catalogue: Catalogue,
        kinds: Sequence[str],
        meaning: EventMeaning,
        bucket_us: int,
        windows_us: Sequence[int],
        log_position: int,
        user_index: IdIndex,
        offsets: Longs,
        events: History,
        tables: Mapping[str, CounterTable],
        users: UserTable | None,
        log_mark: LogMark | None = None,
    ) -> None:
        """Use `build` or `open`.

        Args:
            catalogue: items and their attributes.
            kinds: event types, by code.
            meaning: weight and grade of event types that come later.
            bucket_us: width of the counters' buckets, µs.
            windows_us: windows of the counters, µs, whole buckets.
            log_position: position of the last record that is in it.
            user_index: user id → place of the history.
            offsets: int64[U+1], bounds of the histories in `events`.
            events: histories of all users, one after the other, oldest first.
            tables: entity → its counters.
            users: attributes of users; None without.
            log_mark: by what the log of that position is known again.
        """
        self.catalogue = catalogue
        self.kinds = list(kinds)
        self.meaning = meaning
        self.bucket_us = bucket_us
        self.windows_us = tuple(windows_us)
        self.log_position = log_position
        """Position of the last record folded; records at or before it are skipped."""
        self.log_mark = log_mark or LogMark("", log_position)
        """Of which log the snapshot holds how much; stays as it is while records are folded."""
        self.users = users
        self.shards: Shards | None = None
        """Whose histories are kept of what is folded; everybody's when None. All events count in the
        counters."""
        self.skipped = {"unknown_item": 0, "malformed": 0, "too_many_types": 0}
        """Records that could not be used, by reason."""
        self._kind_code = {name: code for code, name in enumerate(self.kinds)}
        self._user_index, self._offsets, self._events = user_index, offsets, events
        self._tables = dict(tables)
        self.serial = next(_SERIALS)
        """Tells this state from every other of the process."""
        self.revision = 0
        """Grows when a count changes that an earlier reading has seen, so that readers can keep
        what they read: late events and forgetting do that, events of the current bucket do not."""
        self._frontier = int(np.iinfo(np.int64).min)
        self._forgotten: set[int] = set()
        self._overlay = _Overlay()

    # -- reading ------------------------------------------------------------------------------

    def history(self, user_id: str, now: int) -> History:
        """A user's events strictly before `now`, oldest first; empty for an unknown user."""
        base = self._base_history(user_id)
        late = self._overlay.of(user_id)
        if late is None:
            return base.before(now)
        if len(base.time) and late.time[0] < base.time[-1]:
            both = base.joined(late)
            order = np.argsort(both.time, kind="stable")
            return both.each(lambda column: column[order]).before(now)
        return base.joined(late).before(now)

    def knows_user(self, user_id: str) -> bool:
        """Whether any event of the user is kept."""
        return len(self._base_history(user_id).item) > 0 or user_id in self._overlay.rows

    def user_ids(self) -> list[str]:
        """Everybody of whom an event is kept, sorted."""
        base = self._user_index.all().to_pylist()
        kept = {user for place, user in enumerate(base) if place not in self._forgotten}
        return sorted(kept | self._overlay.rows.keys())

    def last_time(self) -> int:
        """Time of the latest event kept (µs); 0 when there is none."""
        base = int(self._events.time.max()) if len(self._events.time) else 0
        return max(base, self._overlay.last_time())

    def user_attributes(self, user_id: str) -> dict[str, Any]:
        """Attributes of a user by column name (float or string); empty for an unknown user."""
        if self.users is None or user_id in self._overlay.forgotten:
            return {}
        return self.users.attributes(user_id)

    def counters(self, now: int) -> CounterView:
        """The counters as of `now`: whole buckets before its own."""
        self._frontier = max(self._frontier, now // self.bucket_us)
        return CounterView(self._tables, self.bucket_us, now)

    def kind_code(self, name: str) -> int:
        """Code of an event type, -1 for one that never occurred."""
        return self._kind_code.get(name, -1)

    def _base_history(self, user_id: str) -> History:
        user = self._user_index.index_of(user_id)
        if user < 0 or user in self._forgotten:
            return EMPTY_HISTORY
        low, high = self._offsets[user], self._offsets[user + 1]
        return self._events.each(lambda column: column[low:high])

    # -- folding ------------------------------------------------------------------------------

    def apply(self, records: Iterable[LogRecord | tuple[int, str, Mapping[str, Any], int]]) -> int:
        """Fold records in the order of the log; how many were used.

        Records at or before `log_position` are skipped, so that overlapping batches are safe.
        """
        pending = _Pending()
        for position, kind, payload, _ in records:
            if position <= self.log_position:
                continue
            self.log_position = position
            if kind == "event":
                self._take_event(position, payload, pending)
            elif kind == "impression":
                self._take_impression(payload, pending)
            elif kind in ("opt_out", "user"):
                continue  # no event: who is answered as new, and attributes, are kept elsewhere
            else:
                # Items and forgetting change what earlier events mean: fold those first.
                self._flush(pending)
                take = self._take_item if kind == "item" else self._take_forget
                pending.used += take(payload)
        self._flush(pending)
        return pending.used

    def _take_event(self, position: int, payload: Mapping[str, Any], pending: "_Pending") -> None:
        try:
            item_id, user_id, name = payload[ITEM_ID], payload[USER_ID], payload[EVENT_TYPE]
            time, value = microseconds(payload[TIMESTAMP]), payload.get(VALUE)
            stars = NAN if value is None else float(value)
        except (KeyError, ValueError, TypeError):
            self.skipped["malformed"] += 1
            return
        words = type(item_id) is type(user_id) is type(name) is str
        if not words or time == MISSING_TIME:
            self.skipped["malformed"] += 1
            return
        pending.events.append((user_id, item_id, name, time, stars, position))

    def _take_impression(self, payload: Mapping[str, Any], pending: "_Pending") -> None:
        try:
            time, shown = microseconds(payload[TIMESTAMP]), list(payload[ITEM_IDS])
        except (KeyError, ValueError, TypeError):
            self.skipped["malformed"] += 1
            return
        ids = [item_id for item_id in shown if isinstance(item_id, str)]
        pending.shown_ids += ids
        pending.shown.append((time // self.bucket_us, len(ids)))
        pending.used += 1

    def _take_item(self, payload: Mapping[str, Any]) -> int:
        item_id, extent = payload.get(ITEM_ID), self.catalogue.extent()
        if not item_id or not isinstance(item_id, str):
            self.skipped["malformed"] += 1
            return 0
        index = self.catalogue.index_of(item_id)
        before = self._groups_of(index) if index >= 0 else None
        try:
            index = self.catalogue.append(payload)
        except (ValueError, TypeError, AttributeError):
            # One unreadable record must not stop the fold; a new item is taken back whole.
            self.skipped["malformed"] += 1
            if before is None:
                self.catalogue.cut(extent)
                return 0
        if before is not None:
            self._move_counts(index, before, self._groups_of(index))
        return 1

    def _groups_of(self, index: int) -> tuple[int, Ints]:
        return int(self.catalogue.category_codes[index]), self.catalogue.tags_of(index).copy()

    def _move_counts(self, index: int, before: tuple[int, Ints], after: tuple[int, Ints]) -> None:
        """An item that changes category or tags takes its past counts with it, as a rebuilt
        snapshot would."""
        kinds, buckets, counts = self._tables["item"].cells_of(index)
        self._note(buckets)
        for (category, tags), sign in ((before, -1), (after, 1)):
            for table, codes in (("category", np.array([category], np.int32)), ("tag", tags)):
                self._tables[table].add(
                    np.repeat(codes, len(kinds)).astype(np.int32),
                    np.tile(kinds, len(codes)),
                    np.tile(buckets, len(codes)),
                    np.tile(counts * sign, len(codes)),
                )

    def _take_forget(self, payload: Mapping[str, Any]) -> int:
        user_id = payload.get(USER_ID)
        if not isinstance(user_id, str):
            self.skipped["malformed"] += 1
            return 0
        history = self.history(user_id, np.iinfo(np.int64).max)
        self._count(history.item, history.kind, history.time // self.bucket_us, -1)
        user = self._user_index.index_of(user_id)
        if user >= 0:
            self._forgotten.add(user)
        self._overlay.forget(user_id)
        return 1

    def _flush(self, pending: "_Pending") -> None:
        """Fold the events and impressions gathered so far."""
        if pending.events:
            pending.used += self._fold_events(pending.events)
        if pending.shown:
            # No item has come or changed since the first of them: such a record folds first.
            items = self.catalogue.indices_of(pending.shown_ids)
            bucket, length = (np.array(part, np.int64) for part in zip(*pending.shown, strict=True))
            known = items >= 0
            items, buckets = items[known], np.repeat(bucket, length)[known]
            self._note(buckets)
            kinds, ones = np.zeros(len(items), np.int16), np.ones(len(items), np.int64)
            self._tables["shown"].add(items, kinds, buckets, ones)
        pending.clear()

    def _fold_events(self, events: list[tuple[str, str, str, int, float, int]]) -> int:
        """Fold events whose items are known; how many there were."""
        found = self.catalogue.indices_of([event[1] for event in events])
        known = found >= 0
        if not known.all():
            self.skipped["unknown_item"] += int(len(events) - known.sum())
            events, found = list(compress(events, known.tolist())), found[known]
            if not events:
                return 0
        kinds = np.array([self._take_kind(event[2]) for event in events], np.int16)
        known = kinds >= 0
        if not known.all():
            self.skipped["too_many_types"] += int(len(events) - known.sum())
            events, found, kinds = (
                list(compress(events, known.tolist())),
                found[known],
                kinds[known],
            )
            if not events:
                return 0
        users, _, _, times, stars, positions = zip(*events, strict=True)
        time = np.array(times, np.int64)
        weight, grade = self.meaning.of(self.kinds, kinds, np.array(stars))
        self._remember(users, History(found, kinds, time, weight, grade), positions)
        self._count(found, kinds, time // self.bucket_us, 1)
        return len(events)

    def _remember(self, users: Sequence[str], events: History, positions: Sequence[int]) -> None:
        """Add events to the histories that are kept here."""
        if self.shards is not None:
            mine = [place for place, user in enumerate(users) if self.shards.holds(user)]
            users, positions = [users[i] for i in mine], [positions[i] for i in mine]
            events = events.each(lambda column: column[mine])
        self._overlay.extend(users, events, positions)

    def keeps(self, user_id: str) -> bool:
        """Whether a user's history and attributes are kept here."""
        return self.shards is None or self.shards.holds(user_id)

    def _take_kind(self, name: str) -> int:
        """Code of an event type; -1 for one behind as many as there may be, which the night sets
        aside too."""
        code = self._kind_code.get(name)
        if code is None:
            if len(self.kinds) >= EVENT_TYPES:
                return -1
            code = self._kind_code[name] = len(self.kinds)
            self.kinds.append(name)
        return code

    def _note(self, buckets: Longs) -> None:
        """Changes in these buckets are to come."""
        if len(buckets) and int(buckets.min()) < self._frontier:
            self.revision += 1

    def _count(self, items: Ints, kinds: Kinds, buckets: Longs, amount: int) -> None:
        """Add events to the counters of their items, categories and tags."""
        self._note(buckets)
        amounts = np.full(len(items), amount, np.int64)
        self._tables["item"].add(items, kinds, buckets, amounts)
        category = self.catalogue.category_codes[items]
        known = category >= 0
        self._tables["category"].add(category[known], kinds[known], buckets[known], amounts[known])
        rows, tags = tag_rows(self.catalogue, items)
        self._tables["tag"].add(tags, kinds[rows], buckets[rows], amounts[rows])

    def take_attributes(self, told: Mapping[str, Mapping[str, Any]]) -> None:
        """Take in what was told of persons since the snapshot, attribute by attribute; of a person who
        was forgotten before, from then on."""
        if not told:
            return
        self._overlay.forgotten -= told.keys()
        self.users = with_told(self.users, told)

    # -- making, saving, opening --------------------------------------------------------------

    @classmethod
    def build(
        cls,
        interactions: Interactions,
        catalogue: Catalogue,
        *,
        bucket_us: int,
        windows_us: Sequence[int],
        log_position: int,
        users: UserTable | None = None,
        meaning: EventMeaning | None = None,
        impressions: Impressions | None = None,
        log_mark: LogMark | None = None,
    ) -> "OnlineState":
        """A state that holds all of `interactions` (and `impressions`).

        Args:
            interactions: events of the tables.
            catalogue: items and their attributes.
            bucket_us: width of the counters' buckets, µs.
            windows_us: windows of the counters, µs, whole buckets.
            log_position: records up to it are in the tables already; -1 for none.
            users: attributes of users; None without.
            meaning: weights and grades of events that come later; the defaults when absent.
            impressions: lists that were shown; None where they are not recorded.
            log_mark: by what the log of that position is known again.

        Raises:
            UsageError: a window is not a whole number of buckets.
        """
        for width in windows_us:
            window_buckets(width, bucket_us)
        index, offsets, events = _histories_by_hash(interactions)
        return cls(
            catalogue,
            interactions.kinds,
            meaning or EventMeaning(DEFAULT_TYPES),
            bucket_us,
            windows_us,
            log_position,
            index,
            offsets,
            events,
            _count_all(interactions, impressions, catalogue, bucket_us),
            users,
            log_mark,
        )

    def save(self, folder: Path) -> None:
        """Write a snapshot, replacing the one that was there. Equal states give equal bytes."""
        with atomic_folder(folder) as aside:
            self._write(aside)

    def _write(self, folder: Path) -> None:
        index, offsets, events = self._all_histories()
        index.save(folder, "users")
        write_arrays(folder, {"history.offsets": offsets})
        write_arrays(folder, {f"history.{n}": getattr(events, n) for n in _HISTORY})
        sizes = self._sizes()
        for name, table in self._tables.items():
            table.compacted(*sizes[name]).save(folder, f"counters.{name}")
        (folder / "catalogue").mkdir()
        self.catalogue.write_into(folder / "catalogue")
        if self.users is not None:
            self.users.save(folder)
        write_json(
            folder / _META,
            {
                "format": FORMAT,
                "kinds": self.kinds,
                "types": {n: [float(w), int(g)] for n, (w, g) in self.meaning.types.items()},
                "ratings": dict(self.meaning.ratings),
                "bucket_us": self.bucket_us,
                "windows_us": list(self.windows_us),
                "log_position": self.log_position,
                "log": [self.log_mark.identity, self._witness()],
                "skipped": self.skipped,
                "no_attributes": sorted(self._overlay.forgotten),
            },
        )

    def _witness(self) -> str | None:
        """What is known of the log's record at the position; nothing after further ones."""
        mark = self.log_mark
        return mark.witness if mark.position == self.log_position else None

    def _sizes(self) -> dict[str, tuple[int, int]]:
        kinds, catalogue = len(self.kinds), self.catalogue
        return {
            "item": (catalogue.n_items, kinds),
            "category": (len(catalogue.category_names), kinds),
            "tag": (len(catalogue.tag_names), kinds),
            "shown": (catalogue.n_items, 1),
        }

    def _all_histories(self) -> tuple[IdIndex, Longs, History]:
        """(index of users, offsets int64[U+1], events) of base and overlay together."""
        kept = np.ones(len(self._user_index), bool)
        kept[list(self._forgotten)] = False
        base_ids = self._user_index.all()
        if not self._overlay.rows and kept.all():
            return self._user_index, self._offsets, self._events
        known = self._overlay.users()
        ids = base_ids.to_pylist()
        place = {user: i for i, user in enumerate(ids)}
        everyone = ids + [user for user in known if user not in place]
        for i, user in enumerate(everyone[len(ids) :], len(ids)):
            place[user] = i
        kept = np.append(kept, np.ones(len(everyone) - len(ids), bool))
        late_user, late, position = self._overlay.everything(place)
        # A user forgotten and seen again keeps only what came after.
        base_user = owners_of(self._offsets)
        live = kept[base_user]
        kept[late_user] = True
        user = np.concatenate([base_user[live], late_user])
        events = self._events.each(lambda column: column[live]).joined(late)
        order_in_log = np.concatenate([np.full(int(live.sum()), -1, np.int64), position])
        return _sorted_by_hash(everyone, kept, user, events, order_in_log)

    @classmethod
    def open(cls, folder: Path) -> "OnlineState":
        """Map a snapshot.

        Raises:
            RecsysError: there is no snapshot, or one of another format.
        """
        folder = Path(folder)
        try:
            meta = read_json(folder / _META)
        except FileNotFoundError:
            raise RecsysError(
                "there is no state snapshot here",
                where=str(folder),
                fix="run `recsys nightly`, which builds one",
            ) from None
        if meta["format"] != FORMAT:
            raise RecsysError(
                "the state snapshot has another format",
                where=str(folder),
                found=meta["format"],
                expected=FORMAT,
                fix="run `recsys nightly` with this version, which builds a new one",
            )
        arrays = open_arrays(folder, ["history.offsets", *(f"history.{n}" for n in _HISTORY)])
        state = cls(
            Catalogue.open(folder / "catalogue"),
            meta["kinds"],
            _meaning(meta),
            meta["bucket_us"],
            meta["windows_us"],
            meta["log_position"],
            IdIndex.open(folder, "users"),
            arrays["history.offsets"],
            History(*map(arrays.__getitem__, map("history.{}".format, _HISTORY))),
            {name: CounterTable.open(folder, f"counters.{name}") for name in ENTITIES},
            UserTable.open(folder),
            _mark(meta),
        )
        state.skipped |= meta["skipped"]
        state._overlay.forgotten = set(meta["no_attributes"])
        return state


def _meaning(meta: Mapping[str, Any]) -> EventMeaning:
    """What events mean, as a snapshot says it; one from before there were scales has none."""
    types = {name: (weight, grade) for name, (weight, grade) in meta["types"].items()}
    ratings = meta.get("ratings", DEFAULT_RATINGS)
    return EventMeaning(types, {n: None if s is None else (s[0], s[1]) for n, s in ratings.items()})


def _mark(meta: Mapping[str, Any]) -> LogMark:
    """Of which log a snapshot holds how much; those of earlier versions did not say which."""
    identity, witness = meta.get("log") or ("", None)
    return LogMark(identity, meta["log_position"], witness)


class _Pending:
    """Events and shown items gathered from a batch, not yet folded."""

    def __init__(self) -> None:
        self.used = 0
        """Records used so far, those folded already included."""
        self.clear()

    def clear(self) -> None:
        self.events: list[tuple[str, str, str, int, float, int]] = []
        """(user, item, type, time, value, position)."""
        self.shown: list[tuple[int, int]] = []
        """(bucket, items shown) of each list."""
        self.shown_ids: list[str] = []
        """The items of all of them, one list after the other."""


class _Overlay:
    """Events since the snapshot: columns that grow, and each user's rows in them."""

    def __init__(self) -> None:
        self.rows: dict[str, list[int]] = {}
        self.forgotten: set[str] = set()
        self._columns: list[Any] = [np.zeros(0, kind) for kind in _TYPES]
        self._position = np.zeros(0, np.int64)
        self._size = 0

    def extend(self, users: Sequence[str], events: History, position: Sequence[int]) -> None:
        start, stop = self._size, self._size + len(users)
        for i, column in enumerate(events):
            self._columns[i] = grown(self._columns[i], stop)
            self._columns[i][start:stop] = column
        self._position = grown(self._position, stop)
        self._position[start:stop] = position
        self._size = stop
        rows = self.rows
        for row, user in enumerate(users, start):
            if user in rows:
                rows[user].append(row)
            else:
                rows[user] = [row]

    def of(self, user_id: str) -> History | None:
        """A user's events by (time, position); none where there are none."""
        rows = self.rows.get(user_id)
        if rows is None:
            return None
        at = np.array(rows)
        history = self._all().each(lambda column: column[at])
        if (np.diff(history.time) < 0).any():
            # Rows are in the order of the log, so a stable sort breaks ties by position.
            order = np.argsort(history.time, kind="stable")
            return history.each(lambda column: column[order])
        return history

    def last_time(self) -> int:
        """Time of the latest event (µs); 0 when there is none."""
        times = self._columns[_HISTORY.index("time")][: self._size]
        return int(times.max()) if len(times) else 0

    def forget(self, user_id: str) -> None:
        self.rows.pop(user_id, None)
        self.forgotten.add(user_id)

    def users(self) -> list[str]:
        return list(self.rows)

    def everything(self, place: Mapping[str, int]) -> tuple[npt.NDArray[np.int64], History, Longs]:
        """(user int64[e], events, position int64[e]) of all users still kept."""
        at = np.array([row for rows in self.rows.values() for row in rows], np.int64)
        lengths = [len(rows) for rows in self.rows.values()]
        user = np.repeat(np.array([place[name] for name in self.rows], np.int64), lengths)
        return user, self._all().each(lambda column: column[at]), self._position[at]

    def _all(self) -> History:
        return History(*self._columns)


def _histories_by_hash(interactions: Interactions) -> tuple[IdIndex, Longs, History]:
    """Users in the order of their identifiers, events by (user, time, position)."""
    if not interactions.ordered:
        return _sorted_by_hash(
            interactions.user_ids,
            np.bincount(interactions.user, minlength=interactions.n_users) > 0,
            interactions.user.astype(np.int64),
            History(*(getattr(interactions, name) for name in _HISTORY)),
            interactions.position,
        )
    histories = interactions.histories()
    index, users = _by_name(interactions.user_ids, histories.lengths > 0)
    offsets = offsets_of(histories.lengths[users])
    rows = empty(int(offsets[-1]), np.int64)
    # Some users at a time: places of all events at once would be memory for each of them, thrice.
    for some in Histories(offsets, EMPTY_HISTORY).stretches():
        places = slice(int(offsets[some.start]), int(offsets[some.stop]))
        rows[places] = chosen_groups(histories.offsets, users[some])[1]
    return index, offsets, histories.events.each(lambda column: taken(column, rows))


def _by_name(ids: Any, kept: npt.NDArray[np.bool_]) -> tuple[IdIndex, Longs]:
    """(index of the kept users, sorted by identifier; code of each).

    Sorting by identifier makes the bytes independent of who was seen first.

    Args:
        ids: [U] user ids by code.
        kept: bool[U], users that are kept.
    """
    # Within Arrow, without a list of Python strings beside it.
    names = pa.array(ids, pa.large_string()).filter(pa.array(kept))
    by_name = pc.sort_indices(names)
    names = names.take(by_name)
    return IdIndex.build(names), np.flatnonzero(kept)[by_name.to_numpy()]


def _sorted_by_hash(
    ids: PackedStrings | Sequence[str],
    kept: npt.NDArray[np.bool_],
    user: npt.NDArray[np.int64],
    events: History,
    position: Longs,
) -> tuple[IdIndex, Longs, History]:
    """Users in the order of their identifiers, events by (user, time, position).

    Args:
        ids: [U] user ids by code.
        kept: bool[U], users that are kept.
        user: int64[E], user code of each event.
        events: E events.
        position: int64[E], log positions.
    """
    index, users = _by_name(ids, kept)
    rank = np.full(len(ids), -1, np.int64)
    rank[users] = np.arange(len(users))
    owner = rank[user]
    order = np.lexsort((position, events.time, owner))
    return (
        index,
        offsets_of_owners(owner, len(users)),
        events.each(lambda column: column[order]),
    )


def _count_all(
    interactions: Interactions,
    impressions: Impressions | None,
    catalogue: Catalogue,
    bucket_us: int,
) -> dict[str, CounterTable]:
    sizes = {
        ENTITY_ITEM: (catalogue.n_items, len(interactions.kinds)),
        ENTITY_CATEGORY: (len(catalogue.category_names), len(interactions.kinds)),
        ENTITY_TAG: (len(catalogue.tag_names), len(interactions.kinds)),
        ENTITY_SHOWN: (catalogue.n_items, 1),
    }

    def stretches_of(entity: str) -> Iterator[tuple[Ints, Kinds, Longs]]:
        for found in counted(entity, interactions, impressions, catalogue, bucket_us):
            yield found.entity, found.kind, found.bucket

    return {
        entity: CounterTable.of_stretches(partial(stretches_of, entity), *size)
        for entity, size in sizes.items()
    }
