"""The interest of a user in an item: attention over the history's text vectors.

The user vector is a weighted mean of the last N history items' vectors, projected and normalised;
the weights come from an attention in which the last item asks and the event's type, grade, weight,
place and age enter as biases. A candidate's score is the cosine of user and item vector.
Nothing of a user is stored: the vector is made from the history at the moment of asking. Where it was found to
help, a history's items ask in the company of what was acted on beside them (`recsys.encoder.company`).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.errors import RecsysError
from recsys.encoder.company import Company
from recsys.encoder.pretrained import read_json
from recsys.encoder.tower_kernels import (
    attend,
    best_of_few,
    scan,
    score_items,
    worth_a_look,
)
from recsys.features.interactions import (
    SECOND,
    Floats,
    History,
    Ints,
    Longs,
)
from recsys.features.protocols import Mask, Recalled

TOWER: Final = "tower.safetensors"
TOWER_JSON: Final = "tower.json"
GRADES: Final = 5
"""Places of the grade tables: -1, 0, 1, 2, 3 and above."""
AGES: Final = 24
"""Places of the age table: powers of two of minutes, up to 16 years."""
RANK: Final = 32
"""Rank of the attention's bilinear form (assumed; the parameter count follows it)."""
UNFITTED: Final = -(2**62)
_MINUTE: Final = 60 * SECOND

Neighbours = Callable[[Floats, int, Mask], Ints]
"""(user vector float32 [d], how many, blocked uint8 [>= n]) → indices of items that are not blocked,
nearest first; an index for large catalogues."""


def grade_place(grade: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Place of a label grade in the grade tables."""
    return np.clip(grade.astype(np.int64), -1, GRADES - 2) + 1


def age_place(now: int, time: Longs) -> npt.NDArray[np.int64]:
    """Place of an event's age at `now` (µs) in the age table."""
    minutes = np.maximum(now - time, 0) // _MINUTE
    return np.minimum(np.log2(1.0 + minutes), AGES - 1).astype(np.int64)


@dataclass(frozen=True)
class Tower:
    """Weights of the user tower; d dimensions, N places, K kinds of event."""

    query: Floats
    """[d, r]: what the last item asks."""
    key: Floats
    """[d, r]: what each item answers."""
    project: Floats
    """[d, d]: from history space to candidate space."""
    kind_bias: Floats
    """[K + 1]: by code of the event type; the last place for types the fit did not know."""
    grade_bias: Floats
    """[GRADES]"""
    grade_gate: Floats
    """[GRADES]: how far an event counts for its item; below zero, against it."""
    position_bias: Floats
    """[N]: place 0 is the most recent event."""
    age_bias: Floats
    """[AGES]"""
    weight_slope: Floats
    """[1]: times log(1 + collaborative weight)."""
    calibration: Floats
    """[2]: probability = sigmoid(c0 · score + c1)."""

    @classmethod
    def plain(cls, dimension: int, places: int, kinds: int, decay: float = 0.8) -> Self:
        """A sensible tower without fitting: a mean of the history, decayed by place."""
        eye = np.eye(dimension, dtype=np.float32)
        return cls(
            query=np.zeros((dimension, RANK), np.float32),
            key=np.zeros((dimension, RANK), np.float32),
            project=eye,
            kind_bias=np.zeros(kinds + 1, np.float32),
            grade_bias=np.zeros(GRADES, np.float32),
            grade_gate=np.array([0.0, 0.3] + [1.0] * (GRADES - 2), np.float32),
            position_bias=(np.log(decay) * np.arange(places)).astype(np.float32),
            age_bias=np.zeros(AGES, np.float32),
            weight_slope=np.zeros(1, np.float32),
            calibration=np.array([4.0, -1.0], np.float32),
        )

    def save(self, folder: Path) -> None:
        """Write tower.safetensors and tower.json."""
        from safetensors.numpy import save_file

        arrays = {f.name: np.ascontiguousarray(getattr(self, f.name)) for f in fields(self)}
        save_file(arrays, folder / TOWER)
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        (folder / TOWER_JSON).write_text(json.dumps(shapes, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            RecsysError: a file is missing, damaged, or its tensors do not fit tower.json.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        shapes = read_json(folder / TOWER_JSON)
        try:
            arrays = load_file(folder / TOWER)
        except (OSError, SafetensorError) as error:
            raise _bad_tower(folder, str(error), "a whole safetensors file") from None
        found = {name: list(array.shape) for name, array in arrays.items()}
        if found != shapes or set(found) != {f.name for f in fields(cls)}:
            raise _bad_tower(folder, found, shapes)
        return cls(**arrays)

    @property
    def places(self) -> int:
        """History items attended to."""
        return len(self.position_bias)

    def aligned(self, known: Sequence[str], kinds: Sequence[str], places: int) -> Self:
        """The same tower for other numbers of event types and another length of history.

        `known` are the event types in this tower's numbering, `kinds` those in the new one; a type
        that it did not know is treated as unknown types are, and a place further back than it
        looked as its last one.
        """
        old = {name: code for code, name in enumerate(known) if code < len(self.kind_bias) - 1}
        codes = [old.get(name, -1) for name in kinds]
        place = np.minimum(np.arange(places), self.places - 1)
        return replace(
            self,
            kind_bias=self.kind_bias[[*codes, -1]],
            position_bias=self.position_bias[place],
        )

    def bias_and_gate(self, history: History, now: int) -> tuple[Floats, Floats]:
        """Attention bias and gate, float32 [h] each, of a history of at most N events."""
        h = len(history.item)
        kind = np.where(
            (history.kind >= 0) & (history.kind < len(self.kind_bias) - 1), history.kind, -1
        )
        grade = grade_place(history.grade)
        bias = (
            self.kind_bias[kind]
            + self.grade_bias[grade]
            + self.position_bias[:h][::-1]
            + self.age_bias[age_place(now, history.time)]
            + self.weight_slope[0] * np.log1p(np.maximum(history.weight, np.float32(0.0)))
        )
        return bias.astype(np.float32), self.grade_gate[grade]


def _bad_tower(folder: Path, found: object, expected: object) -> RecsysError:
    return RecsysError(
        "the user tower cannot be read",
        where=str(folder / TOWER),
        found=found,
        expected=expected,
        fix="train the encoder again, or restore the bundle",
    )


def _events(history: History, rows: npt.NDArray[np.integer]) -> History:
    """Some events of a history."""
    return History(
        history.item[rows],
        history.kind[rows],
        history.time[rows],
        history.weight[rows],
        history.grade[rows],
    )


class _User(NamedTuple):
    """A history, read: user vector [d], the items not disliked [h], all items and their attention."""

    vector: Floats
    liked: Ints
    items: Ints
    attention: Floats


class _Codes(NamedTuple):
    """Item vectors in 8 bits, to find the few worth an exact look."""

    codes: npt.NDArray[np.int8]
    scale: Floats
    error: float
    """Largest length of (vector - code); bounds the error of any cosine."""


@dataclass(frozen=True)
class InterestSource:
    """Score and recall source `text`: the fine-tuned encoder's view of a user's interest."""

    tower: Tower
    vectors: Floats
    """Unit vectors [n, d] of the catalogue; may be memory-mapped."""
    fit_until: int
    extra: Floats
    """Unit vectors of the items appended behind the catalogue."""
    codes: _Codes | None = None
    neighbours: Neighbours | None = None
    company: Company | None = None
    """What was acted on beside the items of a history, with which these ask."""
    name: str = "text"
    columns: tuple[str, ...] = (
        "score",
        "probability",
        "last",
        "best",
        "mean",
        "attended",
        "short",
    )
    content: ClassVar[bool] = True
    """It speaks for items without events."""
    tells: ClassVar[tuple[str, ...]] = ("near",)
    """Way to a fact that explains why it lists an item."""

    @classmethod
    def open(
        cls,
        encoder_dir: Path,
        vectors: Floats,
        fit_until: int,
        *,
        neighbours: Neighbours | None = None,
    ) -> Self:
        """The tower of an encoder folder over a catalogue's vectors float32 [n, d].

        With `neighbours` (an index over the same vectors) recall asks it instead of looking at
        every item; that pays beyond some 100,000 items.

        Raises:
            RecsysError: the tower is damaged, or the vectors are another encoder's.
        """
        source = cls.of(Tower.load(encoder_dir), vectors, fit_until, neighbours)
        return replace(source, company=Company.load(encoder_dir))

    @classmethod
    def of(
        cls, tower: Tower, vectors: Floats, fit_until: int, neighbours: Neighbours | None = None
    ) -> Self:
        """The same with a tower that is at hand."""
        d = len(tower.project)
        if vectors.ndim != 2 or vectors.shape[1] != d:
            raise RecsysError(
                "the item vectors are not this encoder's",
                where="item vectors",
                found=f"shape {vectors.shape}",
                expected=f"(items, {d})",
                fix="encode the items with this encoder",
            )
        codes = None if neighbours is not None else _encode_codes(vectors)
        return cls(tower, vectors, fit_until, np.empty((0, d), np.float32), codes, neighbours)

    def with_extra(self, vectors: Floats) -> Self:
        """The same source with k more items float32 [k, d] behind the catalogue's.

        Replaces extras given before; the catalogue's arrays are shared.
        """
        rows = np.ascontiguousarray(vectors, np.float32).reshape(-1, self.vectors.shape[1])
        return replace(self, extra=rows)

    @property
    def n_items(self) -> int:
        return len(self.vectors) + len(self.extra)

    def rows(self, items: Ints) -> Floats:
        """Vectors [n, d] of known items."""
        m = len(self.vectors)
        old = items < m
        if old.all():
            found: Floats = self.vectors[items]
            return found
        rows = np.empty((len(items), self.vectors.shape[1]), np.float32)
        rows[old] = self.vectors[items[old]]
        if len(self.extra):
            rows[~old] = self.extra[items[~old] - m]
        return rows

    def _past(self, history: History, now: int) -> History:
        """The events that are read: the last few before `now` on known items."""
        late = history.last(self.tower.places)
        past = len(late.item) > 0 and late.time[-1] < now
        if past and late.item.min() >= 0 and late.item.max() < self.n_items:
            return late  # as nearly always, and without a look at the rest
        h = int(np.searchsorted(history.time, now, "left"))
        known = (history.item[:h] >= 0) & (history.item[:h] < self.n_items)
        return _events(history, np.flatnonzero(known)[-self.tower.places :])

    def _read(self, history: History, now: int) -> _User | None:
        """The user at `now`; None where nothing is known of what they like."""
        past = self._past(history, now)
        liked = past.grade >= 0
        if not liked.any():
            return None
        rows = self.rows(past.item)
        if self.company is not None:
            rows = self.company.asking(rows, past.item, self.vectors)
        bias, gate = self.tower.bias_and_gate(past, now)
        vector, attention = attend(
            rows, self.tower.query, self.tower.key, bias, gate, self.tower.project
        )
        return _User(vector, past.item[liked], past.item, attention)

    def asked(self, history: History, now: int) -> "AskedInterest":
        """A history read, to be asked more than once."""
        return AskedInterest(self, self._read(history, now))

    def moment_key(self, history: History, now: int) -> bytes:
        """What of the moment the answers depend on: how old each event is, as the tower sees it."""
        past = self._past(history, now)
        return age_place(now, past.time).tobytes()

    def score(self, history: History, items: Ints, now: int) -> Floats:
        """float32 [n, 7]: cosine with the user vector, its calibrated probability, and the cosine
        with history items that were not disliked: the last, the nearest, their mean, their mean where
        each speaks the louder the nearer it is to the candidate, and the mean of the latest three.

        The probability answers: shown this item and one drawn at random by popularity, is this
        the one the user acts on? NaN for an unknown item or a history without a known liked item.
        """
        return self.asked(history, now).score(items)

    def attention(self, history: History, now: int) -> Recalled:
        """History items and their share of attention, largest first; for explanations."""
        user = self._read(history, now)
        if user is None:
            return Recalled(np.empty(0, np.int32), np.empty(0, np.float32))
        order = np.argsort(-user.attention, kind="stable")
        return Recalled(user.items[order], user.attention[order])

    def recall(self, history: History, limit: int, now: int, blocked: Mask) -> Recalled:
        """At most `limit` items with the largest cosine to the user vector, best first."""
        return self.asked(history, now).recall_each([(limit, blocked)])[0]

    def nearest(self, vector: Floats, asks: Sequence[tuple[int, Mask]]) -> list[Recalled]:
        """At most `limit` items with the largest cosine to a vector, best first, for each (limit,
        blocked); the catalogue is looked at once."""
        near = self._looked_at(vector)
        return [self._nearest(vector, near, limit, blocked) for limit, blocked in asks]

    def _nearest(self, vector: Floats, near: Floats | None, limit: int, blocked: Mask) -> Recalled:
        if limit < 1:
            return Recalled(np.empty(0, np.int32), np.empty(0, np.float32))
        items = self._near(vector, near, limit, blocked)
        size = min(limit, len(items))
        found, scores = np.empty(size, np.int32), np.empty(size, np.float32)
        best_of_few(vector, self.vectors, self.extra, items, found, scores)
        return Recalled(found, scores)

    def similar(self, items: Ints, limit: int, blocked: Mask) -> Recalled:
        """At most `limit` items nearest in text to a few, themselves excluded, best first.

        Of several items the mean direction is taken; scores are cosines with it. Items whose text
        was not encoded have no direction, and none is near them.
        """
        middle = self.rows(items[items < self.n_items]).sum(axis=0)
        length = np.linalg.norm(middle)
        if not length > 0.0:
            return Recalled(np.empty(0, np.int32), np.empty(0, np.float32))
        vector = middle / length
        found = self.nearest(vector, [(limit + len(items), blocked)])[0]
        others = np.flatnonzero(~np.isin(found.items, items))[:limit]
        return Recalled(found.items[others], found.scores[others])

    def _looked_at(self, vector: Floats) -> Floats | None:
        """float32[m]: about the cosine of each of the catalogue's items with a vector; None where an
        index finds the near ones."""
        if self.neighbours is not None:
            return None
        assert self.codes is not None
        near = np.empty(len(self.vectors), np.float32)
        scan(vector, self.codes.codes, self.codes.scale, near)
        return near

    def _near(self, vector: Floats, near: Floats | None, limit: int, blocked: Mask) -> Ints:
        """A few items, among them the `limit` nearest that are not blocked; `near` is what
        `_looked_at` gave."""
        m = len(self.vectors)
        extra = np.arange(m, self.n_items, dtype=np.int32)
        extra = extra[blocked[m : self.n_items] == 0] if len(extra) else extra
        if near is None:
            assert self.neighbours is not None
            found = self.neighbours(vector, limit, blocked)
            return np.concatenate([found.astype(np.int32), extra])
        assert self.codes is not None
        # No item outside this margin can be among the exact best.
        few = worth_a_look(near, blocked, limit, 2.0 * self.codes.error)
        return np.concatenate([few, extra]) if len(extra) else few

    def save(self, folder: Path) -> None:
        """Write tower, vectors and source.json into an existing empty folder."""
        self.tower.save(folder)
        if self.company is not None:
            self.company.save(folder)
        np.save(folder / "vectors.npy", self.vectors)
        content = {"name": self.name, "fit_until": self.fit_until}
        (folder / "source.json").write_text(json.dumps(content) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open what `save` wrote; vectors are memory-mapped."""
        content = read_json(folder / "source.json")
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        return cls.open(folder, vectors, int(content["fit_until"]))


class AskedInterest(NamedTuple):
    """A history, read by the tower, before a catalogue's vectors."""

    source: InterestSource
    user: _User | None

    def score(self, items: Ints) -> Floats:
        """As `InterestSource.score`."""
        out = np.full((len(items), len(self.source.columns)), np.nan, np.float32)
        if self.user is None:
            return out
        source, user = self.source, self.user
        raw = np.empty((len(items), 6), np.float32)
        liked = source.rows(user.liked)
        wanted = np.ascontiguousarray(items, np.int32)
        score_items(user.vector, liked, source.vectors, source.extra, wanted, raw)
        c0, c1 = source.tower.calibration
        out[:, 0] = raw[:, 0]
        out[:, 1] = 1.0 / (1.0 + np.exp(-(c0 * raw[:, 0] + c1)))
        out[:, 2:] = raw[:, 1:]
        return out

    def recall_each(self, asks: Sequence[tuple[int, Mask]]) -> list[Recalled]:
        """`InterestSource.recall` for each (limit, blocked)."""
        if self.user is None:
            return [Recalled(np.empty(0, np.int32), np.empty(0, np.float32)) for _ in asks]
        return self.source.nearest(self.user.vector, asks)


def _encode_codes(vectors: Floats) -> _Codes:
    """8-bit codes of unit vectors [n, d], with a scale per item."""
    codes = np.empty(vectors.shape, np.int8)
    scale = np.empty(len(vectors), np.float32)
    error = 0.0
    for start in range(0, len(vectors), 8192):
        part = np.asarray(vectors[start : start + 8192])
        step = np.maximum(np.abs(part).max(axis=1, initial=0.0), 1e-12) / 127.0
        rounded = np.rint(part / step[:, None])
        codes[start : start + len(part)] = rounded
        scale[start : start + len(part)] = step
        rest = np.linalg.norm(part - rounded * step[:, None], axis=1)
        error = max(error, float(rest.max(initial=0.0)))
    return _Codes(codes, scale, error * 1.001 + 1e-6)
