"""Stage outputs at rest between two nights: large arrays compressed, what is quickly made again dropped.

A file `x.npy` at rest is `x.npy.zst`: zstd over pieces whose bytes are sorted by their place in the
number, so that equal exponents and leading zeros lie beside each other (a table of neighbours takes
.42 of its bytes, without the sorting .49: measured), behind the width of a number and the SHA-256 of
the file. A dropped output keeps its marker, so that the
night knows its facts and key; its files are made again when somebody reads them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.storage.files import (
    PART,
    atomic_file,
    folder_bytes,
    hash_file,
    write_json,
)
from recsys.storage.stages.identity import MARKER

PACKED: Final = ".zst"
"""Suffix of a compressed file."""
ARRAYS: Final = (".npy", ".npz")
"""Files that are compressed; nothing that holds words is, so that a search finds what it looks for."""
LEAST_BYTES: Final = 100_000
"""Smaller files stay as they are."""
DROPPED: Final = "dropped"
"""In the marker of an output whose files are made again when they are read."""
_PIECE: Final = 1 << 22
"""Bytes that are sorted at once."""
_LEVEL: Final = 3
"""Of zstd; 9 takes four times as long for a twentieth less (measured)."""

Bytes = npt.NDArray[np.uint8]


def packed(file: Path) -> Path:
    """The compressed form of a file."""
    return file.with_name(file.name + PACKED)


def put_to_rest(output: Path, *, drop: bool) -> int:
    """Compress an output's arrays, or drop all of its files; returns the bytes freed.

    A file that has other names (the champion's artifact shares the bytes) costs nothing and stays.
    Cut short, it leaves an output that can be used.
    """
    if drop:
        return _drop(output)
    before = folder_bytes(output)
    for aside in output.rglob(f".*{PART}"):  # of a run that was killed here
        aside.unlink(missing_ok=True)
    for file in sorted(output.rglob("*")):
        if file.is_file() and file.suffix in ARRAYS:
            stat = file.lstat()
            if stat.st_nlink == 1 and stat.st_size >= LEAST_BYTES:
                _pack(file)
    return before - folder_bytes(output)


def wake(output: Path) -> None:
    """Make an output's compressed files whole again.

    Raises:
        OSError, ValueError: one of them is damaged.
    """
    for file in sorted(output.rglob(f"*{PACKED}")):
        whole = file.with_suffix("")
        if not whole.exists():
            _unpack(file, whole)
        file.unlink()


def is_dropped(output: Path) -> bool:
    """Whether an output's files were dropped."""
    try:
        return bool(json.loads((output / MARKER).read_text(encoding="utf-8")).get(DROPPED))
    except (OSError, ValueError, AttributeError):
        return False


def _drop(output: Path) -> int:
    before = folder_bytes(output)
    marker = json.loads((output / MARKER).read_text(encoding="utf-8"))
    # Told first: a whole output that says it was dropped is made again, the other way it is damaged.
    write_json(output / MARKER, marker | {DROPPED: True})
    for file in sorted(output.rglob("*"), reverse=True):
        if file.is_dir():
            file.rmdir()
        elif file != output / MARKER:
            file.unlink()
    return before - folder_bytes(output)


def _pack(file: Path) -> None:
    target = packed(file)
    with (
        atomic_file(target, f"{file.name}, compressed") as aside,
        file.open("rb") as whole,
        aside.open("wb") as raw,
    ):
        width = _width(file)
        codec = pa.Codec("zstd", compression_level=_LEVEL)
        # Frames one after the other are one stream.
        head = width.to_bytes(8, "little") + bytes.fromhex(hash_file(file))
        raw.write(codec.compress(head, asbytes=True))
        for piece in _pieces(whole):
            raw.write(codec.compress(_sorted(piece, width), asbytes=True))
    file.unlink()


def _unpack(file: Path, target: Path) -> None:
    with atomic_file(target) as aside:
        with pa.input_stream(str(file), compression="zstd") as whole, aside.open("wb") as out:
            width, wanted = int.from_bytes(whole.read(8), "little"), whole.read(32).hex()
            for piece in _pieces(whole):
                out.write(_unsorted(piece, width))
        if hash_file(aside) != wanted:
            raise ValueError(f"{file} does not hold what was compressed")


def _pieces(stream: BinaryIO | Any) -> Iterator[Bytes]:
    """Equal pieces of a stream, the last one shorter; a read may give less than was asked."""
    held = bytearray()
    while True:
        more = stream.read(_PIECE - len(held))
        held += more
        if len(held) == _PIECE or (held and not more):
            yield np.frombuffer(bytes(held), np.uint8)
            held.clear()
        if not more:
            return


def _width(file: Path) -> int:
    """Bytes of a number in an array file; 1 where it holds several arrays."""
    if file.suffix != ".npy":
        return 1
    return max(1, int(np.load(file, mmap_mode="r").dtype.itemsize))


def _sorted(piece: Bytes, width: int) -> bytes:
    """First bytes of all numbers, then the second ones …; what is over comes last."""
    whole = len(piece) // width * width
    return piece[:whole].reshape(-1, width).T.tobytes() + piece[whole:].tobytes()


def _unsorted(piece: Bytes, width: int) -> bytes:
    whole = len(piece) // width * width
    return piece[:whole].reshape(width, -1).T.tobytes() + piece[whole:].tobytes()
