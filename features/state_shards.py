"""A state snapshot in pieces: the world, which every worker needs, and histories and attributes of
persons in shards, of which a worker needs its own.

The pieces are folders of the snapshot's own files, so a world with one shard beside it is a snapshot
again. Shapes: U users of a snapshot, S shards.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.data_schemas.shards import shard_of
from recsys.features.catalogue import Codes
from recsys.features.ids import IdIndex
from recsys.features.ragged import chosen_groups, offsets_of
from recsys.features.store import open_arrays, write_arrays
from recsys.features.user_table import UserTable
from recsys.storage.files import files_below, link_or_copy

WORLD: Final = "world"
USERS: Final = "users"
COLUMNS: Final = tuple(f"history.{name}" for name in ("item", "kind", "time", "weight", "grade"))
OFFSETS: Final = "history.offsets"
CHUNK: Final = 1_000_000
"""Ids hashed at a time; bounds memory."""
_PERSONS: Final = ("users.", "history.", "attributed.", "user.")
"""What names of files about persons begin with."""


def split_state(snapshot: Path, out: Path, shards: int) -> list[Path]:
    """Write the pieces of a snapshot into an existing folder; the world first, then every shard.

    What a piece shares with the snapshot is a further name of its file. One shard holds everybody's files
    as they are.

    Args:
        snapshot: the whole snapshot.
        out: where the folders go.
        shards: how many.
    """
    files = files_below(snapshot)
    world = out / WORLD
    _link(snapshot, world, [f for f in files if not f.startswith(_PERSONS)])
    places = [out / f"shard-{n}" for n in range(shards)]
    if shards == 1:
        _link(snapshot, places[0], [f for f in files if f.startswith(_PERSONS)])
        return [world, *places]
    index, offsets, columns = _histories(snapshot)
    ids, owners = _ids_and_shards(index, shards)
    users = UserTable.open(snapshot)
    attributed = None if users is None else _ids_and_shards(users.ids, shards)
    for n, place in enumerate(places):
        place.mkdir()
        chosen = np.flatnonzero(owners == n)
        cuts, rows = chosen_groups(offsets, chosen)
        _write(place, IdIndex.build(ids.take(pa.array(chosen))), cuts, columns, rows)
        if users is not None and attributed is not None:
            mine = np.flatnonzero(attributed[1] == n)
            UserTable(
                IdIndex.build(attributed[0].take(pa.array(mine))),
                {name: values[mine] for name, values in users.numeric.items()},
                {name: Codes(c.names, c.values[mine]) for name, c in users.categorical.items()},
            ).save(place)
    return [world, *places]


def join_state(world: Path, shards: Sequence[Path], out: Path) -> None:
    """Make a snapshot of the persons of some shards, in an existing folder."""
    _link(world, out, files_below(world))
    if len(shards) == 1:
        _link(shards[0], out, files_below(shards[0]))
        return
    parts = [_histories(shard) for shard in shards]
    ids = pa.concat_arrays([index.all() for index, _, _ in parts])
    sizes = np.concatenate([np.diff(offsets) for _, offsets, _ in parts])
    IdIndex.build(ids).save(out, USERS)
    write_arrays(out, {OFFSETS: offsets_of(sizes)})
    for name in COLUMNS:
        write_arrays(out, {name: np.concatenate([columns[name] for _, _, columns in parts])})
    tables = [table for shard in shards if (table := UserTable.open(shard)) is not None]
    if tables:
        _joined_users(tables).save(out)


def _joined_users(tables: Sequence[UserTable]) -> UserTable:
    """Their shards of one table, which have its columns and its names of values."""
    first = tables[0]
    return UserTable(
        IdIndex.build(pa.concat_arrays([table.ids.all() for table in tables])),
        {name: np.concatenate([t.numeric[name] for t in tables]) for name in first.numeric},
        {
            name: Codes(codes.names, np.concatenate([t.categorical[name].values for t in tables]))
            for name, codes in first.categorical.items()
        },
    )


def _histories(
    folder: Path,
) -> tuple[IdIndex, npt.NDArray[np.int64], dict[str, npt.NDArray[Any]]]:
    columns = open_arrays(folder, [OFFSETS, *COLUMNS])
    return IdIndex.open(folder, USERS), columns.pop(OFFSETS), columns


def _write(
    place: Path,
    index: IdIndex,
    offsets: npt.NDArray[np.int64],
    columns: dict[str, npt.NDArray[Any]],
    rows: npt.NDArray[np.int64],
) -> None:
    index.save(place, USERS)
    write_arrays(place, {OFFSETS: np.asarray(offsets, np.int64)})
    for name, column in columns.items():
        write_arrays(place, {name: column[rows]})


def _ids_and_shards(index: IdIndex, shards: int) -> tuple[Any, npt.NDArray[np.int32]]:
    """(ids, shard int32[U]) of an index."""
    ids = index.all()
    found = np.empty(len(ids), np.int32)
    for low in range(0, len(ids), CHUNK):
        some = ids.slice(low, CHUNK).to_pylist()
        found[low : low + len(some)] = [shard_of(user, shards) for user in some]
    return ids, found


def _link(source: Path, target: Path, files: Sequence[str]) -> None:
    for file in files:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(source / file, target / file)
