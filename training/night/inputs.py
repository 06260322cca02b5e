"""Draining the service's log, validating the tables, and planning the windows."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.meaning import EventMeaning
from recsys.encoder.text import item_texts
from recsys.evaluation.lists import Truth
from recsys.features.draws import at_moments, chance, hash_ids
from recsys.features.interactions import Interactions
from recsys.features.on_disk import stretches
from recsys.features.packed_strings import PackedStrings, pack
from recsys.features.user_table import UserTable
from recsys.ingestion.tables.ingest import ITEMS_FILE, USERS_FILE
from recsys.ingestion.tables.load import Tables
from recsys.storage.files import hash_file, hash_json
from recsys.storage.stages import StageResult
from recsys.training.windows import Windows

VOCABULARY = ITEMS_FILE
TABLES = "tables"
BASIS = tuple(
    f"recsys.features.{name}"
    for name in (
        *("catalogue", "compiled", "draws", "ids", "impressions"),
        *("interactions", "on_disk", "packed_strings", "ragged", "store", "time_buckets"),
    )
)
"""Code that events and items are read with: it decides every output that is computed."""
SHOWN = tuple(
    f"recsys.evaluation.{name}"
    for name in (
        *("metrics", "off_policy", "popularity_at"),
        *("position_bias", "query_sets", "shown_lists", "uncertainty"),
    )
)
"""Code that shown lists are read and held against what followed with."""
Column = npt.NDArray[Any]
NOT_YET: Final = np.iinfo(np.int64).max
"""Time of the first event of an item that has none."""


def tables_folder(stage: StageResult[Any]) -> Path:
    """Opens a stage that left tables."""
    return stage.folder / TABLES


@dataclass(frozen=True)
class Inputs:
    """What a night learns from."""

    stage: StageResult[Path]
    tables: Tables
    interactions: Interactions
    """All accepted events before the night's `until`; graded so that something is positive."""
    known: Interactions
    """All accepted events, those after `until` too: what the online state holds, which is read as of
    the moment asked for."""
    meaning: EventMeaning
    """What those events mean, and those that a service will see after them."""
    windows: Windows
    config: RecsysConfig
    earlier: "Inputs | None" = None
    """The same up to the first tested cut, over the items and users as they were when the windows were
    planned: what the ranker's windows are learned from. None where nothing has changed since."""

    @property
    def tables_folder(self) -> Path:
        return self.stage.product

    @property
    def key(self) -> str:
        return hash_json([self.stage.key, self.windows.end])

    @cached_property
    def user_hashes(self) -> npt.NDArray[np.uint64]:
        """uint64[U] of the users' ids: what draws follow."""
        return hash_ids(self.interactions.user_ids)

    @cached_property
    def item_hashes(self) -> npt.NDArray[np.uint64]:
        """uint64[N] of the items' ids."""
        return hash_ids(self.tables.catalogue.item_ids)

    def names_of(self, moments: Truth) -> npt.NDArray[np.uint64]:
        """uint64[M]: each moment by its user's id and its time."""
        return at_moments(self.user_hashes[moments.user], moments.time)

    def chances(self, moments: Truth, purpose: str) -> npt.NDArray[np.float64]:
        """float64[M] in [0, 1) of moments, by the users' ids and the times."""
        return chance(self.names_of(moments), purpose, self.config.seed)

    @cached_property
    def first_acted_on(self) -> npt.NDArray[np.int64]:
        """int64[N]: time of each item's first event, µs; `NOT_YET` for an item without any."""
        first = np.full(self.n_items, NOT_YET, np.int64)
        # Of several writes to one place the last stands, which is the earliest event.
        first[self.interactions.item[::-1]] = self.interactions.time[::-1]
        return first

    @property
    def n_items(self) -> int:
        return self.interactions.n_items

    @cached_property
    def _keys(self) -> dict[int, str]:
        return {}

    def key_before(self, now: int) -> str:
        """What identifies everything known strictly before a time: events, lists shown, catalogue,
        users' attributes. Later events do not change it, so what was made of it stays good."""
        if now not in self._keys:
            digest = hashlib.blake2b(digest_size=16)
            users, columns = _events_before(self.interactions, now)
            contexts, shown = self._shown_before(now)
            recorded = None if contexts is None else len(contexts)
            known = [self._attributes_key, self.interactions.kinds, users, recorded]
            digest.update(json.dumps(known).encode())
            _read(digest, self.interactions.user_ids[:users])
            for part in stretches(recorded or 0):
                digest.update(json.dumps(contexts[part].tolist()).encode())
            for column in (*columns, *shown):
                digest.update(column.data)
            self._keys[now] = digest.hexdigest()
        return self._keys[now]

    def _shown_before(self, now: int) -> tuple[Any, list[Column]]:
        """What requests said and the other columns of the lists shown before a time; (None, none)
        where lists are not recorded at all, which is not the same as that none was shown yet."""
        shown = self.tables.impressions
        if shown is None:
            return None, []
        early = shown.before(now)
        assert early.context is not None
        columns: list[Column] = [early.user, early.time, early.offsets, early.items]
        ruled = [] if early.ruled is None or not early.ruled.any() else [early.ruled]
        return early.context, [*columns, early.propensity, *ruled]

    @cached_property
    def attributes(self) -> dict[str, str]:
        """SHA-256 by file of what is known of items and, where there is any, of users apart from what
        they did."""
        files = [self.tables_folder / name for name in (ITEMS_FILE, USERS_FILE)]
        return {file.name: hash_file(file) for file in files if file.exists()}

    @cached_property
    def _attributes_key(self) -> str:
        return hash_json([self.attributes.get(name) for name in (ITEMS_FILE, USERS_FILE)])

    @cached_property
    def texts(self) -> PackedStrings:
        """One text per item, in vocabulary order."""
        return item_texts(self.tables.catalogue, self.config.encoder.template)

    @cached_property
    def texts_key(self) -> str:
        """What identifies the texts."""
        digest = hashlib.blake2b(digest_size=16)
        _read(digest, self.texts)
        return digest.hexdigest()

    @cached_property
    def own_vectors_key(self) -> str | None:
        """What identifies the vectors that items brought; None where they brought none."""
        vectors = self.tables.catalogue.vectors
        if vectors is None:
            return None
        return hashlib.blake2b(np.ascontiguousarray(vectors).data, digest_size=16).hexdigest()


def _read(digest: Any, strings: PackedStrings) -> None:
    """Let a digest read strings, some at a time."""
    for part in stretches(len(strings)):
        for column in pack(strings[part]):
            digest.update(column.data)


def _events_before(events: Interactions, now: int) -> tuple[int, list[Column]]:
    """How many users they name, and the columns, of all events strictly before a time."""
    count = int(np.searchsorted(events.time, now))
    columns = [
        column[:count]
        for column in (
            events.user,
            events.item,
            events.kind,
            events.time,
            events.value,
            events.weight,
            events.grade,
        )
    ]
    return int(columns[0].max(initial=-1)) + 1, columns


def user_table(tables: Tables) -> UserTable | None:
    """Attributes of users as features read them."""
    return None if tables.users is None else UserTable.from_table(tables.users)
