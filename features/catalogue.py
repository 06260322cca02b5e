"""The item side: everything known of every item, by its index in the workspace's vocabulary.

Numbers and codes are flat arrays (memory-mapped, copied only where an item changes); texts stay in
a memory-mapped Arrow file and are read one at a time. An item appended or updated later lives in
memory beside them. A million items open in milliseconds.

Shapes: N items, T tag codes of all items together.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data_schemas.columns import (
    AVAILABLE,
    CATEGORY,
    CREATED_AT,
    DESCRIPTION,
    ITEM_ID,
    ITEM_INDEX,
    ITEM_STANDARD,
    TAGS,
    TITLE,
    VECTOR,
)
from recsys.data_schemas.errors import DataRefused
from recsys.data_schemas.limits import AMOUNT, FLAG, TEXT, attribute_value
from recsys.features.ids import IdIndex
from recsys.features.interactions import (
    SECOND,
    Floats,
    Ints,
    Longs,
)
from recsys.features.protocols import Mask
from recsys.features.ragged import list_column, offsets_of, offsets_of_owners, owners_of, ranges_of
from recsys.features.store import (
    grown,
    open_arrays,
    read_json,
    write_arrays,
    write_json,
)
from recsys.features.time_buckets import MISSING_TIME, microseconds
from recsys.storage.files import atomic_folder

MAX_VALUES: Final = 1000
"""A string column with more distinct values than this is text, not an attribute (assumed)."""
_TEXTS: Final = "texts.arrow"
_META: Final = "catalogue.json"
_FORMAT: Final = 1
_SERIALS = count()


class Codes:
    """Strings of low cardinality as codes: `values[n]`, growing rows and growing names."""

    def __init__(self, names: Iterable[str], values: Ints) -> None:
        self.names = list(names)
        self.values = values
        self._code = {name: code for code, name in enumerate(self.names)}

    def code_of(self, name: str) -> int:
        """Code of a name, -1 when unknown."""
        return self._code.get(name, -1)

    def take(self, name: str | None) -> int:
        """Code of a name, made when new; -1 for none."""
        if not name:
            return -1
        code = self._code.setdefault(name, len(self.names))
        if code == len(self.names):
            self.names.append(name)
        return code

    def cut(self, names: int) -> None:
        """Forget the names beyond the first ones; no row may hold their codes."""
        for name in self.names[names:]:
            del self._code[name]
        del self.names[names:]


class Extent(NamedTuple):
    """How much a catalogue holds, to cut it back to."""

    items: int
    tags: int
    categories: int
    values: tuple[int, ...]
    """Of each string attribute."""


class Catalogue:
    """Items 0..n_items-1 and their attributes; an index never changes once given."""

    def __init__(
        self,
        ids: IdIndex,
        texts: Any,
        created_at: Longs,
        blocked: Mask,
        category: Codes,
        tag_names: Iterable[str],
        tag_start: Longs,
        tag_stop: Longs,
        tag_pool: Ints,
        numeric: Mapping[str, Floats],
        categorical: Mapping[str, Codes],
        flags: Iterable[str] = (),
        vectors: Floats | None = None,
    ) -> None:
        """Use `from_parquet`, `from_table` or `open`.

        Args:
            ids: id → index of N items.
            texts: Arrow table of the texts, read as they are asked for.
            created_at: int64[N], µs UTC, 0 where unknown.
            blocked: uint8[N], 1 where the item may not be listed.
            category: code of each item and the names of the codes.
            tag_names: name of each tag code.
            tag_start: int64[N], first place of each item in `tag_pool`.
            tag_stop: int64[N], place after its last.
            tag_pool: int32[p], tag codes.
            numeric: column → float32[N], NaN where unknown.
            categorical: column → codes and names.
            flags: names of the numeric columns that are yes or no.
            vectors: float32[N, d], the items' own vectors, zeros for an item without; None where
                items bring none.
        """
        self.ids = ids
        self._texts = texts
        self._size = len(ids)
        self._changed: dict[int, dict[str, Any]] = {}
        self._created_at, self._blocked = created_at, blocked
        self._category = category
        self._tags = Codes(tag_names, tag_pool)
        self._tag_start, self._tag_stop = tag_start, tag_stop
        self._pool_size = len(tag_pool)
        self._numeric = dict(numeric)
        self._categorical = dict(categorical)
        self._flags = frozenset(flags)
        # Apart from those that come later: a mapped table of vectors is not copied for one more item.
        self._vectors = vectors
        self._later_vectors = np.zeros((0, self.vector_length), np.float32)
        self.serial = next(_SERIALS)
        """Tells this catalogue from every other of the process."""
        self.version = 0
        """Grows with every append and update, so that readers can cache what they derive."""
        self.revision = 0
        """Grows only when an item that was there before changes."""
        self.derived: dict[object, Floats] = {}
        """Tables that features derive from the codes' names, by declaration; they check the length."""

    # -- reading ------------------------------------------------------------------------------

    @property
    def n_items(self) -> int:
        return self._size

    @property
    def item_ids(self) -> Any:
        """Arrow large_string array of length N."""
        return self.ids.all()

    def index_of(self, item_id: str) -> int:
        """Index of an item, -1 when unknown."""
        return self.ids.index_of(item_id)

    def indices_of(self, item_ids: Sequence[str] | Any) -> Ints:
        """int32[n] of n items, -1 where unknown."""
        return self.ids.indices_of(item_ids)

    def id_of(self, index: int) -> str:
        return self.ids.id_of(index)

    @property
    def created_at(self) -> Longs:
        """int64[N] µs; `MISSING_TIME` where unknown."""
        return self._created_at[: self._size]

    @property
    def blocked(self) -> Mask:
        """uint8[N]: 1 where the item is not available. A live view."""
        return self._blocked[: self._size]

    @property
    def available(self) -> npt.NDArray[np.bool_]:
        """bool[N], a copy."""
        free: npt.NDArray[np.bool_] = self.blocked == 0
        return free

    @property
    def category_codes(self) -> Ints:
        """int32[N] codes into `category_names`; -1 for none."""
        return self._category.values[: self._size]

    @property
    def category(self) -> list[str | None]:
        """Categories in words; for batch use."""
        return self._categories(slice(None))

    def _categories(self, part: slice) -> list[str | None]:
        names: list[str | None] = [*self._category.names, None]
        return [names[code] for code in self.category_codes[part].tolist()]

    @property
    def category_names(self) -> list[str]:
        return self._category.names

    @property
    def tag_names(self) -> list[str]:
        return self._tags.names

    def tag_code(self, name: str) -> int:
        """Code of a tag, -1 for one that no item has had."""
        return self._tags.code_of(name)

    def category_code(self, name: str) -> int:
        """Code of a category, -1 for one that no item has had."""
        return self._category.code_of(name)

    @property
    def tag_ranges(self) -> tuple[Longs, Longs, Ints]:
        """(start int64[N], stop int64[N], pool int32[T]): item i has tags pool[start[i]:stop[i]],
        ascending and distinct."""
        size = self._size
        return self._tag_start[:size], self._tag_stop[:size], self._tags.values

    def tags_of(self, index: int) -> Ints:
        """Tag codes of one item, ascending."""
        return self._tags.values[self._tag_start[index] : self._tag_stop[index]]

    @property
    def tags(self) -> list[list[str]]:
        """Tags in words, in the caller's order; for batch use."""
        return self._tags_in_words(slice(None))

    def _tags_in_words(self, part: slice) -> list[list[str]]:
        return [[tag for tag in tags or () if tag] for tags in self._told(TAGS, part)]

    def tags_csr(self) -> tuple[Longs, Ints]:
        """(offsets int64[N+1], codes int32[T]) of all items, copied."""
        start, stop, pool = self.tag_ranges
        lengths = stop - start
        return offsets_of(lengths), pool[ranges_of(start, lengths)]

    @property
    def numeric_names(self) -> tuple[str, ...]:
        return tuple(self._numeric)

    @property
    def categorical_names(self) -> tuple[str, ...]:
        return tuple(self._categorical)

    @property
    def attribute_kinds(self) -> dict[str, str]:
        """Kind of each attribute by name, as `limits.attribute_value` takes it."""
        numbers = {name: FLAG if name in self._flags else AMOUNT for name in self._numeric}
        return numbers | dict.fromkeys(self._categorical, TEXT)

    def numeric(self, name: str) -> Floats:
        """float32[N] of a numeric or boolean attribute; NaN where unknown."""
        return self._numeric[name][: self._size]

    def categorical(self, name: str) -> Ints:
        """int32[N] codes of a string attribute (`category` included); -1 for none."""
        codes = self._category if name == CATEGORY else self._categorical[name]
        return codes.values[: self._size]

    def values_of(self, name: str) -> list[str]:
        """What the codes of a string attribute mean."""
        return self._category.names if name == CATEGORY else self._categorical[name].names

    @property
    def vector_length(self) -> int:
        """d, numbers of an item's own vector; 0 where items bring none."""
        return 0 if self._vectors is None else int(self._vectors.shape[1])

    @property
    def vectors(self) -> Floats | None:
        """float32[N, d]: the items' own vectors, zeros for an item without; None where items bring
        none. As they were given, of any length."""
        if self._vectors is None:
            return None
        first = len(self._vectors)
        if self._size <= first:
            return self._vectors[: self._size]
        return np.concatenate([self._vectors, self.vectors_from(first)])

    def vectors_from(self, first: int) -> Floats:
        """float32[N - first, d] of the items from an index on; d = 0 where items bring none."""
        if self._vectors is None:
            return np.zeros((max(0, self._size - first), 0), np.float32)
        held = len(self._vectors)
        later = self._later_vectors[max(0, first - held) : max(0, self._size - held)]
        early = self._vectors[first : self._size]
        return np.concatenate([early, later]) if len(early) else later

    def _vector_row(self, index: int) -> Floats:
        assert self._vectors is not None
        held = len(self._vectors)
        row: Floats = self._vectors[index] if index < held else self._later_vectors[index - held]
        return row

    def _set_vector(self, index: int, given: Sequence[float] | None) -> None:
        """An item's vector; none where it is of another length than the others'."""
        if self._vectors is None:
            return
        row = np.asarray(() if given is None else given, np.float32)
        fits = row.shape == (self.vector_length,) and bool(np.isfinite(row).all())
        self._vector_row(index)[:] = row if fits else 0.0

    def title(self, index: int) -> str:
        return str(self._text(index, TITLE) or "")

    def description(self, index: int) -> str:
        return str(self._text(index, DESCRIPTION) or "")

    @property
    def titles(self) -> list[str]:
        """All titles; for batch use."""
        return self._column(TITLE)

    def changed_titles(self) -> dict[int, str]:
        """Titles of the items changed or appended since the catalogue was opened, by index."""
        return {i: str(columns.get(TITLE) or "") for i, columns in self._changed.items()}

    def with_title(self, words: Sequence[str], limit: int, changed: Mapping[int, str]) -> list[int]:
        """Indices of the first `limit` items whose title holds every word, in any case.

        Titles are looked through where they lie, on any thread; `changed` is what `changed_titles`
        gave on the thread that changes the catalogue.
        """
        titles = self._texts[TITLE]
        hit: Any = pa.array(np.ones(len(titles), bool))
        for word in words:
            found = pc.match_substring(titles, word, ignore_case=True)
            hit = pc.and_(hit, pc.fill_null(found, False))
        first = pc.indices_nonzero(hit).slice(0, limit + len(changed)).to_pylist()
        folded = [word.casefold() for word in words]
        also = [i for i, title in changed.items() if all(w in title.casefold() for w in folded)]
        return sorted([*(i for i in first if i not in changed), *also])[:limit]

    @property
    def descriptions(self) -> list[str]:
        """All descriptions; for batch use."""
        return self._column(DESCRIPTION)

    def fields(self, index: int) -> dict[str, Any]:
        """Everything known of an item, by column name, `None` where nothing is."""
        at = int(self._created_at[index])
        code = int(self._category.values[index])
        known: dict[str, Any] = {
            ITEM_ID: self.id_of(index),
            TITLE: self.title(index),
            DESCRIPTION: self.description(index),
            TAGS: [self._tags.names[tag] for tag in self._tag_order(index)],
            CATEGORY: self._category.names[code] if code >= 0 else None,
            CREATED_AT: None if at == MISSING_TIME else datetime.fromtimestamp(at / SECOND, UTC),
            AVAILABLE: not self._blocked[index],
        }
        for name, values in self._numeric.items():
            value = float(values[index])
            number = bool(value) if name in self._flags else value
            known[name] = None if np.isnan(value) else number
        for name, codes in self._categorical.items():
            code = int(codes.values[index])
            known[name] = codes.names[code] if code >= 0 else None
        if self._vectors is not None:
            row = self._vector_row(index)
            known[VECTOR] = row.tolist() if row.any() else None
        return known

    def _tag_order(self, index: int) -> Sequence[int]:
        """Tag codes of an item as the caller ordered them."""
        written = self._text(index, TAGS)
        return [self._tags.code_of(tag) for tag in dict.fromkeys(written or ()) if tag]

    def _text(self, index: int, column: str) -> Any:
        changed = self._changed.get(index)
        if changed is not None:
            return changed.get(column)
        return self._texts[column][index].as_py()

    def text_rows(self, part: slice) -> Iterator[tuple[str, list[str], str | None, str]]:
        """(title, tags in the caller's order, category, description) of some items that stand together."""
        columns = (self._column(TITLE, part), self._tags_in_words(part), self._categories(part),
                   self._column(DESCRIPTION, part))  # fmt: skip
        return zip(*columns, strict=True)

    def _column(self, column: str, part: slice = slice(None)) -> list[str]:
        return [str(text or "") for text in self._told(column, part)]

    def _told(self, column: str, part: slice) -> list[Any]:
        """What is told of some items that stand together, `None` where nothing is."""
        low, high, _ = part.indices(self._size)
        base = self._texts[column].slice(low, max(0, high - low)).to_pylist()
        found: list[Any] = base + [None] * (high - low - len(base))
        for index, changed in self._changed.items():
            if low <= index < high:
                found[index - low] = changed.get(column)
        return found

    # -- changing -----------------------------------------------------------------------------

    def append(self, item: Mapping[str, Any]) -> int:
        """Add an item not seen before; its index. An item already there is updated instead."""
        item_id = str(item[ITEM_ID])
        index = self.index_of(item_id)
        if index < 0:
            index = self.ids.add(item_id)
            self._make_room(index + 1)
            self._blank(index)
            self._size = index + 1
            self._changed[index] = {}
            self._set(index, item)
        else:
            self.update(index, item)
        return index

    def update(self, index: int, item: Mapping[str, Any]) -> None:
        """Set the columns that `item` names; those it leaves out keep their values. An attribute of
        another type than its column's is unknown."""
        self.revision += 1  # first: of one that cannot be read whole, a part may have been taken
        self._set(index, item)

    def _set(self, index: int, item: Mapping[str, Any]) -> None:
        written = self._changed.get(index)
        if written is None:
            written = {name: self._text(index, name) for name in (TITLE, DESCRIPTION, TAGS)}
            self._changed[index] = written
        written |= {name: item[name] for name in (TITLE, DESCRIPTION, TAGS) if name in item}
        if TAGS in item:
            self._set_tags(index, item[TAGS] or ())
        if CATEGORY in item:
            self._category.values[index] = self._category.take(item[CATEGORY])
        if CREATED_AT in item:
            self._created_at[index] = microseconds(item[CREATED_AT])
        if item.get(AVAILABLE) is not None:
            self._blocked[index] = not item[AVAILABLE]
        if VECTOR in item:
            self._set_vector(index, item[VECTOR])
        for name, values in self._numeric.items():
            if name in item:
                value = attribute_value(FLAG if name in self._flags else AMOUNT, item[name])
                values[index] = np.nan if value is None else value
        for name, codes in self._categorical.items():
            if name in item:
                word = attribute_value(TEXT, item[name])
                codes.values[index] = codes.take(None if word is None else str(word))
        self.version += 1

    def extent(self) -> Extent:
        """What is held now."""
        return Extent(
            self._size,
            len(self._tags.names),
            len(self._category.names),
            tuple(len(codes.names) for codes in self._categorical.values()),
        )

    def cut(self, extent: Extent) -> None:
        """Drop what was appended since, in this process and with nothing else in between: items lent
        to one request, with the tags, categories and values that they brought."""
        size = extent.items
        self.ids.forget_from(size)
        gone = slice(size, self._size)
        for index in range(size, self._size):
            del self._changed[index]
        # Their tags end the pool unless another item was updated since; then the space is lost.
        held = int((self._tag_stop[gone] - self._tag_start[gone]).sum())
        if held and int(self._tag_stop[gone].max()) == self._pool_size:
            first = self._pool_size - held
            if int(self._tag_start[gone][self._tag_stop[gone] > 0].min()) == first:
                self._pool_size = first
        self._size = size
        self._cut_names(extent)
        self.version += 1

    def _cut_names(self, extent: Extent) -> None:
        """Take back names that only lent items had; who asks for many must not fill the memory."""
        if self.extent() == extent:
            return
        self._tags.cut(extent.tags)
        self._category.cut(extent.categories)
        for codes, names in zip(self._categorical.values(), extent.values, strict=True):
            codes.cut(names)
        # A table of as many names may have been made while others stood there.
        self.derived.clear()

    def _set_tags(self, index: int, tags: Iterable[str]) -> None:
        codes = sorted({self._tags.take(tag) for tag in tags if tag})
        start, stop = self._pool_size, self._pool_size + len(codes)
        self._tags.values = grown(self._tags.values, stop)
        self._tags.values[start:stop] = codes
        self._tag_start[index], self._tag_stop[index] = start, stop
        self._pool_size = stop

    def _make_room(self, size: int) -> None:
        self._created_at = grown(self._created_at, size, MISSING_TIME)
        self._blocked = grown(self._blocked, size)
        self._tag_start, self._tag_stop = grown(self._tag_start, size), grown(self._tag_stop, size)
        self._category.values = grown(self._category.values, size, -1)
        for name in self._numeric:
            self._numeric[name] = grown(self._numeric[name], size, np.nan)
        for codes in self._categorical.values():
            codes.values = grown(codes.values, size, -1)
        if self._vectors is not None:
            self._later_vectors = grown(self._later_vectors, size - len(self._vectors))

    def _blank(self, index: int) -> None:
        """An item of which nothing is known; its place may have held an inline item of a request."""
        self._created_at[index], self._blocked[index] = MISSING_TIME, 0
        self._tag_start[index] = self._tag_stop[index] = 0
        self._category.values[index] = -1
        for values in self._numeric.values():
            values[index] = np.nan
        for codes in self._categorical.values():
            codes.values[index] = -1
        self._set_vector(index, None)

    # -- making, saving, opening --------------------------------------------------------------

    @classmethod
    def from_parquet(cls, path: Path | str) -> "Catalogue":
        """Read items.parquet, whose rows are in vocabulary order."""
        return cls.from_table(pq.read_table(path))

    @classmethod
    def from_table(cls, table: Any) -> "Catalogue":
        """Make a catalogue of an Arrow table of items in vocabulary order.

        Only `item_id` is needed. Numeric and boolean columns beyond the standard ones become
        numeric attributes, strings of up to `MAX_VALUES` distinct values categorical ones.
        """
        size = table.num_rows
        category = _encode(table[CATEGORY]) if CATEGORY in table.column_names else _no_codes(size)
        numeric, categorical = _attributes(table)
        flags = [f.name for f in table.schema if pa.types.is_boolean(f.type) and f.name in numeric]
        tag_names, start, stop, pool = _tags(table, size)
        return cls(
            IdIndex.build(table[ITEM_ID]),
            _text_table(table),
            _times(table, size),
            _blocked(table, size),
            category,
            tag_names,
            start,
            stop,
            pool,
            numeric,
            categorical,
            flags,
            _vectors(table),
        )

    def save(self, folder: Path) -> None:
        """Write the catalogue as a folder of its own, replacing one that was there."""
        with atomic_folder(folder) as aside:
            self.write_into(aside)

    def write_into(self, folder: Path) -> None:
        """Write the catalogue's files into an existing folder."""
        start_free, codes = self.tags_csr()
        arrays: dict[str, npt.NDArray[Any]] = {
            "created_at": self.created_at,
            "blocked": self.blocked,
            "category": self.category_codes,
            "tag_offsets": start_free,
            "tag_codes": codes,
        }
        arrays |= {f"numeric.{i}": self.numeric(n) for i, n in enumerate(self._numeric)}
        arrays |= {f"categorical.{i}": self.categorical(n) for i, n in enumerate(self._categorical)}
        if (vectors := self.vectors) is not None:
            arrays[VECTOR] = vectors
        write_arrays(folder, arrays)
        self.ids.save(folder, "ids")
        self._write_texts(folder / _TEXTS)
        write_json(
            folder / _META,
            {
                "format": _FORMAT,
                "tags": self._tags.names,
                "category": self._category.names,
                "numeric": list(self._numeric),
                "flags": sorted(self._flags),
                "vectors": self._vectors is not None,
                "categorical": [[n, c.names] for n, c in self._categorical.items()],
            },
        )

    def _write_texts(self, file: Path) -> None:
        table = self._texts
        if self._changed:
            size = self._size
            columns: dict[str, Any] = {n: self._column(n) for n in (TITLE, DESCRIPTION)}
            columns[TAGS] = [list(self._text(i, TAGS) or ()) for i in range(size)]
            table = pa.table(columns, schema=_TEXT_SCHEMA)
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())

    @classmethod
    def open(cls, folder: Path) -> "Catalogue":
        """Map what `save` wrote; changes made later stay in this process."""
        folder = Path(folder)
        meta = read_json(folder / _META)
        names = ["created_at", "blocked", "category", "tag_offsets", "tag_codes"]
        names += [f"numeric.{i}" for i in range(len(meta["numeric"]))]
        names += [f"categorical.{i}" for i in range(len(meta["categorical"]))]
        names += [VECTOR] if meta.get("vectors") else []
        arrays = open_arrays(folder, names)
        offsets = arrays["tag_offsets"]
        with pa.memory_map(str(folder / _TEXTS)) as source:
            texts = pa.ipc.open_file(source).read_all()
        return cls(
            IdIndex.open(folder, "ids"),
            texts.combine_chunks(),
            arrays["created_at"],
            arrays["blocked"],
            Codes(meta["category"], arrays["category"]),
            meta["tags"],
            offsets[:-1].copy(),
            offsets[1:].copy(),
            arrays["tag_codes"],
            {n: arrays[f"numeric.{i}"] for i, n in enumerate(meta["numeric"])},
            {
                n: Codes(values, arrays[f"categorical.{i}"])
                for i, (n, values) in enumerate(meta["categorical"])
            },
            meta.get("flags", ()),
            arrays.get(VECTOR),
        )


_TEXT_SCHEMA: Final = pa.schema(
    [
        (TITLE, pa.large_string()),
        (DESCRIPTION, pa.large_string()),
        (TAGS, pa.large_list(pa.large_string())),
    ]
)


def _text_table(table: Any) -> Any:
    """Title, description and tags as one contiguous Arrow table."""
    columns = []
    for field in _TEXT_SCHEMA:
        if field.name in table.column_names:
            columns.append(table[field.name].cast(field.type).combine_chunks())
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    return pa.table(columns, schema=_TEXT_SCHEMA)


def _whole(column: Any) -> Any:
    """A column as one contiguous Arrow array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _times(table: Any, size: int) -> Longs:
    if CREATED_AT not in table.column_names:
        return np.full(size, MISSING_TIME)
    column = table[CREATED_AT].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    times: Longs = column.fill_null(MISSING_TIME).to_numpy().astype(np.int64)
    return times.copy()


def _blocked(table: Any, size: int) -> Mask:
    if AVAILABLE not in table.column_names:
        return np.zeros(size, np.uint8)
    there = table[AVAILABLE].fill_null(True).to_numpy(zero_copy_only=False)
    blocked: Mask = (~there.astype(bool)).astype(np.uint8)
    return blocked


def _no_codes(size: int) -> Codes:
    return Codes((), np.full(size, -1, np.int32))


def _encode(column: Any) -> Codes:
    """A string column as codes in order of first appearance; null and "" are -1."""
    encoded = _whole(column.cast(pa.large_string())).dictionary_encode()
    names = encoded.dictionary.to_pylist()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    if "" in names:
        empty = names.index("")
        codes = np.where(codes == empty, -1, codes - (codes > empty)).astype(np.int32)
        names.pop(empty)
    return Codes(names, codes.copy())


def _tags(table: Any, size: int) -> tuple[list[str], Longs, Longs, Ints]:
    """(names, start, stop, pool) of the tags column; codes ascending and distinct per item."""
    if TAGS not in table.column_names:
        return [], np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(0, np.int32)
    each, tags = list_column(table[TAGS].cast(pa.large_list(pa.large_string())))
    encoded = _encode(tags)
    known = encoded.values >= 0
    pairs = np.unique(owners_of(each)[known] << 32 | encoded.values[known].astype(np.int64))
    offsets = offsets_of_owners(pairs >> 32, size)
    pool = (pairs & 0xFFFFFFFF).astype(np.int32)
    return encoded.names, offsets[:-1].copy(), offsets[1:].copy(), pool


def _vectors(table: Any) -> Floats | None:
    """The items' own vectors; None where no item brings one.

    Raises:
        DataRefused: they differ in length.
    """
    if VECTOR not in table.column_names or table[VECTOR].null_count == table.num_rows:
        return None
    lists = _whole(table[VECTOR].cast(pa.large_list(pa.float32())))
    there = lists.is_valid().to_numpy(zero_copy_only=False)
    lengths = np.asarray(lists.value_lengths().fill_null(0))[there]
    if lengths.min() != lengths.max():
        raise DataRefused(
            "the items' vectors differ in length",
            where=f"column `{VECTOR}`",
            found=f"{lengths.min()} and {lengths.max()} numbers",
            expected="as many numbers for every item",
        )
    rows = np.zeros((table.num_rows, int(lengths[0])), np.float32)
    rows[there] = lists.drop_null().flatten().to_numpy().reshape(-1, rows.shape[1])
    return rows


def unit_rows(rows: Floats) -> Floats:
    """The same rows with length 1; zeros stay zeros.

    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    length = np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    unit: Floats = (rows / np.where(length > 0, length, 1.0)).astype(np.float32)
    return unit


def _attributes(table: Any) -> tuple[dict[str, Floats], dict[str, Codes]]:
    """The caller's own columns as numeric and categorical attributes; others are left out."""
    numeric: dict[str, Floats] = {}
    categorical: dict[str, Codes] = {}
    for field in table.schema:
        if field.name in (*ITEM_STANDARD, ITEM_INDEX):
            continue
        values = as_attribute(table[field.name])
        if isinstance(values, Codes):
            categorical[field.name] = values
        elif values is not None:
            numeric[field.name] = values
    return numeric, categorical


def as_attribute(column: Any) -> Floats | Codes | None:
    """An Arrow column as numbers (float32[N]), as codes, or nothing where it is neither."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_boolean(kind):
        column, kind = column.cast(pa.int8()), pa.int8()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return in_range(column.cast(pa.float64()).fill_null(np.nan).to_numpy())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        codes = _encode(column)
        return codes if len(codes.names) <= MAX_VALUES else None
    return None


def in_range(numbers: npt.NDArray[np.float64]) -> Floats:
    """float32[N]; what a float32 cannot hold is not known: an infinity would rule every mean."""
    with np.errstate(over="ignore"):
        small = numbers.astype(np.float32)
    small[np.isinf(small)] = np.nan
    return small
