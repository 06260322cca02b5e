"""Folders of arrays, opened by memory mapping; who writes one does so in `storage.files.atomic_folder`.

Only `.npy` and JSON with sorted keys are written, so equal content gives equal bytes.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def write_arrays(folder: Path, arrays: Mapping[str, Array]) -> None:
    """Write each array as `<name>.npy` into an existing folder."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)


def open_arrays(folder: Path, names: Sequence[str]) -> dict[str, Array]:
    """Map arrays by name. Pages are shared by processes until one writes to them, and such
    writes stay private to it."""
    return {name: _open(folder / f"{name}.npy") for name in names}


def _open(file: Path) -> Array:
    try:
        mapped = np.load(file, mmap_mode="c", allow_pickle=False)
    except ValueError:
        # An empty array cannot be mapped.
        mapped = np.load(file, allow_pickle=False)
    # A plain view: numpy's memmap class costs a Python call on every slice.
    view: Array = np.asarray(mapped)
    return view


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys."""
    file.write_text(
        json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def read_json(file: Path) -> dict[str, Any]:
    """Read what `write_json` wrote."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def grown(array: Array, size: int, fill: float = 0) -> Array:
    """An array of at least `size` rows that starts as `array`; capacity doubles, so that
    appending n rows copies O(n) of them. New rows hold `fill`. Never returns a view of a mapped
    file when it grows."""
    if size <= len(array):
        return array
    bigger = np.full((max(size, 2 * len(array), 16), *array.shape[1:]), fill, array.dtype)
    bigger[: len(array)] = array
    return bigger
