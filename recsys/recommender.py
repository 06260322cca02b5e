"""The ranking path: one released model over one online state, asked one user at a time.

resolve → recall → features → ranker → rules → explain. Batch recommendation and the service ask
the same `LoadedRelease`; offline evaluation runs the same recall, features and ranker on moments of the
past. Shapes: N items of the vocabulary, n candidates, F features, d dimensions of a vector.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from recsys.business_rules import ListRules
from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.data_schemas.limits import AMOUNT
from recsys.data_schemas.limits import TEXT as WORDING
from recsys.data_schemas.log_record import FORGET, USER, LogMark, LogRecord
from recsys.encoder.index import open_index
from recsys.encoder.tower import InterestSource
from recsys.explain import Explainer
from recsys.features.feature_set import FeatureSet
from recsys.features.interactions import EMPTY_HISTORY, Floats, History, Ints
from recsys.features.packed_strings import PackedStrings
from recsys.features.protocols import (
    Mask,
    Recalled,
    RecallSource,
    ScoreSource,
)
from recsys.features.ranking_context import RankingContext
from recsys.features.state import OnlineState
from recsys.features.time_buckets import MomentGrid, microseconds
from recsys.filters import allowed_by
from recsys.new_items import NewItems, TextVectors
from recsys.popular_items import popular_items
from recsys.query import RankingQuery, RankingResult, SimilarQuery, SimilarResult
from recsys.ranker import Ranker
from recsys.reasons import ListAsked
from recsys.retrieval.candidates import CandidateGenerator, Candidates, HistoryRecall
from recsys.retrieval.content.own_vectors import OwnVectors
from recsys.retrieval.kept_recalls import KeptRecalls
from recsys.retrieval.source_kinds import load_source
from recsys.rules import (
    Caps,
    block,
    diversify,
)
from recsys.similar import as_history, similar_items
from recsys.storage.bundle import Bundle, open_bundle
from recsys.told_attributes import ToldAttributes, ToldKinds

TEXT = "text"
ENCODE_AT_ONCE = 32
"""New texts encoded in one go (measured: some 5 ms each on one core)."""
FALLBACKS = ("popular", "recent")
"""Sources that fill a list which personal recall left short, in order."""


class LoadedRelease:
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
        self._told = ToldAttributes(state.log_position, state.keeps)
        self._told_kinds = ToldKinds(state.log_position)
        # before the features: a source says of which family its signals are
        self.sources: dict[str, ScoreSource] = open_sources(bundle)
        self.features = FeatureSet.from_json(bundle.features)
        self.ranker = Ranker.load(bundle.ranker)
        self.ranker.check_features(self.features.columns)
        self.explainer = Explainer(self.features, self.ranker)
        self._lock = threading.RLock()
        self._vectors = bundle.vectors()
        """float32[n_items, d], mapped; opening them takes longer than most of an answer."""
        self._texts = TextVectors(bundle.encoder, self._dimension, str(bundle.facts["template"]))
        self._new = NewItems(self._dimension)
        self._first_inline = 0
        self._recall = self._stage(self.sources)
        self._kept = KeptRecalls()
        """What recall stages said of histories."""
        self._mask = np.zeros(0, np.uint8)
        searched = bundle.searched()
        self._unsearched = None if searched is None else 1 - np.asarray(searched)
        """uint8[n_items]: 1 for items that no list is made of; they are scored where asked for."""
        self._meet_new_items([])
        self.encode_new(ENCODE_AT_ONCE)

    @classmethod
    def open(cls, bundle_dir: Path, state_dir: Path, *, version: str) -> "LoadedRelease":
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
    def log_mark(self) -> LogMark:
        """Of which log the snapshot that was opened holds how much."""
        return self.state.log_mark

    @property
    def moment(self) -> int:
        """When lists are asked for in batch and by a frozen clock, µs: the first moment of the data's
        grid at which all that the state knows is also counted."""
        return self.grid.after(self.state.last_time())

    @property
    def grid(self) -> MomentGrid:
        """The moments at which the ranker was trained and tested."""
        return MomentGrid(**self.bundle.facts["windows"]["grid"])

    def apply(self, records: Sequence[LogRecord]) -> None:
        """Fold log records into the state. Texts of new items wait for `encode_new`."""
        with self._lock:
            self._told.take(records)
            self._told_kinds.take(records)
            if any(r.kind == FORGET for r in records):
                self.forget_kept()
            self.state.apply([r for r in records if r.kind != USER])
            if records:
                self.state.log_position = max(self.state.log_position, records[-1].position)
            self._meet_new_items(
                [str(r.payload.get(c.ITEM_ID)) for r in records if r.kind == "item"]
            )

    @property
    def recall(self) -> CandidateGenerator:
        """The recall stage as of the items encoded so far."""
        return self._recall

    @property
    def waiting(self) -> int:
        """New items whose text was not encoded yet, and can be."""
        return 0 if self._texts.lost else self._new.count_waiting

    @property
    def lacks_encoder(self) -> bool:
        """Whether items came whose texts nobody can encode."""
        return self._texts.lost and len(self._new) > 0

    def encode_new(self, limit: int = ENCODE_AT_ONCE) -> int:
        """Encode the texts of up to `limit` new items, oldest first; how many still wait.

        Safe on another thread than `answer`, which it does not hold up.
        """
        with self._lock:
            texts = self._new.waiting[:limit]
        if not texts or self._texts.lost:
            return 0
        self._texts.encode(texts)
        with self._lock:
            self._take_vectors()
            return self.waiting

    def forget_kept(self) -> None:
        """Read every history anew from here on."""
        self._kept.clear()

    def prepare(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Encode texts, together, ahead of the ranking that will need them; as `encode_new`."""
        self._texts.encode(self._texts.text_of(item) for item in items)

    def _meet_new_items(self, changed: Sequence[str]) -> None:
        """Take note of items that came after the release, and of those whose text changed."""
        catalogue, known = self.state.catalogue, self.bundle.n_items
        for item_id in changed:
            place = catalogue.index_of(item_id) - known
            if 0 <= place < len(self._new):
                self._new.retell(place, self._texts.text_of(catalogue.fields(known + place)))
        before = len(self._new)
        for index in range(known + before, catalogue.n_items):
            self._new.append(self._texts.text_of(catalogue.fields(index)))
        if changed or len(self._new) > before:
            self._take_vectors()

    def _take_vectors(self) -> None:
        """Let recall know the new items, with the vectors that are there by now."""
        self._new.take(self._texts)
        if len(self._new):
            self._recall = self._stage(self._with_new())

    @property
    def _dimension(self) -> int:
        return 0 if self._vectors is None else int(self._vectors.shape[1])

    def _with_new(self) -> dict[str, ScoreSource]:
        """The sources, with those of content knowing the items behind the bundle's."""
        sources = dict(self.sources)
        text: object = sources.get(TEXT)
        if isinstance(text, InterestSource):
            sources[TEXT] = cast(ScoreSource, text.with_extra(self._new.rows))
        own: object = sources.get(OwnVectors.name)
        if isinstance(own, OwnVectors):
            later = self.state.catalogue.vectors_from(self.bundle.n_items)
            sources[OwnVectors.name] = own.with_extra(later)
        return sources

    def _stage(self, sources: Mapping[str, ScoreSource]) -> CandidateGenerator:
        facts = self.bundle.facts
        return CandidateGenerator(
            sources, int(facts["depth"]), int(facts["candidates"]), facts["recipe"]["weights"]
        )

    # -- ranking --------------------------------------------------------------------------------

    def answer(self, ask: RankingQuery) -> RankingResult:
        """Rank the asked items, or recommend from the whole catalogue.

        Unknown users and items are no errors: see `RankingResult.unknown` and `RankingResult.degraded`.
        """
        if ask.new_items and ask.deadline is None:
            self.prepare(list(ask.new_items.values()))
        with self._lock, self._inline(ask.new_items):
            return self._answer(ask)

    def signals(self, ask: RankingQuery, history: History, items: Ints) -> Mapping[str, Floats]:
        """What recall says of some items for a question and a history, as `answer` reads it."""
        with self._lock:
            return self._recall.signals(self._read(ask, history)[0], items)

    def _answer(self, ask: RankingQuery) -> RankingResult:
        steps = _Steps()
        history = self._history(ask)
        items, names, unknown = self._asked_items(ask)
        rules = ListRules(self.state.catalogue, ask.rules) if ask.rules else None
        steps.done("resolve")
        items, signals, silent, kept = self._recalled(ask, history, items, rules)
        steps.done("recall")
        moment = RankingContext(
            ask.now,
            history,
            items,
            signals,
            self.state,
            self.state.catalogue,
            self.user_attributes(ask.user_id),
            ask.context,
        )
        x = self.features.online(moment)
        steps.done("features")
        score = self.ranker.score(x)
        steps.done("ranker")
        order, movers = self._ordered(ask, items, score, rules)
        steps.done("rules")
        answer = RankingResult(
            list(map(names.__getitem__, order.tolist())) if names else self._ids_of(items[order]),
            score[order].tolist(),
            unknown,
            [*self._degraded(ask), *(f"source_failed:{name}" for name in silent)],
            features=x[order],
            rules=movers,
            snapshot=self.snapshot,
            waiting=self._new.count_waiting,
            kept=kept,
        )
        self._explain(ask, answer, x, items, order, moment)
        steps.done("explain")
        answer.steps_ms = steps.times
        return answer

    def _history(self, ask: RankingQuery) -> History:
        """The stored events of the user and the session before the moment, and those sent along."""
        stored = self.state.history(ask.user_id, ask.now)
        if ask.session:
            stored = _joined(stored, self.state.history(ask.session, ask.now))
        if not ask.history:
            return stored
        return _joined(stored, self._sent_history(ask)).before(ask.now)

    def _sent_history(self, ask: RankingQuery) -> History:
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

    def _asked_items(self, ask: RankingQuery) -> tuple[Ints | None, list[str], list[str]]:
        """Indices of the asked items (None to recommend), their ids, and the ids nobody knows."""
        if ask.items is None:
            return None, [], []
        asked = list(ask.items)
        found = self.state.catalogue.indices_of(asked)
        if not len(found) or found.min() >= 0:
            return found, asked, []
        known = (found >= 0).tolist()
        names = list(compress(ask.items, known))
        unknown = [name for name, is_known in zip(ask.items, known, strict=True) if not is_known]
        return np.ascontiguousarray(found[found >= 0]), names, unknown

    def _ids_of(self, items: Ints) -> list[str]:
        return [self.state.catalogue.id_of(item) for item in items.tolist()]

    def _blocked(self, ask: RankingQuery, history: History) -> Mask:
        """The mask of items that must not be recommended, uint8[N]; it is the same array each time."""
        catalogue = self.state.catalogue
        mask = self._mask_like(catalogue.blocked)
        if self._unsearched is not None:
            mask[: self.bundle.n_items] |= self._unsearched
        if ask.items is None:
            if not ask.keep_seen:
                mask[history.item] = 1
            if ask.exclude:
                block(mask, catalogue.indices_of(list(ask.exclude)))
            if ask.filters:
                mask[~allowed_by(catalogue, ask.filters)] = 1
        # An item that came after the moment asked for takes nobody's place in a list of then.
        mask[self.bundle.n_items :][self._late(ask.now)] = 1
        # Inline items exist for this request only; they are ranked, never recalled.
        if ask.new_items:
            mask[self.bundle.n_items + self._first_inline :] = 1
        return mask

    def _late(self, now: int) -> npt.NDArray[np.bool_]:
        """bool[k]: which of the items behind the release's came at or after a moment."""
        late: npt.NDArray[np.bool_] = self.state.catalogue.created_at[self.bundle.n_items :] >= now
        return late

    def _key(self, ask: RankingQuery, history: History) -> tuple[tuple[object, ...], int] | None:
        """(all that recall's answer for a history depends on, its bytes); None where these do not tell:
        for items of one request, or sources that may look at the clock.

        An item that is there changes with the catalogue's revision, one that comes with their number.
        """
        moment = None if ask.new_items else self._recall.moment_key(history, ask.now)
        if moment is None:
            return None
        wanted: tuple[object, ...] = ()
        if ask.items is None:
            wanted = (ask.keep_seen, tuple(ask.exclude), repr(ask.filters))
        catalogue = self.state.catalogue
        told = [column.tobytes() for column in history]
        late = self._late(ask.now).tobytes()
        stage = self._recall.serial
        key = (stage, catalogue.revision, catalogue.n_items, late, wanted, moment, *told)
        return key, len(late) + sum(map(len, (*moment, *told)))

    def _read(self, ask: RankingQuery, history: History) -> tuple[HistoryRecall, bool | None]:
        """(what recall says of a history; whether it was kept, None where it cannot be)."""
        told = self._key(ask, history)
        if told is None:
            return self._recall.read(history, ask.now, self._blocked(ask, history)), None
        key, size = told
        kept = self._kept.get(key)
        if kept is not None:
            return kept, True
        read = self._recall.read(history, ask.now, self._blocked(ask, history))
        if ask.items is None:
            self._recall.found(read)  # before it is kept, so that its size is known
        self._kept.keep(key, read, size)
        return read, False

    def _mask_like(self, blocked: Mask) -> Mask:
        if len(self._mask) != len(blocked):
            self._mask = np.empty(len(blocked), np.uint8)
        np.copyto(self._mask, blocked)
        return self._mask

    def _recalled(
        self, ask: RankingQuery, history: History, items: Ints | None, rules: ListRules | None
    ) -> tuple[Ints, Mapping[str, Floats], list[str], bool | None]:
        """Candidates, their signals, the sources that had to be left out because they failed, and
        whether what recall says was kept."""
        try:
            read, kept = self._read(ask, history)
            return *self._candidates(self._recall, read, ask, history, items, rules), [], kept
        except UsageError:
            raise
        except Exception:
            mask = self._blocked(ask, history)
            silent = [
                name
                for name, source in self._recall.sources.items()
                if fails(source, history, ask.now, mask)
            ]
            if not silent or len(silent) == len(self._recall.sources):
                raise
            sources = self._recall.sources | {
                name: cast(ScoreSource, Silent(self._recall.sources[name])) for name in silent
            }
            stage = self._stage(sources)
            read = stage.read(history, ask.now, mask)
            return *self._candidates(stage, read, ask, history, items, rules), silent, None

    def _candidates(
        self,
        recall: CandidateGenerator,
        read: HistoryRecall,
        ask: RankingQuery,
        history: History,
        items: Ints | None,
        rules: ListRules | None,
    ) -> tuple[Ints, Mapping[str, Floats]]:
        if items is not None:
            return items, recall.signals(read, items)
        found = recall.found(read)
        if rules is not None:
            further = rules.further(
                lambda masked: recall.candidates(history, ask.now, masked).items,
                self._blocked(ask, history),
            )
            further = further[~np.isin(further, found.items)]
            if len(further):
                wanted = np.concatenate([found.items, np.unique(further)])
                found = Candidates(wanted, recall.signals(read, wanted))
        if len(found.items) >= ask.k:
            return found.items, found.signals
        # Personal recall was short: fill up, so that a list has k items while the catalogue does.
        mask = self._blocked(ask, history)
        extended = self._filled(recall, found.items, history, ask, mask)
        return extended, recall.signals(read, extended)

    def _filled(
        self,
        recall: CandidateGenerator,
        items: Ints,
        history: History,
        ask: RankingQuery,
        mask: Mask,
    ) -> Ints:
        lists = [items]
        for name in FALLBACKS:
            source = recall.proposing.get(name)
            if source is not None:
                lists.append(source.recall(history, ask.k + len(items), ask.now, mask).items)
        lists.append(np.flatnonzero(mask == 0)[: ask.k + len(items)].astype(np.int32))
        every = np.concatenate(lists)
        _, first = np.unique(every, return_index=True)
        return np.ascontiguousarray(every[np.sort(first)][: max(ask.k, len(items))])

    def _ordered(
        self,
        ask: RankingQuery,
        items: Ints,
        score: npt.NDArray[np.float64],
        rules: ListRules | None,
    ) -> tuple[npt.NDArray[np.int64], list[str]]:
        """(rows of the list, the rule that moved each)."""
        if ask.items is not None:
            return np.argsort(-score, kind="stable"), []
        by = score if rules is None else rules.moved(items, score)
        caps = Caps(self.state.catalogue, ask.caps, items) if ask.caps else None
        if ask.diversity > 0:
            order = diversify(by, self._vectors_of(items), ask.k, ask.diversity, caps)
        else:
            order = np.argsort(-by, kind="stable")
            order = order[: ask.k] if caps is None else caps.first(order, ask.k)
        return (order, []) if rules is None else rules.placed(items, order, by, ask.k)

    def _vectors_of(self, items: Ints) -> Floats:
        """float32[n, d]; NaN where an item has no vector."""
        out = np.full((len(items), self._dimension), np.nan, np.float32)
        known = items < self.bundle.n_items
        if self._vectors is not None:
            out[known] = self._vectors[items[known]]
        for row in np.flatnonzero(~known):
            place = int(items[row]) - self.bundle.n_items
            if self._new.has(place):
                out[row] = self._new.rows[place]
        return out

    def _explain(
        self,
        ask: RankingQuery,
        answer: RankingResult,
        x: Floats,
        items: Ints,
        order: npt.NDArray[np.int64],
        moment: RankingContext,
    ) -> None:
        if ask.explain <= 0 or not len(order):
            return
        chosen, history = order[: ask.explain], moment.history
        liked = history.item[history.grade >= 0][-50:][::-1]
        answer.reasons, late = self.explainer.reasons(
            x,
            chosen,
            items[chosen],
            self._vectors_of(items[chosen]),
            (liked, np.nan_to_num(self._vectors_of(liked))),
            ListAsked(
                ask.now,
                history,
                self.state,
                self._recall.sources,
                moment.signals,
                ask.context,
                moment.user,
            ),
            ask.deadline,
        )
        if late:
            answer.degraded.append("explanations_late")

    def _degraded(self, ask: RankingQuery) -> list[str]:
        """What the ranking had to do without."""
        if self._texts.lost:
            return ["text_encoder_missing"] if ask.new_items or len(self._new) else []
        inline = range(self._first_inline, len(self._new))
        return ["text_encoder_late"] if any(self._new.waits(place) for place in inline) else []

    @contextmanager
    def _inline(self, new_items: Mapping[str, dict[str, Any]]) -> Iterator[None]:
        """Items given with their text, in the catalogue for the duration of one request.

        Those whose text was not encoded by `prepare` do without a vector.
        """
        catalogue = self.state.catalogue
        unknown = [(i, f) for i, f in new_items.items() if catalogue.index_of(i) < 0]
        extent, stage, before = catalogue.extent(), self._recall, len(self._new)
        self._first_inline = before
        if not unknown:
            yield
            return
        try:
            for item_id, fields in unknown:
                catalogue.append({**fields, c.ITEM_ID: item_id})
                self._new.append(self._texts.text_of(fields))
            self._take_vectors()
            yield
        finally:
            catalogue.cut(extent)
            self._new.cut(before)
            self._recall = stage

    @property
    def event_types(self) -> Sequence[str]:
        """Event types met so far."""
        return self.state.kinds

    @property
    def attribute_kinds(self) -> Mapping[str, str]:
        """Kind of each attribute of items by name; see `limits.attribute_value`."""
        return self.state.catalogue.attribute_kinds

    @property
    def taken_kinds(self) -> Mapping[str, str]:
        """Kind that an attribute of an item must have, by name: beside those of `attribute_kinds` of
        those that only the log has told of, which no list knows before the next night."""
        return {**self._told_kinds.of_items, **self.attribute_kinds}

    @property
    def vector_length(self) -> int:
        """Numbers of an item's own vector; 0 where items bring none."""
        return self.state.catalogue.vector_length

    @property
    def user_attribute_kinds(self) -> Mapping[str, str]:
        """Kind of each attribute of users by name, also of those that only the log has told of; none of
        what may be a flag or a number."""
        users, told = self.state.users, self._told_kinds.of_users
        if users is None:
            return dict(told)
        new = {name: kind for name, kind in told.items() if name not in users.numeric}
        return {**new, **self._stored_user_kinds}

    @cached_property
    def _stored_user_kinds(self) -> Mapping[str, str]:
        """The same of those in the table of users."""
        users = self.state.users
        if users is None:
            return {}
        numbers = [
            n for n, x in users.numeric.items() if not np.isin(x[~np.isnan(x)], (0, 1)).all()
        ]
        return {**dict.fromkeys(users.categorical, WORDING), **dict.fromkeys(numbers, AMOUNT)}

    def user_attributes(self, user_id: str) -> dict[str, Any]:
        """What is known of a user: the snapshot's word, then the log's behind it."""
        return {**self.state.user_attributes(user_id), **self._told.of(user_id)}

    # -- looking things up ----------------------------------------------------------------------

    def similar_to(self, ask: SimilarQuery) -> SimilarResult:
        """Items like the ones asked about that may be recommended, by behaviour and content.

        Texts that `prepare` encoded meanwhile are taken; one that still waits degrades the answer.
        """
        with self._lock:
            found = self.state.catalogue.indices_of(list(ask.items))
            unknown = [name for name, at in zip(ask.items, found, strict=True) if at < 0]
            anchors = np.ascontiguousarray(found[found >= 0], np.int32)
            if self._waits(anchors):
                self._take_vectors()
            wanted = RankingQuery("", ask.now, exclude=ask.exclude, filters=ask.filters)
            mask = self._blocked(wanted, as_history(anchors, ask.now))
            listed = similar_items(self._recall.sources, anchors, ask.by, ask.k, ask.now, mask)
            return SimilarResult(
                self._ids_of(listed.items), listed.scores.tolist(), unknown, self._untold(anchors)
            )

    def popular(
        self, k: int, now: int, window: str, filters: Mapping[str, object]
    ) -> list[tuple[str, float]]:
        """Items of the most weight of events in a window that may be recommended, best first.

        Raises:
            UsageError: no such window, or a filter is wrong.
        """
        with self._lock:
            wanted = RankingQuery("", now, filters=filters)
            mask = self._blocked(wanted, EMPTY_HISTORY)
            found = popular_items(self.state, window, k, now, mask)
            return list(zip(self._ids_of(found.items), found.scores.tolist(), strict=True))

    def unencoded(self, item_ids: Sequence[str]) -> list[Mapping[str, Any]]:
        """Those of some items whose text waits to be encoded, as `prepare` takes them."""
        with self._lock:
            catalogue = self.state.catalogue
            found = [int(at) for at in catalogue.indices_of(list(item_ids)) if at >= 0]
            return [catalogue.fields(at) for at in found if self._waits(np.array([at]))]

    def _waits(self, items: Ints) -> bool:
        """Whether the text of one of some items was not encoded yet."""
        later = items[items >= self.bundle.n_items] - self.bundle.n_items
        return any(self._new.waits(int(place)) for place in later)

    def _untold(self, anchors: Ints) -> list[str]:
        """What is missing where the likeness of some items is asked for."""
        if not self._waits(anchors):
            return []
        return ["text_encoder_missing" if self._texts.lost else "text_encoder_late"]

    def user(self, user_id: str) -> dict[str, Any] | None:
        """What is stored of a user: their events, latest last, and attributes."""
        history = self.state.history(user_id, np.iinfo(np.int64).max)
        attributes = self.user_attributes(user_id)
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
        """Ids of items whose title holds every word of the query, in the order of the catalogue;
        some items for an empty one. Safe on another thread than `answer`."""
        catalogue = self.state.catalogue
        with self._lock:
            changed = catalogue.changed_titles()
        found = catalogue.with_title(query.split(), limit, changed)
        return [catalogue.id_of(index) for index in found]


class Silent:
    """In the place of a source that failed: it proposes nothing and says nothing of any item."""

    def __init__(self, source: ScoreSource) -> None:
        self.name, self.columns, self.fit_until = source.name, source.columns, source.fit_until
        self.logarithmic = bool(getattr(source, "logarithmic", False))

    def score(self, history: History, items: Ints, now: int) -> Floats:
        """float32[n, columns] of NaN."""
        return np.full((len(items), len(self.columns)), np.nan, np.float32)

    def recall(self, history: History, limit: int, now: int, blocked: Mask) -> Recalled:
        """An empty list."""
        return Recalled(np.empty(0, np.int32), np.empty(0, np.float32))

    def save(self, folder: Path) -> None:
        """Stand-ins are never part of a release."""
        raise NotImplementedError

    load = save


def fails(source: ScoreSource, history: History, now: int, mask: Mask) -> bool:
    """Whether a source cannot answer this history."""
    try:
        if isinstance(source, RecallSource):
            source.recall(history, 1, now, mask)
        source.score(history, np.zeros(min(1, len(mask)), np.int32), now)
    except Exception:
        return True
    return False


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
        index = open_index(bundle.items, vectors)
        source = InterestSource.open(bundle.encoder, vectors, until, neighbours=index)
        sources[TEXT] = cast(ScoreSource, source)
    return sources


def _joined(first: History, second: History) -> History:
    both = History(*(np.concatenate([a, b]) for a, b in zip(first, second, strict=True)))
    order = np.argsort(both.time, kind="stable")
    return History(*(column[order] for column in both))  # type: ignore[arg-type]


def release_over_nobody(bundle_dir: Path) -> LoadedRelease:
    """A release over the bundle's own catalogue and no user at all."""
    from recsys.data_schemas.meaning import DEFAULT_TYPES, EventMeaning
    from recsys.features.catalogue import Catalogue
    from recsys.features.interactions import Interactions

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
        PackedStrings.of([]),
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
    return LoadedRelease(bundle, state, version="")
