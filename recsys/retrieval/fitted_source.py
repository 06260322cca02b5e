"""What every source shares: its inputs, its params, its files, its scratch space.

A source is fitted on the events before a cut and then answers for any history: nothing about a
user is stored. Shapes: E events, N items, h events of a history, n candidates.
"""

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import (
    Floats,
    History,
    Interactions,
    Ints,
)
from recsys.features.protocols import Mask, Recalled, RecallSource
from recsys.retrieval.history_kernels import Marks, weigh
from recsys.storage.plug_ins import address_of

NEVER: Final = -(2**62)
"""`fit_until` of a source fitted on no event."""
HISTORY_LENGTH: Final = 50
"""Positive events a source reads, the latest; beyond it decay leaves nothing (0.8**50 = 1e-5)."""
FEW_EVENTS: Final = 3
"""Positive events up to which an item has few."""
FORMAT_VERSION: Final = 1
SHIPPED: Final = "recsys."
"""Modules whose sources are found by their names; any other names its class in its file."""

Params = Mapping[str, tuple[float, tuple[float, ...]]]
"""Name → (default, values worth trying)."""


@dataclass(frozen=True)
class SourceInputs:
    """What a fit may read besides the events.

    `catalogue` is the item table in vocabulary order (None: only the texts are known), `texts` the
    N items' texts, `vectors` float32[N, d] their L2-normalised text vectors (None without encoder).
    """

    catalogue: Catalogue | None
    texts: Sequence[str]
    vectors: Floats | None = None


class FittableSource(RecallSource):
    """A recall source that knows how to fit itself; the base of all that we ship."""

    PARAMS: ClassVar[Params] = {}
    n_items: int
    params: dict[str, float]
    logarithmic: ClassVar[bool] = False
    """Whether scores are logarithms of odds, so that their differences and not ratios compare."""
    fusion_weight: float = 1.0
    """Weight of this source's list in the fusion of ranks; 0 leaves it out."""

    def save_arrays(
        self, folder: Path, facts: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        """Write the arrays and the facts that all sources have."""
        shared = {
            "dials": self.params,
            "fit_until": self.fit_until,
            "fusion_weight": self.fusion_weight,
        }
        if not type(self).__module__.startswith(SHIPPED):
            shared["class"] = address_of(type(self))
        save_source(folder, self.name, {**shared, **facts}, arrays)

    def voting(self, facts: Mapping[str, Any]) -> Self:
        """Itself, with the fusion weight that was saved."""
        self.fusion_weight = float(facts["fusion_weight"])
        return self

    @classmethod
    def fit(
        cls,
        interactions: Interactions,
        inputs: SourceInputs,
        params: Mapping[str, float],
        *,
        seed: int,
        workers: int,
    ) -> Self:
        """Fit on all given events with the given params (defaults for those absent).

        Args:
            interactions: events to fit on, all before the cut.
            inputs: catalogue, texts and text vectors.
            params: by name, of `PARAMS`; those absent have their defaults.
            seed: of the draws; the same seed gives the same source.
            workers: threads.
        """
        raise NotImplementedError


def resolve_params(name: str, known: Params, given: Mapping[str, float]) -> dict[str, float]:
    """Defaults overlaid with what is given.

    Raises:
        UsageError: a param the source does not have, or one that is not a finite number ≥ 0.
    """
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UsageError(
            f"source '{name}' has no parameter '{unknown[0]}'",
            where=f"sources.dials.{name}",
            found=unknown[0],
            expected=f"one of {', '.join(sorted(known)) or '(it has none)'}",
            fix="correct the name or leave it out",
        )
    resolved = {key: float(default) for key, (default, _) in known.items()}
    for key, value in given.items():
        if not np.isfinite(value) or value < 0:
            raise UsageError(
                f"param '{key}' of source '{name}' is not usable",
                where=f"sources.dials.{name}.{key}",
                found=value,
                expected="a finite number, at least 0",
                fix="correct the value or leave it out",
            )
        resolved[key] = float(value)
    return resolved


def last_time(interactions: Interactions) -> int:
    """Time of the last event (µs), or `NEVER`."""
    return int(interactions.time.max()) if len(interactions) else NEVER


def positive(interactions: Interactions) -> Interactions:
    """The events with a positive weight, users contiguous, each user's in order of time."""
    order = np.argsort(interactions.user, kind="stable")
    return interactions.where(order[interactions.weight[order] > 0])  # type: ignore[arg-type]


def weight_scale(interactions: Interactions) -> float:
    """Mean weight of the positive events, by which weights are made comparable."""
    weights = interactions.weight[interactions.weight > 0]
    return float(weights.mean()) if len(weights) else 1.0


def support(interactions: Interactions) -> Ints:
    """Positive events of each item, int32[N]."""
    items = interactions.item[interactions.weight > 0]
    return np.bincount(items, minlength=interactions.n_items).astype(np.int32)


def few_events(counts: npt.NDArray[np.integer]) -> Marks:
    """uint8[N]: 1 for items of which so few events are known that behaviour says little."""
    return (counts <= FEW_EVENTS).astype(np.uint8)


def in_chunks(work: Callable[[int, int], None], n: int, workers: int, size: int = 4096) -> None:
    """Run work(first, until) over 0..n in threads; each chunk writes only its own rows."""
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        for _ in pool.map(lambda first: work(first, min(n, first + size)), range(0, n, size)):
            pass


# ---------------------------------------------------------------------------- scratch


class Scratch:
    """Work arrays of one thread; kernels leave `mark` and `place` all zero."""

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items
        self.total = np.zeros(n_items, np.float32)
        self.mark: Marks = np.zeros(n_items, np.uint8)
        self.touched = np.empty(n_items + 1, np.int32)
        self.place = np.zeros(n_items, np.int32)


_local = threading.local()


def scratch(n_items: int) -> Scratch:
    """This thread's work arrays, of at least n_items."""
    space: Scratch | None = getattr(_local, "scratch", None)
    if space is None or space.n_items < n_items:
        space = _local.scratch = Scratch(n_items)
    return space


def weighed(
    history: History, known: Marks, decay: float, scale: float, length: int = HISTORY_LENGTH
) -> tuple[Ints, Floats]:
    """Latest positive events on known items, newest first: (int32[m], float32[m]), m ≤ length.

    Args:
        history: a user's events, oldest first.
        known: uint8[N], 1 for items that the source knows.
        decay: factor for each further step into the past.
        scale: event weight that counts as 1.
        length: events at most.
    """
    items = np.empty(length, np.int32)
    weights = np.empty(length, np.float32)
    count = weigh(
        np.array(history.item, np.int32),
        np.array(history.weight, np.float32),
        known,
        decay,
        scale,
        items,
        weights,
    )
    return items[:count], weights[:count]


def unsure(n: int, columns: int) -> Floats:
    """The answer of a source that cannot say: NaN everywhere."""
    return np.full((n, columns), np.nan, np.float32)


NOTHING: Final = Recalled(np.empty(0, np.int32), np.empty(0, np.float32))


def check_blocked(name: str, blocked: Mask, n_items: int) -> None:
    """The mask must cover the source's items: indexing happens without bounds checks."""
    if len(blocked) < n_items:
        raise ValueError(
            f"blocked mask of source '{name}': found {len(blocked)} items, "
            f"expected at least {n_items}"
        )


# ---------------------------------------------------------------------------- files


def save_source(
    folder: Path, name: str, facts: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Write `source.json` and one npy file per array into an existing folder, synced to disk."""
    for key, array in arrays.items():
        with open(folder / f"{key}.npy", "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    with open(folder / "source.json", "w", encoding="utf-8") as file:
        body = {"format": FORMAT_VERSION, "name": name, "arrays": sorted(arrays), **facts}
        json.dump(body, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())


def read_source(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Read what `save_source` wrote; arrays are memory-mapped, copy on write.

    Raises:
        DataRefused: the folder holds another source, a newer format, or lacks a file.
    """
    try:
        facts = json.loads((folder / "source.json").read_text(encoding="utf-8"))
        if facts["name"] != name or facts["format"] > FORMAT_VERSION:
            raise DataRefused(
                "this folder holds another source",
                where=str(folder),
                found=f"{facts['name']}, format {facts['format']}",
                expected=f"{name}, format up to {FORMAT_VERSION}",
                fix="open the bundle with the version of recsys that wrote it, or train again",
            )
        # 'c' and asarray: a plain writable view, so kernels compile for one type only
        arrays = {
            key: np.asarray(np.load(folder / f"{key}.npy", mmap_mode="c", allow_pickle=False))
            for key in facts["arrays"]
        }
    except (OSError, ValueError, KeyError) as error:
        raise DataRefused(
            f"source '{name}' cannot be read",
            where=str(folder),
            found=error,
            expected="source.json and its arrays",
            fix="train again, or restore the bundle",
        ) from error
    return facts, arrays
