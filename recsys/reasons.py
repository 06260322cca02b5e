"""What a reason may say: facts about an item and a history, each resting on features of the ranker.

A fact is said only where it is true, where the features it rests on lifted the item above its list,
and where their family speaks about as loudly as any other for it. A family that leads and has nothing
true to tell gives way; in the end the sentence says that the item suits as well as the others.

Shapes: n explained items, F features, h events of the history, N items of the vocabulary.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.columns import CATEGORY, ITEM_ID
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import DAY, Floats, History, Ints, Longs
from recsys.features.kinds.signals import family_of
from recsys.features.protocols import ScoreSource
from recsys.features.state import OnlineState
from recsys.features.time_buckets import MISSING_TIME, UNBOUNDED
from recsys.retrieval.content.words import TOKEN
from recsys.retrieval.fitted_source import FittableSource
from recsys.sentences import Fact

LOUD: Final = 0.5
"""Least share of a family that is spoken of, relative to the leading one's (assumed)."""
WEEK, MONTH = 7 * DAY, 30 * DAY
POPULAR_TIMES: Final = 5.0
"""How many times the events of its category's mean item make an item popular in it (assumed)."""
LEAST_EVENTS: Final = 5
"""Events below which nothing is called popular or rising, whoever they are from (assumed)."""
TOP: Final = 50
"""Places of the list of what is popular that are called so (assumed)."""
RISING: Final = 0.4
"""Log ratio of the short pace to the long one from which an item rises: half as much again (assumed)."""
HIGH: Final = 20
"""Places of a source's list that are high (assumed)."""
LATEST: Final = 20
"""Latest distinct items of the history that are looked at; as many as `Overlap` reads."""
OFTEN: Final = 0.25
"""Least share of those that makes a habit, and two of them at the least (assumed)."""
TELLING: Final = 0.02
"""Largest share of texts with a word that still tells something (assumed)."""
SAMPLE: Final = 1000
"""Texts that the words are counted in."""
SHORTEST: Final = 4
"""Letters of a word that is named."""
NAMED: Final = 3
"""Words or attributes named at most."""

RESTS_ON: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "text": {"near": ("text.",), "words": ("bm25.",)},
    "collaborative": {
        "also_chosen": ("item_item.", "transitions."),
        "alike_people": ("als.", "ease.", "sequence.", "item_item.", "transitions."),
    },
    "counters": {
        "popular_in": ("count.item.", "count.category.", "popular."),
        "popular": ("count.item.", "popular."),
        "rising": ("trend.",),
    },
    "recency": {
        "new": ("age.", "recent."),
        "lately": ("recency.category",),
        "again": ("recency.item",),
    },
    "attributes": {"often": ("overlap.", "attributes."), "stated": ("stated.",)},
    "context": {"request": ("context.",)},
}
"""Family → way to a fact → beginnings of the columns that must have lifted the item."""


@dataclass(frozen=True)
class ListAsked:
    """One answer, as reasons look at it."""

    now: int
    """µs."""
    history: History
    state: OnlineState
    sources: Mapping[str, ScoreSource]
    signals: Mapping[str, Floats]
    """float32[m] by name, of the whole list."""
    context: Mapping[str, object]
    user: Mapping[str, object] = field(default_factory=dict)
    """The user's attributes."""

    @property
    def catalogue(self) -> Catalogue:
        return self.state.catalogue


class ReasonEvidence:
    """Which features a fact rests on, for one set of features."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self.dated = any(name.startswith(("age.", "recency.")) for name in columns)
        """Whether the data's times are dates; where they only give an order, nothing is new."""
        self._mask = {
            way: np.array([name.startswith(begins) for name in columns], bool)
            for ways in RESTS_ON.values()
            for way, begins in ways.items()
        }

    def ways(self, family: str, lifted: npt.NDArray[np.float64]) -> list[str]:
        """Ways to a fact of a family whose columns lifted an item, the strongest first.

        Args:
            family: of features.
            lifted: float64[F], what each column added to the item beyond its list.
        """
        found = {way: float(lifted[self._mask[way]].sum()) for way in RESTS_ON.get(family, ())}
        return sorted((way for way, by in found.items() if by > 0), key=lambda way: -found[way])

    def leading(self, beginning: str, lifted: npt.NDArray[np.float64]) -> str:
        """The column of that beginning which lifted the item most."""
        named = [place for place, name in enumerate(self.columns) if name.startswith(beginning)]
        return self.columns[max(named, key=lambda place: lifted[place])]


class _Explained(NamedTuple):
    """One explained item."""

    place: int
    """Among the explained ones."""
    code: int
    """In the catalogue."""
    lifted: npt.NDArray[np.float64]
    x: Floats
    near: Sequence[Mapping[str, Any]]


class Facts:
    """What is true of the explained items of one answer."""

    def __init__(
        self,
        asked: ListAsked,
        evidence: ReasonEvidence,
        words: "TellingWords",
        rows: Longs,
        items: Ints,
    ) -> None:
        """
        Args:
            asked: the answer.
            evidence: of the release's features.
            words: of the catalogue.
            rows: int64[n], place of each explained item in the whole list.
            items: int32[n], the items.
        """
        self._asked, self._evidence, self._telling = asked, evidence, words
        self._rows, self._items = rows, items
        self._said: Counter[str] = Counter()

    def best(
        self,
        place: int,
        families: Mapping[str, float],
        lifted: npt.NDArray[np.float64],
        x: Floats,
        near: Sequence[Mapping[str, Any]],
    ) -> Fact:
        """What speaks most for an item and is true; of what may be said, rather what the items above it
        have not said.

        Args:
            place: among the explained items, which are asked for from the first.
            families: shares, the largest first.
            lifted: float64[F], what each column added beyond the list.
            x: float32[F], the item's features.
            near: history items closest in text, the nearest first.
        """
        item = _Explained(place, int(self._items[place]), lifted, x, near)
        true = list(self._true(families, item)) or [Fact("nothing")]
        fact = min(true, key=lambda one: self._said[_key(one)])
        self._said[_key(fact)] += 1
        return fact

    def _true(self, families: Mapping[str, float], item: "_Explained") -> Iterator[Fact]:
        """Facts that may be said of an item, the best first."""
        loudest = max(families.values(), default=0.0)
        for family, share in families.items():
            if share <= 0 or share < LOUD * loudest:
                continue
            if family == "recall":
                yield from self._of_recall(item)
            else:
                yield from self._by(self._evidence.ways(family, item.lifted), item)

    def _by(self, ways: Sequence[str], item: "_Explained") -> Iterator[Fact]:
        """What each way to a fact comes to, where it comes to one."""
        for way in ways:
            found = getattr(self, f"_{way}")(item)
            yield from found if isinstance(found, list) else [found] if found else []

    def _of_recall(self, item: "_Explained") -> Iterator[Fact]:
        """Why the sources that list the item high list it; or how many do."""
        row = self._rows[item.place]
        ranks = {
            name.removesuffix(".rank"): float(values[row])
            for name, values in self._asked.signals.items()
            if name.endswith(".rank")
        }
        high = [
            name
            for name, rank in sorted(ranks.items(), key=lambda entry: entry[1])
            if rank <= HIGH and name in self._asked.sources
        ]
        for name in high:
            yield from self._by(getattr(self._asked.sources[name], "tells", ()), item)
        if len({family_of(name) for name in high}) > 1:
            yield Fact("agreed", {"count": len(high)})

    # -- text -----------------------------------------------------------------------------------

    def _near(self, item: "_Explained") -> list[Fact]:
        """Words in common, of something new; the history items nearest in text."""
        shared = None if self._age(item.code) is None else self._words_of(item)
        chosen = [self._chosen(self._asked.catalogue.index_of(o[ITEM_ID])) for o in item.near]
        return [fact for fact in (shared, *chosen) if fact is not None]

    def _chosen(self, item: int) -> Fact | None:
        """That the user liked, chose or looked at an item, by their last event on it."""
        history, state = self._asked.history, self._asked.state
        at = np.flatnonzero(history.item == item)
        title = self._asked.catalogue.title(item) if len(at) else ""
        if not title or history.grade[at[-1]] < 0:
            return None
        kind = int(history.kind[at[-1]])
        rated = 0 <= kind < len(state.kinds) and state.kinds[kind] in state.meaning.ratings
        if history.grade[at[-1]] == 0:
            # A rating in the middle is no reason to go on in that direction.
            return None if rated else Fact("looked_at", {"title": title})
        return Fact("liked" if rated else "chosen", {"title": title})

    def _words(self, item: "_Explained") -> Fact | None:
        return self._words_of(item)

    def _words_of(self, item: "_Explained") -> Fact | None:
        """Telling words that the item has in common with those nearest in text, or the latest."""
        others = [self._asked.catalogue.index_of(other[ITEM_ID]) for other in item.near]
        shared = self._telling.shared(item.code, others or self._latest[:NAMED])
        if not shared:
            return None
        return Fact("words" if self._age(item.code) is None else "new_words", {"words": shared})

    # -- what others did ------------------------------------------------------------------------

    def _also_chosen(self, item: "_Explained") -> Fact | None:
        parts = self._parts
        best = int(parts[:, item.place].argmax()) if len(parts) else 0
        if not len(parts) or not parts[best, item.place] > 0:
            return None
        title = self._asked.catalogue.title(self._latest[best])
        return Fact("also_chosen", {"title": title}) if title else None

    @cached_property
    def _parts(self) -> npt.NDArray[np.float64]:
        """float64[latest, n]: what each of the latest items alone says for each explained one."""
        history, latest = self._asked.history, self._latest
        at = [int(np.flatnonzero(history.item == item)[-1]) for item in latest]
        events = history.each(lambda column: column[at])
        out = np.zeros((len(latest), len(self._items)))
        for source in self._asked.sources.values():
            if getattr(source, "pairs", False):
                said = cast(FittableSource, source).parts(events, self._items, self._asked.now)
                out += np.maximum(said, 0.0)
        return out

    def _alike_people(self, item: "_Explained") -> Fact | None:
        return Fact("alike_people") if self._latest else None

    # -- popularity -----------------------------------------------------------------------------

    def _popular_in(self, item: "_Explained") -> Fact | None:
        catalogue, place = self._asked.catalogue, item.place
        code = int(catalogue.category_codes[item.code])
        if code < 0:
            return None
        others = int(np.count_nonzero(catalogue.category_codes == code))
        for window, width in enumerate(self._widths):
            events, all_events = self._counts[0][place, window], self._counts[1][place, window]
            if events >= max(LEAST_EVENTS, POPULAR_TIMES * all_events / others):
                return Fact(
                    "popular_in", {"window": width, "category": catalogue.category_names[code]}
                )
        return None

    def _popular(self, item: "_Explained") -> Fact | None:
        rank = self._asked.signals.get("popular.rank")
        listed = rank is not None and rank[self._rows[item.place]] <= TOP
        return Fact("popular") if listed else None

    def _rising(self, item: "_Explained") -> Fact | None:
        pace = max(
            (
                item.x[at]
                for at, n in enumerate(self._evidence.columns)
                if n.startswith("trend.any.")
            ),
            default=0.0,
        )
        enough = self._counts[0][item.place, -1] >= LEAST_EVENTS
        return Fact("rising") if enough and pace >= RISING else None

    @cached_property
    def _widths(self) -> list[int]:
        """µs: windows of a week or more, the shortest first, and all time last."""
        given = self._asked.state.windows_us if self._evidence.dated else ()
        return [*sorted(width for width in given if width >= WEEK), UNBOUNDED]

    @cached_property
    def _counts(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """int64[n, W] events of the items, and of all items of their categories."""
        state = self._asked.state
        view, widths = state.counters(self._asked.now), np.array(self._widths, np.int64)
        kinds = np.arange(len(state.kinds), dtype=np.int16)
        codes = state.catalogue.category_codes[self._items]
        return (
            view.read("item", self._items, kinds, widths)[:, -1],
            view.read("category", np.ascontiguousarray(codes), kinds, widths)[:, -1],
        )

    # -- time, attributes, the request ----------------------------------------------------------

    def _age(self, item: int) -> int | None:
        """The shorter of a week and a month that the item is not older than, µs; None if older."""
        created = int(self._asked.catalogue.created_at[item])
        if not self._evidence.dated or created == MISSING_TIME or created > self._asked.now:
            return None
        return next((width for width in (WEEK, MONTH) if self._asked.now - created <= width), None)

    def _new(self, item: "_Explained") -> Fact | None:
        width = self._age(item.code)
        return None if width is None else Fact("new", {"window": width})

    def _lately(self, item: "_Explained") -> Fact | None:
        catalogue, history = self._asked.catalogue, self._asked.history
        code = int(catalogue.category_codes[item.code])
        late = (history.time >= self._asked.now - MONTH) & (history.grade >= 0)
        if code < 0 or not (catalogue.category_codes[history.item[late]] == code).any():
            return None
        return Fact("lately", {"category": catalogue.category_names[code]})

    def _again(self, item: "_Explained") -> Fact | None:
        chosen = self._asked.history.grade[self._asked.history.item == item.code]
        return Fact("again") if (chosen > 0).any() else None

    def _often(self, item: "_Explained") -> Fact | None:
        """Tags and the category that many of the latest items share with this one."""
        habits = self._habits
        least = max(2.0, OFTEN * len(self._latest))
        named = _properties(self._asked.catalogue, item.code)
        shared = [name for name in named if habits[name] >= least]
        shared.sort(key=lambda name: -habits[name])
        return Fact("often", {"words": shared[:NAMED]}) if shared else None

    def _stated(self, item: "_Explained") -> Fact | None:
        """What the user says of themselves and the item is about."""
        said = {value for value in self._asked.user.values() if isinstance(value, str)}
        named = [name for name in _properties(self._asked.catalogue, item.code) if name in said]
        return Fact("stated", {"words": named[:NAMED]}) if named else None

    @cached_property
    def _habits(self) -> Counter[str]:
        """How many of the latest items have each tag and category."""
        found: Counter[str] = Counter()
        for item in self._latest:
            found.update(_properties(self._asked.catalogue, item))
        return found

    def _request(self, item: "_Explained") -> Fact | None:
        name = self._evidence.leading("context.", item.lifted).removeprefix("context.")
        value = self._asked.context.get(name)
        if value is None or isinstance(value, bool):
            return None
        return Fact("request", {"words": [value if isinstance(value, str) else f"{name} {value}"]})

    @cached_property
    def _latest(self) -> list[int]:
        """Latest distinct items of the history that were not disliked, newest first."""
        history = self._asked.history
        items = dict.fromkeys(history.item[history.grade >= 0][::-1].tolist())
        return list(items)[:LATEST]


def _key(fact: Fact) -> str:
    """What makes two facts say the same."""
    return f"{fact.kind}: {sorted(fact.values.items())}"


def _properties(catalogue: Catalogue, item: int) -> list[str]:
    """Tags and category of an item, in words, each once."""
    code = int(catalogue.categorical(CATEGORY)[item])
    named = [catalogue.tag_names[tag] for tag in catalogue.tags_of(item).tolist()]
    return list(dict.fromkeys([*named, *([catalogue.category_names[code]] if code >= 0 else [])]))


class TellingWords:
    """Which words of a catalogue's texts tell something: those that few texts have."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        spread = np.linspace(0, catalogue.n_items - 1, min(SAMPLE, catalogue.n_items)).astype(int)
        self._texts: Counter[str] = Counter()
        for item in spread.tolist():
            self._texts.update(self._words(item).keys())
        self._most = max(2.0, TELLING * len(spread))

    def shared(self, item: int, others: Sequence[int]) -> list[str]:
        """Telling words that an item has in common with one of others, the rarest first, as written."""
        theirs = {word for other in others if other >= 0 for word in self._words(other)}
        mine = self._words(item)
        common = [word for word in mine if word in theirs and self._texts[word] <= self._most]
        common.sort(key=lambda word: self._texts[word])
        return [mine[word] for word in common[:NAMED]]

    def _words(self, item: int) -> dict[str, str]:
        """Folded word → as it is written, a description's writing before a title's."""
        text = f"{self._catalogue.title(item)} . {self._catalogue.description(item)}"
        found = (word for word in TOKEN.findall(text[:4000]) if len(word) >= SHORTEST)
        return {word.casefold(): word for word in found if not word.isdigit()}
