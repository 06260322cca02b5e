"""The search index over item vectors: inverted lists beside them, for catalogues too large to scan.

Built once with the vectors and read by the night and the service alike, so that both find the same
items. Chosen over usearch, faiss and hnswlib because it is all of these at once: deterministic,
mapped into memory and shared by workers, and filtered inside the search (see `recsys.retrieval.ann`).
"""

from pathlib import Path
from typing import Final

import numpy as np

from recsys.encoder.tower import Neighbours
from recsys.features.interactions import Floats, Ints
from recsys.features.protocols import Mask
from recsys.retrieval.ann import LISTS_FROM, InvertedLists, scan

FOLDER: Final = "lists"
SEED: Final = 1


def write_index(folder: Path, vectors: Floats, only: Ints | None = None) -> None:
    """Build the index over vectors float32[n, d] into `folder`/lists; nothing where they are few. Items
    beside `only` (int32[k], ascending) are not in it, where that is given."""
    if len(vectors) < LISTS_FROM:
        return
    place = folder / FOLDER
    place.mkdir()
    for name, array in InvertedLists.build(np.asarray(vectors), SEED, only).arrays().items():
        np.save(place / f"{name}.npy", array)


def open_index(folder: Path, vectors: Floats) -> Neighbours | None:
    """The index over vectors float32[n, d] that `write_index` left in `folder`, memory-mapped; None where
    it left none."""
    # Plain views: numpy's memmap class costs a Python call on every slice.
    arrays = {f.stem: np.asarray(np.load(f, "r")) for f in (folder / FOLDER).glob("*.npy")}
    lists = InvertedLists.of(arrays)
    if lists is None:
        return None
    rows, known = np.asarray(vectors), np.ones(len(vectors), np.uint8)

    def find(vector: Floats, limit: int, blocked: Mask) -> Ints:
        return scan(rows, vector, known, blocked, limit, lists).items

    return find
