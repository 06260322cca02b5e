"""What every source shares: its declaration, the head and foot of a fit, its files, its scratch space.

A source is one file: a class that says what it is (`family`), what can be set of it (`Params`), what it
reads, what a fit costs, when it applies, and how it learns and answers. It is fitted on the events before
a cut and then answers for any history: nothing about a user is stored. Shapes: E events, N items, h
events of a history, n candidates.
"""

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.errors import DataRefused
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import (
    EMPTY_HISTORY,
    Floats,
    Histories,
    History,
    Interactions,
    Ints,
)
from recsys.features.kinds.kind import Family
from recsys.features.on_disk import filled, joined, kept, stretches, taken
from recsys.features.protocols import Mask, Recalled, RecallSource
from recsys.features.ragged import offsets_of_owners
from recsys.retrieval.history_kernels import Marks, weigh
from recsys.retrieval.source_params import SourceParams, resolved, undeclared
from recsys.storage.plug_ins import address_of

if TYPE_CHECKING:
    from recsys.storage.engines.scratch_parts import UnfinishedWork

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
"""`PARAMS` of a user's own source: name → (default, values worth trying)."""
Reads = Literal[
    "events", "order", "times", "creation", "texts", "attributes", "vectors", "own vectors"
]
"""What a fit may read: who acted on what, in which order, when; of the items their dates of creation,
their texts, their other columns, the encoder's vectors of their texts, the vectors they brought."""


@dataclass(frozen=True)
class SourceInputs:
    """What a fit may read besides the events.

    `catalogue` is the item table in vocabulary order (None: only the texts are known), `texts` the
    N items' texts, `vectors` float32[N, d] their L2-normalised text vectors (None without encoder).
    """

    catalogue: Catalogue | None
    texts: Sequence[str]
    vectors: Floats | None = None


class Cost(IntEnum):
    """What a fit takes most of its time for; sources are fitted and tuned in this order."""

    EVENTS = 1
    """A pass over the events."""
    PAIRS = 2
    """Pairs of events of one user."""
    TEXTS = 3
    """What the items' texts have in common."""
    FACTORS = 4
    """Alternating solves for all users and items."""
    MATRIX = 5
    """The inverse of an items × items matrix."""
    NETWORK = 6
    """Steps of a neural network."""
    UNKNOWN = 7
    """A source of a user's own that does not say."""


class Room(NamedTuple):
    """What one fit may take."""

    memory_bytes: float
    seconds: float


@dataclass(frozen=True)
class SourceFit:
    """What one fit is made from."""

    interactions: Interactions
    """All before the cut."""
    inputs: SourceInputs
    params: dict[str, float]
    """Every param of the source."""
    seed: int
    """Of the draws; the same seed gives the same source."""
    workers: int
    """Threads."""
    previous: Any = None
    """The same source as of an earlier cut, to go on from; None to start from scratch."""
    elsewhere: "UnfinishedWork | None" = None
    """Where parts of it are made, of a source that is fitted `in_parts`; None for this process."""
    cut_short: list[str] = field(default_factory=list)
    """What the fit could not finish for lack of time, a sentence each: it writes them here."""


class Afforded(NamedTuple):
    """What the device at hand affords a source beyond its params."""

    settings: Sequence[Mapping[str, float]] = ()
    """Params to try, each over what was chosen before; what is not better is not kept."""
    note: str = ""
    """The plan in one sentence; empty for a source that no device makes larger."""


class FittableSource(RecallSource):
    """A recall source that knows how to fit itself; the base of all that we ship.

    A class with a `name` is a source and declares all of `DECLARED`.
    """

    Params: ClassVar[type[SourceParams]]
    """What can be set of it."""
    family: ClassVar[Family]
    """Group of its features in the report and the explanations."""
    reads: ClassVar[frozenset[Reads]]
    """What a fit reads; the fit is made again when any of it changes."""
    cost: ClassVar[Cost]
    warm: ClassVar[bool] = False
    """Whether a fit can go on from an earlier cut's."""
    in_parts: ClassVar[bool] = False
    """Whether parts of a fit can be made on an engine."""
    always: ClassVar[str] = ""
    """What it cannot be done without for; empty for a source that the night may leave out."""
    content: ClassVar[bool] = False
    """Whether it speaks for items without events."""
    pairs: ClassVar[bool] = False
    """Whether its score counts pairs of items."""
    tells: ClassVar[tuple[str, ...]] = ()
    """Ways to a fact (`recsys.reasons`) that explain why it lists an item."""
    logarithmic: ClassVar[bool] = False
    """Whether scores are logarithms of odds, so that their differences and not ratios compare."""
    n_items: int
    params: dict[str, float]
    fusion_weight: float = 1.0
    """Weight of this source's list in the fusion of ranks; 0 leaves it out."""
    cut_short: tuple[str, ...] = ()
    """What its fit could not finish for lack of time; of a source that was just fitted."""

    def __init__(self, *, params: dict[str, float], fit_until: int, **learned: Any) -> None:
        assert not learned, learned
        self.params, self.fit_until = params, fit_until

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if is_source(cls):
            require_declared(cls)

    def parts(self, events: History, items: Ints, now: int) -> Floats:
        """float32[h, n]: what each of h events alone says for n items; 0 where it says nothing.

        Args:
            events: h events.
            items: int32[n], each once.
            now: the moment, µs.
        """
        out = np.zeros((len(events.item), len(items)), np.float32)
        for row in range(len(out)):
            one = events.each(itemgetter(slice(row, row + 1)))
            out[row] = np.nan_to_num(self.score(one, items, now)[:, 0])
        return out

    @classmethod
    def applies(cls, interactions: Interactions, inputs: SourceInputs, room: Room) -> str | None:
        """Why it is not tried on this data; None where it is.

        Args:
            interactions: events to fit on.
            inputs: catalogue, texts and vectors.
            room: memory and time of a fit.
        """
        raise NotImplementedError

    @classmethod
    def budgeted(cls, interactions: Interactions, seconds: float) -> dict[str, float] | None:
        """Params that follow from the time of all sources of a night; None where it is too short.

        Args:
            interactions: events to fit on.
            seconds: of all fits of all sources.
        """
        return {}

    @classmethod
    def afforded(cls, fit: SourceFit, seconds: float) -> Afforded:
        """What the device affords, measured on it where it is a GPU.

        Args:
            fit: what it would be fitted from.
            seconds: of all fits of all sources.
        """
        return Afforded()

    @classmethod
    def learned(cls, fit: SourceFit) -> dict[str, Any]:
        """What a fit learns, by the names of the constructor's arguments."""
        raise NotImplementedError

    @classmethod
    def fit(
        cls,
        interactions: Interactions,
        inputs: SourceInputs,
        params: Mapping[str, float],
        *,
        seed: int,
        workers: int,
        previous: RecallSource | None = None,
        elsewhere: "UnfinishedWork | None" = None,
    ) -> Self:
        """Fit on all given events with the given params (defaults for those absent).

        Args:
            interactions: events to fit on, all before the cut.
            inputs: catalogue, texts and text vectors.
            params: by name, of `Params`; those absent have their defaults.
            seed: of the draws; the same seed gives the same source.
            workers: threads.
            previous: the fit of an earlier cut; gone on from where the source is `warm`.
            elsewhere: where parts of it are made, where the source is fitted `in_parts`.

        Raises:
            UsageError: a param that it does not have, or one beyond its bounds.
        """
        chosen = resolved(cls.name, cls.Params, params)
        start = previous if cls.warm and isinstance(previous, cls) else None
        apart = elsewhere if cls.in_parts else None
        fit = SourceFit(interactions, inputs, chosen, seed, workers, start, apart)
        source = cls(**cls.learned(fit), params=chosen, fit_until=last_time(interactions))
        source.cut_short = tuple(fit.cut_short)
        return source

    def saved(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Facts and arrays of its own that `opened` reads."""
        raise NotImplementedError

    @classmethod
    def opened(
        cls, facts: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
    ) -> dict[str, Any]:
        """The constructor's arguments from what `saved` gave; the arrays where it says no more."""
        del facts
        return dict(arrays)

    def save(self, folder: Path) -> None:
        """Write its arrays and facts, and those that all sources have, into an existing folder."""
        own, arrays = self.saved()
        facts = {
            "dials": self.params,
            "fit_until": self.fit_until,
            "fusion_weight": self.fusion_weight,
        }
        if not type(self).__module__.startswith(SHIPPED):
            facts["class"] = address_of(type(self))
        save_source(folder, self.name, {**facts, **own}, arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open what `save` wrote."""
        facts, arrays = read_source(folder, cls.name)
        own = cls.opened(facts, arrays)
        source = cls(**own, params=facts["dials"], fit_until=facts["fit_until"])
        source.fusion_weight = float(facts["fusion_weight"])
        return source


DECLARED: Final = ("Params", "family", "reads", "cost", "applies", "learned")
"""What a source says of itself; a class that leaves one out is refused when it is imported."""


def is_source(kind: type[FittableSource]) -> bool:
    """Whether a class is a source, and no base of some."""
    name: object = getattr(kind, "name", "")
    return isinstance(name, str) and bool(name)


def require_declared(kind: type[FittableSource]) -> None:
    """Refuse a source that does not say what everything else goes by.

    Raises:
        TypeError: the class, its file and what it leaves out.
    """
    own = [base for base in kind.__mro__ if base not in FittableSource.__mro__]
    said = {name for base in own for name in vars(base)}
    if "fit" in said:
        said.add("learned")
    missing = [name for name in DECLARED if name not in said]
    if "Params" in said:
        missing += undeclared(kind.Params)
    if missing:
        raise TypeError(
            f"source {address_of(kind)} does not declare {', '.join(missing)}; "
            f"every source declares {', '.join(DECLARED)}"
        )


# ---------------------------------------------------------------------------- when a source applies


def no_pairs(interactions: Interactions) -> str | None:
    """Why nothing can be learned from what goes together; None where it can."""
    counts = np.zeros(interactions.n_users, np.int64)
    for part in stretches(len(interactions), 1 << 22):
        users = interactions.user[part][interactions.weight[part] > 0]
        counts += np.bincount(users, minlength=len(counts))
    if counts.max(initial=0) < 2:
        return "no user has two positive events: nothing goes together"
    if np.count_nonzero(support(interactions)) < 2:
        return "all positive events are of one item"
    return None


def no_texts(inputs: SourceInputs) -> str | None:
    """Why nothing can be learned from texts; None where it can."""
    if not any(len(text.strip()) > 0 for text in inputs.texts):
        return "the items have no text"
    return None


# ---------------------------------------------------------------------------- parts of a fit


def last_time(interactions: Interactions) -> int:
    """Time of the last event (µs), or `NEVER`."""
    return int(interactions.time.max()) if len(interactions) else NEVER


def positive(interactions: Interactions) -> Interactions:
    """The events with a positive weight, users contiguous, each user's in order of time."""
    order = interactions.by_user()
    liked = filled(len(order), np.bool_, lambda part: interactions.weight[order[part]] > 0)
    return interactions.where(taken(order, liked))


def weight_scale(interactions: Interactions) -> float:
    """Mean weight of the positive events, by which weights are made comparable."""
    weights = taken(interactions.weight, interactions.weight > 0)
    return float(weights.mean()) if len(weights) else 1.0


def user_rows(
    events: Interactions, width: int, cells: Callable[[slice], tuple[Ints, Floats]]
) -> Any:
    """A SciPy CSR matrix float32[U, width] of events that stand by user; cells of the same place add up.

    Args:
        events: E events, users contiguous.
        width: columns.
        cells: rows → (column of each, -1 for none; value of each).
    """
    from scipy.sparse import csr_matrix

    offsets = offsets_of_owners(events.user, events.n_users)
    bounds, columns, values = np.zeros(len(offsets), np.int64), [], []
    for users in Histories(offsets, EMPTY_HISTORY).stretches():
        rows = slice(int(offsets[users.start]), int(offsets[users.stop]))
        column, value = cells(rows)
        inside = column >= 0
        owner = events.user[rows][inside] - users.start
        shape = (users.stop - users.start, width)
        some = csr_matrix((value[inside], (owner, column[inside])), shape=shape)
        bounds[users.start + 1 : users.stop + 1] = bounds[users.start] + some.indptr[1:]
        columns.append(kept(some.indices))
        values.append(kept(some.data))
    found = joined(values, np.float32), joined(columns, np.int32)
    return csr_matrix((*found, bounds), shape=(events.n_users, width))


def strengths(events: Interactions, scale: float) -> Floats:
    """float32[E]: square roots of the events' weights over `scale`, so that a pair of average ones counts 1."""
    return filled(
        len(events), np.float32, lambda part: np.sqrt(events.weight[part] / scale, dtype=np.float32)
    )


def met(interactions: Interactions) -> Marks:
    """uint8[N]: 1 for items with a positive event."""
    return (support(interactions) > 0).astype(np.uint8)


def support(interactions: Interactions) -> Ints:
    """Positive events of each item, int32[N]."""
    counts = np.zeros(interactions.n_items, np.int64)
    for part in stretches(len(interactions)):
        items = interactions.item[part][interactions.weight[part] > 0]
        counts += np.bincount(items, minlength=interactions.n_items)
    return counts.astype(np.int32)


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
