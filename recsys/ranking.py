"""The ranking path: one released model over one online state, asked one user at a time.

resolve → recall → features → ranker → rules → explain. Batch recommendation and the service ask
the same `Runtime`; offline evaluation runs the same recall, features and ranker on moments of the
past. Shapes: N items of the vocabulary, n candidates, F features, d dimensions of a vector.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from data_schemas import columns as c
from data_schemas.errors import RecsysError
from features.clock import microseconds
from features.feature_set import FeatureSet
from features.interactions import Floats, History, Ints
from features.moment import Moment
from features.protocols import Mask, ScoreSource
from features.state import LogRecord, OnlineState
from recsys.asking import Answer, Ask
from recsys.bundle import Bundle, open_bundle
from recsys.encoder.runtime import TextEncoder
from recsys.encoder.text import item_text
from recsys.encoder.tower import InterestSource
from recsys.explain import Explainer
from recsys.ranker import Ranker
from recsys.recall.candidates import RecallStage
from recsys.recall.registry import load_source
from recsys.rules import allowed_by, block, diversify

if TYPE_CHECKING:
    import pandas as pd

TEXT = "text"
ENCODE_AT_ONCE = 32
"""New texts encoded in one fold of the log; the others wait for the next (measured: some 5 ms
each on one core, so that a fold never holds requests up for long)."""
SIMILAR_TITLES = 20
FALLBACKS = ("popular", "recent")
"""Sources that fill a list which personal recall left short, in order."""


class Runtime:
    """A bundle's models over an online state. One per worker and version; calls come one at a time.

    Items of the state beyond the bundle's are new to it: their texts are encoded as they come, and
    they compete by text, attributes and counters.
    """

    def __init__(
        self, bundle: Bundle, state: OnlineState, *, version: str, snapshot: str = ""
    ) -> None:
        """Use `open`."""
        self.version = version
        self.snapshot = snapshot
        """Name of the folder that the state was opened from."""
        self.bundle = bundle
        self.state = state
        self.features = FeatureSet.from_json(bundle.features)
        self.ranker = Ranker.load(bundle.ranker)
        self.ranker.check_features(self.features.columns)
        self.sources: dict[str, ScoreSource] = open_sources(bundle)
        self.explainer = Explainer(self.features, self.ranker)
        self._lock = threading.RLock()
        self._encoder: TextEncoder | None = None
        self._encoder_lost = bundle.encoder is None
        self._texts: dict[str, Floats] = {}
        self._extra: list[Floats | None] = []
        self._waiting = 0
        self._recall = self._stage(self.sources)
        self._mask = np.zeros(0, np.uint8)
        self.encode_new(ENCODE_AT_ONCE)

    @classmethod
    def open(cls, bundle_dir: Path, state_dir: Path, *, version: str) -> "Runtime":
        """Open a bundle and a state snapshot; arrays are mapped, nothing is computed.

        Raises:
            RecsysError: a part is missing, damaged or of another format.
        """
        state = OnlineState.open(state_dir)
        return cls(open_bundle(bundle_dir), state, version=version, snapshot=state_dir.name)

    # -- the state ------------------------------------------------------------------------------

    @property
    def log_position(self) -> int:
        """Position of the last log record folded in."""
        return self.state.log_position

    @property
    def data_end(self) -> int:
        """End of the data the bundle was released with, µs."""
        return self.state.last_time()

    def apply(self, records: Sequence[LogRecord]) -> None:
        """Fold log records into the state; texts of new items are encoded, a few per call."""
        with self._lock:
            self.state.apply(records)
            self.encode_new(ENCODE_AT_ONCE)

    @property
    def recall(self) -> RecallStage:
        """The recall stage as of the items encoded so far."""
        return self._recall

    def encode_new(self, limit: int) -> int:
        """Encode up to `limit` items that are new to the bundle; how many are still waiting."""
        known, total = self.bundle.n_items, self.state.catalogue.n_items
        self._extra += [None] * (total - known - len(self._extra))
        waiting = [place for place, vector in enumerate(self._extra) if vector is None]
        self._waiting = max(0, len(waiting) - limit)
        if not waiting:
            return 0
        for place in waiting[:limit]:
            self._extra[place] = self._vector_of(self.state.catalogue.fields(known + place))
        self._recall = self._stage(self._with_extra(self._extra))
        return self._waiting

    def prepare(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Encode texts ahead of the ranking that will need them."""
        for item in items:
            self._vector_of(item)

    def _vector_of(self, item: Mapping[str, Any]) -> Floats:
        """float32[d] of an item's text; NaN where it cannot be encoded."""
        text = self._text_of(item)
        if text not in self._texts:
            encoder = self._text_encoder()
            if encoder is None or not text:
                return np.full(self._dimension, np.nan, np.float32)
            if len(self._texts) > 10_000:
                self._texts.clear()
            self._texts[text] = encoder.encode([text])[0]
        return self._texts[text]

    def _text_of(self, item: Mapping[str, Any]) -> str:
        template = str(self.bundle.facts["template"])
        return item_text(
            template,
            item.get(c.TITLE) or "",
            item.get(c.TAGS) or [],
            item.get(c.CATEGORY) or "",
            item.get(c.DESCRIPTION) or "",
        )

    def _text_encoder(self) -> TextEncoder | None:
        if self._encoder is None and not self._encoder_lost:
            assert self.bundle.encoder is not None
            try:
                self._encoder = TextEncoder.open(self.bundle.encoder)
            except RecsysError:
                self._encoder_lost = True
        return self._encoder

    @property
    def _dimension(self) -> int:
        vectors = self.bundle.vectors()
        return 0 if vectors is None else int(vectors.shape[1])

    def _with_extra(self, extra: Sequence[Floats | None]) -> dict[str, ScoreSource]:
        """The sources, with the text source knowing the items behind the bundle's."""
        source: object = self.sources.get(TEXT)
        if not isinstance(source, InterestSource) or not extra:
            return self.sources
        unknown = np.full(self._dimension, np.nan, np.float32)
        rows = np.stack([unknown if vector is None else vector for vector in extra])
        extended = source.with_extra(np.nan_to_num(rows))
        return self.sources | {TEXT: cast(ScoreSource, extended)}

    def _stage(self, sources: Mapping[str, ScoreSource]) -> RecallStage:
        facts = self.bundle.facts
        return RecallStage(
            sources, int(facts["depth"]), int(facts["candidates"]), facts["recipe"]["weights"]
        )

    # -- ranking --------------------------------------------------------------------------------

    def answer(self, ask: Ask) -> Answer:
        """Rank the asked items, or recommend from the whole catalogue.

        Unknown users and items are no errors: see `Answer.unknown` and `Answer.degraded`.
        """
        with self._lock, self._lent(ask.new_items):
            return self._answer(ask)

    def signals(self, ask: Ask, history: History, items: Ints) -> dict[str, Floats]:
        """What recall says of some items for a question and a history, as `answer` reads it."""
        with self._lock, self._blocked(ask, history) as mask:
            return self._recall.signals_for(history, items, ask.now, mask)

    def _answer(self, ask: Ask) -> Answer:
        steps = _Steps()
        history = self._history(ask)
        items, unknown = self._asked_items(ask)
        steps.done("resolve")
        with self._blocked(ask, history) as mask:
            items, signals = self._candidates(ask, history, items, mask)
        steps.done("recall")
        moment = Moment(
            ask.now,
            history,
            items,
            signals,
            self.state,
            self.state.catalogue,
            self.state.user_attributes(ask.user_id),
            ask.context,
        )
        x = self.features.online(moment)
        steps.done("features")
        score = self.ranker.score(x)
        steps.done("ranker")
        order = self._ordered(ask, items, score)
        steps.done("rules")
        answer = Answer(
            [self.state.catalogue.id_of(int(i)) for i in items[order]],
            score[order].tolist(),
            unknown,
            self._degraded(ask),
            features=x[order],
            snapshot=self.snapshot,
            waiting=self._waiting,
        )
        self._explain(ask, answer, x, items, order, history)
        steps.done("explain")
        answer.steps_ms = steps.times
        return answer

    def _history(self, ask: Ask) -> History:
        """The user's stored events before the moment, extended by those sent along."""
        stored = self.state.history(ask.user_id, ask.now)
        if not ask.history:
            return stored
        return _joined(stored, self._sent_history(ask)).before(ask.now)

    def _sent_history(self, ask: Ask) -> History:
        """Inline events on known items, in order of time; those without one are just before now."""
        rows = []
        given = list(ask.history or ())
        for place, event in enumerate(given):
            item = self.state.catalogue.index_of(str(event[c.ITEM_ID]))
            if item < 0:
                continue
            at = event.get(c.TIMESTAMP)
            when = ask.now - (len(given) - place) if at is None else microseconds(at)
            value = event.get(c.VALUE)
            name = str(event.get(c.EVENT_TYPE) or (self.state.kinds or ["click"])[0])
            rows.append((item, name, when, np.nan if value is None else float(value)))
        rows.sort(key=lambda row: row[2])
        names = sorted({row[1] for row in rows})
        codes = np.array([names.index(row[1]) for row in rows], np.int16)
        values = np.array([row[3] for row in rows], np.float64)
        weight, grade = self.state.meaning.of(names, codes, values)
        return History(
            np.array([row[0] for row in rows], np.int32),
            np.array([self.state.kind_code(row[1]) for row in rows], np.int16),
            np.array([row[2] for row in rows], np.int64),
            weight,
            grade,
        )

    def _asked_items(self, ask: Ask) -> tuple[Ints | None, list[str]]:
        """Indices of the asked items and the ids nobody knows; None to recommend."""
        if ask.items is None:
            return None, []
        found = self.state.catalogue.indices_of(list(ask.items))
        unknown = [name for name, index in zip(ask.items, found, strict=True) if index < 0]
        return np.ascontiguousarray(found[found >= 0]), unknown

    @contextmanager
    def _blocked(self, ask: Ask, history: History) -> Iterator[Mask]:
        """The mask of items that must not be recommended, uint8[N]."""
        catalogue = self.state.catalogue
        mask = self._mask_like(catalogue.blocked)
        if ask.items is None:
            if not ask.keep_seen:
                mask[history.item] = 1
            if ask.exclude:
                block(mask, catalogue.indices_of(list(ask.exclude)))
            if ask.filters:
                mask[~allowed_by(catalogue, ask.filters)] = 1
        # An item that came after the moment asked for takes nobody's place in a list of then.
        late = slice(self.bundle.n_items, catalogue.n_items)
        mask[late][catalogue.created_at[late] >= ask.now] = 1
        # Lent items exist for this request only; they are ranked, never recalled.
        if ask.new_items:
            mask[catalogue.n_items - len(self._lent_ids) :] = 1
        yield mask

    def _mask_like(self, blocked: Mask) -> Mask:
        if len(self._mask) != len(blocked):
            self._mask = np.empty(len(blocked), np.uint8)
        np.copyto(self._mask, blocked)
        return self._mask

    def _candidates(
        self, ask: Ask, history: History, items: Ints | None, mask: Mask
    ) -> tuple[Ints, Mapping[str, Floats]]:
        recall = self._recall
        if items is not None:
            return items, recall.signals_for(history, items, ask.now, mask)
        found = recall.candidates(history, ask.now, mask)
        if len(found.items) >= ask.k:
            return found.items, found.signals
        # Personal recall was short: fill up, so that a list has k items while the catalogue does.
        extended = self._filled(found.items, history, ask, mask)
        return extended, recall.signals_for(history, extended, ask.now, mask)

    def _filled(self, items: Ints, history: History, ask: Ask, mask: Mask) -> Ints:
        lists = [items]
        for name in FALLBACKS:
            source = self._recall.proposing.get(name)
            if source is not None:
                lists.append(source.recall(history, ask.k + len(items), ask.now, mask).items)
        lists.append(np.flatnonzero(mask == 0)[: ask.k + len(items)].astype(np.int32))
        every = np.concatenate(lists)
        _, first = np.unique(every, return_index=True)
        return np.ascontiguousarray(every[np.sort(first)][: max(ask.k, len(items))])

    def _ordered(
        self, ask: Ask, items: Ints, score: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.int64]:
        k = ask.k if ask.items is None else len(items)
        if ask.diversity <= 0:
            return np.argsort(-score, kind="stable")[:k]
        return diversify(score, self._vectors_of(items), k, ask.diversity)

    def _vectors_of(self, items: Ints) -> Floats:
        """float32[n, d]; NaN where an item has no vector."""
        out = np.full((len(items), self._dimension), np.nan, np.float32)
        vectors = self.bundle.vectors()
        known = items < self.bundle.n_items
        if vectors is not None:
            out[known] = vectors[items[known]]
        for row in np.flatnonzero(~known):
            vector = self._extra_vector(int(items[row]) - self.bundle.n_items)
            if vector is not None:
                out[row] = vector
        return out

    def _extra_vector(self, place: int) -> Floats | None:
        return self._extra[place] if place < len(self._extra) else None

    def _explain(
        self,
        ask: Ask,
        answer: Answer,
        x: Floats,
        items: Ints,
        order: npt.NDArray[np.int64],
        history: History,
    ) -> None:
        if ask.explain <= 0 or not len(order):
            return
        if ask.deadline is not None and time.monotonic() > ask.deadline:
            answer.degraded.append("explanations_late")
            return
        chosen = order[: ask.explain]
        liked = history.item[history.grade >= 0][-50:][::-1]
        answer.reasons = self.explainer.reasons(
            x,
            chosen,
            items[chosen],
            history,
            self._vectors_of(items[chosen]),
            (liked, np.nan_to_num(self._vectors_of(liked))),
            self.state.catalogue,
        )

    def _degraded(self, ask: Ask) -> list[str]:
        missing = []
        if self._encoder_lost and (ask.new_items or len(self._extra)):
            missing.append("text_encoder_missing")
        return missing

    @contextmanager
    def _lent(self, new_items: Mapping[str, dict[str, Any]]) -> Iterator[None]:
        """Items given with their text, in the catalogue for the duration of one request."""
        catalogue = self.state.catalogue
        unknown = [(i, f) for i, f in new_items.items() if catalogue.index_of(i) < 0]
        self._lent_ids = [item_id for item_id, _ in unknown]
        if not unknown:
            yield
            return
        size, stage, waiting = catalogue.n_items, self._recall, len(self._extra)
        try:
            for item_id, fields in unknown:
                catalogue.append({**fields, c.ITEM_ID: item_id})
                self._extra.append(self._vector_of(fields))
            self._recall = self._stage(self._with_extra(self._extra))
            yield
        finally:
            catalogue.forget_from(size)
            del self._extra[waiting:]
            self._recall = stage

    # -- looking things up ----------------------------------------------------------------------

    def similar(self, item_id: str, k: int, now: int) -> list[tuple[str, float]] | None:
        """Available items nearest in text, best first; None for an unknown item."""
        del now  # likeness in text does not depend on the moment
        catalogue = self.state.catalogue
        item = catalogue.index_of(item_id)
        source: object = self._recall.sources.get(TEXT)
        if item < 0:
            return None
        if not isinstance(source, InterestSource) or item >= source.n_items:
            return []
        found = source.similar(item, k, self._mask_like(catalogue.blocked))
        return [
            (catalogue.id_of(int(i)), float(s))
            for i, s in zip(found.items, found.scores, strict=True)
        ]

    def user(self, user_id: str) -> dict[str, Any] | None:
        """What is stored of a user: their events, latest last, and attributes."""
        history = self.state.history(user_id, np.iinfo(np.int64).max)
        attributes = self.state.user_attributes(user_id)
        if not len(history.item) and not attributes:
            return None
        events = [
            {
                c.ITEM_ID: self.state.catalogue.id_of(int(item)),
                c.EVENT_TYPE: self.state.kinds[kind],
                c.TIMESTAMP: int(at),
            }
            for item, kind, at in zip(history.item, history.kind, history.time, strict=True)
        ]
        return {"events": events, "attributes": attributes}

    def item(self, item_id: str) -> dict[str, Any] | None:
        """Columns and attributes of an item."""
        index = self.state.catalogue.index_of(item_id)
        return None if index < 0 else self.state.catalogue.fields(index)

    def search(self, query: str, limit: int) -> list[str]:
        """Ids of items whose title holds every word of the query; some items for an empty one."""
        catalogue = self.state.catalogue
        words = query.casefold().split()
        found = []
        for index, title in enumerate(self._titles()):
            if all(word in title for word in words):
                found.append(catalogue.id_of(index))
                if len(found) == limit:
                    break
        return found

    def _titles(self) -> list[str]:
        """Case-folded titles, made once per change of the catalogue."""
        catalogue = self.state.catalogue
        if getattr(self, "_titles_of", None) != catalogue.version:
            self._folded = [title.casefold() for title in catalogue.titles]
            self._titles_of = catalogue.version
        return self._folded


class _Steps:
    """Milliseconds by step."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self._last = time.perf_counter()

    def done(self, name: str) -> None:
        now = time.perf_counter()
        self.times[name] = (now - self._last) * 1000
        self._last = now


def open_sources(bundle: Bundle) -> dict[str, ScoreSource]:
    """All score sources of a bundle; the text source reads the bundle's own vectors."""
    sources: dict[str, ScoreSource] = {
        name: load_source(folder) for name, folder in bundle.sources.items()
    }
    vectors = bundle.vectors()
    if bundle.encoder is not None and vectors is not None:
        until = bundle.fit_until.get("encoder", 0)
        sources[TEXT] = cast(ScoreSource, InterestSource.open(bundle.encoder, vectors, until))
    return sources


def _joined(first: History, second: History) -> History:
    both = History(*(np.concatenate([a, b]) for a, b in zip(first, second, strict=True)))
    order = np.argsort(both.time, kind="stable")
    return History(*(column[order] for column in both))  # type: ignore[arg-type]


def rank_frame(bundle_dir: Path, frame: "pd.DataFrame") -> npt.NDArray[np.float64]:
    """Score of each row of a frame with user_id and item_id, in its order, float64[rows].

    A bundle holds no personal data, so every user is ranked for as a new one, as of now; unknown
    items score NaN.
    """
    runtime = _frame_runtime(bundle_dir)
    now = time.time_ns() // 1000
    out = np.full(len(frame), np.nan)
    for user_id, rows in frame.groupby(c.USER_ID, sort=False).indices.items():
        ids = frame[c.ITEM_ID].iloc[rows].astype(str).to_list()
        answer = runtime.answer(Ask(str(user_id), now, items=list(dict.fromkeys(ids))))
        score = dict(zip(answer.item_ids, answer.scores, strict=True))
        out[rows] = [score.get(item_id, np.nan) for item_id in ids]
    return out


def _frame_runtime(bundle_dir: Path) -> Runtime:
    """A runtime over the bundle's own catalogue and no user at all."""
    from data_schemas.meaning import DEFAULT_TYPES, EventMeaning
    from features.catalogue import Catalogue
    from features.interactions import Interactions

    bundle = open_bundle(bundle_dir)
    if bundle.catalogue is None:
        raise RecsysError("the bundle has no catalogue", where=str(bundle_dir))
    catalogue = Catalogue.open(bundle.catalogue)
    state_facts = bundle.facts["state"]
    nobody = Interactions(
        np.empty(0, np.int32),
        np.empty(0, np.int32),
        np.empty(0, np.int16),
        np.empty(0, np.int64),
        np.empty(0, np.float32),
        np.empty(0, np.float32),
        np.empty(0, np.int8),
        np.empty(0, np.int64),
        np.empty(0, object),
        tuple(state_facts["kinds"]),
        catalogue.n_items,
    )
    state = OnlineState.build(
        nobody,
        catalogue,
        bucket_us=int(state_facts["bucket_us"]),
        windows_us=state_facts["windows_us"],
        log_position=-1,
        meaning=EventMeaning(DEFAULT_TYPES),
    )
    return Runtime(bundle, state, version="")
