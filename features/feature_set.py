"""The ranker's columns, in order: declared once, read online for a list and in batch for a night.

Shapes: n candidates of a list, R rows of a batch, F columns.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, cast

import numpy as np

from recsys.data_schemas.columns import CATEGORY
from recsys.data_schemas.config import FeaturesConfig
from recsys.data_schemas.errors import UsageError
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import DAY, Floats, Ints
from recsys.features.item_table import ItemTable
from recsys.features.kinds import KINDS
from recsys.features.kinds.age import Age
from recsys.features.kinds.attribute import Attribute
from recsys.features.kinds.kind import (
    CounterFeature,
    Feature,
    HistoryFeature,
    ItemFeature,
    SignalFeature,
    moment_of,
)
from recsys.features.kinds.overlap import Overlap
from recsys.features.kinds.recency import Recency
from recsys.features.kinds.signals import signal_feature
from recsys.features.kinds.smoothed_rate import SmoothedRate
from recsys.features.kinds.stated_interest import StatedInterest
from recsys.features.kinds.time_of import TimeOf
from recsys.features.kinds.trend import Trend
from recsys.features.kinds.user_activity import UserActivity, UserDiversity
from recsys.features.kinds.user_attribute import UserAttribute
from recsys.features.kinds.window_count import WindowCount
from recsys.features.protocols import SignalTable
from recsys.features.ranking_context import CountPlan, OnlineCounts, RankingContext
from recsys.features.rows import BatchInputs, Rows
from recsys.features.time_buckets import (
    BUCKETS,
    MISSING_TIME,
    UNBOUNDED,
    window_buckets,
    window_us,
)
from recsys.features.user_table import UserTable
from recsys.storage.plug_ins import FEATURES, address_of, load_named, theirs_to_read

FORMAT: Final = 1
MAX_CATEGORIES: Final = 254
"""Values of a categorical feature, the most frequent; the rest are unknown (LightGBM's bins)."""
MAX_TYPES: Final = 8
"""Event types that get counters of their own in the default set (assumed)."""


class _SignalPlan:
    """Which features are read together from the signal tables of one recall stage."""

    def __init__(self, features: Sequence[tuple[int, Feature]], rows: Mapping[str, int]) -> None:
        self.rows = rows
        self.others: list[tuple[int, Feature]] = []
        kinds: dict[object, list[tuple[int, SignalFeature]]] = {}
        for place, feature in features:
            if (
                isinstance(feature, SignalFeature)
                and feature.elementwise
                and feature.signal in rows
            ):
                kinds.setdefault(type(feature).read, []).append((place, feature))
            else:
                self.others.append((place, feature))
        self.together = [
            (
                found[0][1].read,
                np.array([place for place, _ in found]),
                np.array([rows[feature.signal] for _, feature in found]),
            )
            for found in kinds.values()
        ]
        """(reading, columns, rows of the table)."""


class FeatureSet:
    """F features in a fixed order."""

    def __init__(self, features: Sequence[Feature]) -> None:
        """
        Raises:
            UsageError: two features have one column name.
        """
        self.features = tuple(features)
        self.columns: tuple[str, ...] = tuple(feature.column for feature in self.features)
        twice = [name for name, times in Counter(self.columns).items() if times > 1]
        if twice:
            raise UsageError(
                "two features have the same column name", where="features", found=twice[0]
            )
        self.families: dict[str, str] = {f.column: f.group for f in self.features}
        self.categorical: tuple[str, ...] = tuple(
            f.column for f in self.features if getattr(f, "values", ())
        )
        """Columns whose values are codes."""
        self._counters = [(i, f) for i, f in self._numbered if isinstance(f, CounterFeature)]
        self._attributes = [(i, f) for i, f in self._numbered if isinstance(f, ItemFeature)]
        item_side = {i for i, _ in (*self._counters, *self._attributes)}
        self._others = [(i, f) for i, f in self._numbered if i not in item_side]
        self._plans: list[_SignalPlan] = []
        """Of the signal tables met, the latest last; there is one as long as the recall stage is the same."""
        self._plan = CountPlan(need for _, f in self._counters for need in f.needs)
        self._kept_counters, self._kept_attributes = ItemTable(), ItemTable()

    @property
    def _numbered(self) -> list[tuple[int, Feature]]:
        return list(enumerate(self.features))

    def __len__(self) -> int:
        return len(self.features)

    # -- the two readings ---------------------------------------------------------------------

    def online(self, moment: RankingContext) -> Floats:
        """float32[n, F] for the candidates of a moment."""
        out = np.empty((len(moment), len(self)), np.float32)
        for place, feature in self._signals_read(moment.signals, out):
            out[:, place] = feature.online(moment)
        catalogue, state, items = moment.catalogue, moment.state, moment.items
        if self._attributes:
            places = [place for place, _ in self._attributes]
            key: tuple[int, ...] = (catalogue.serial, catalogue.revision)
            read = partial(self._read_attributes, moment)
            out[:, places] = self._kept_attributes.take(key, items, catalogue.n_items, read)
        if self._counters:
            places = [place for place, _ in self._counters]
            bucket = moment.now // state.bucket_us
            key = (state.serial, state.revision, catalogue.revision, bucket)
            read = partial(self._read_counters, moment)
            out[:, places] = self._kept_counters.take(key, items, catalogue.n_items, read)
        return out

    def _signals_read(
        self, signals: Mapping[str, Floats], out: Floats
    ) -> list[tuple[int, Feature]]:
        """Fill the columns that can be read at once from a table; the other features of no item."""
        if not isinstance(signals, SignalTable):
            return self._others
        plan = next((one for one in reversed(self._plans) if one.rows is signals.rows), None)
        if plan is None:
            plan = _SignalPlan(self._others, signals.rows)
            self._plans = [*self._plans[-3:], plan]
        for read, places, rows in plan.together:
            out[:, places] = read(signals.table[rows]).T
        return plan.others

    def _read_attributes(self, moment: RankingContext, items: Ints) -> Floats:
        """float32[m, attributes] of any items."""
        at = replace(moment, items=items, signals={})
        out = np.empty((len(items), len(self._attributes)), np.float32)
        for place, (_, feature) in enumerate(self._attributes):
            out[:, place] = feature.online(at)
        return out

    def _read_counters(self, moment: RankingContext, items: Ints) -> Floats:
        """float32[m, counters] of any items as of the moment's bucket."""
        counts = OnlineCounts(self._plan, moment.state, items, moment.now)
        out = np.empty((len(items), len(self._counters)), np.float32)
        for place, (_, feature) in enumerate(self._counters):
            out[:, place] = feature.read(counts)
        return out

    def batch(self, rows: Rows, inputs: BatchInputs) -> Floats:
        """float32[R, F] for all rows."""
        from recsys.features.batch_counts import read_counters

        out = np.empty((len(rows), len(self)), np.float32)
        by_group = [(i, f) for i, f in self._others if isinstance(f, HistoryFeature)]
        for place, feature in self._others:
            if not isinstance(feature, HistoryFeature):
                out[:, place] = feature.batch(rows, inputs)
        for place, attribute in self._attributes:
            out[:, place] = attribute.batch(rows, inputs)
        if by_group:
            for group, part in rows.groups():
                moment = moment_of(rows, inputs, group, part)
                for place, feature in by_group:
                    out[part, place] = feature.online(moment)
        if self._counters:
            places, features = zip(*self._counters, strict=True)
            read_counters(features, places, rows, inputs, out)
        return out

    # -- as JSON ------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """The declarations as plain values."""
        return {"format": FORMAT, "features": [_declared(f) for f in self.features]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "FeatureSet":
        """
        Raises:
            UsageError: another format, an unknown kind, or a declaration that does not fit it.
        """
        if content.get("format") != FORMAT:
            raise UsageError(
                "the feature set has another format",
                where="features.json",
                found=content.get("format"),
                expected=FORMAT,
            )
        return cls([_feature(declared) for declared in content["features"]])

    # -- the default set ----------------------------------------------------------------------

    @classmethod
    def default(
        cls,
        catalogue: Catalogue,
        kinds: Sequence[str],
        signal_columns: Sequence[str],
        config: FeaturesConfig,
        *,
        resolution: str = "seconds",
        users: UserTable | None = None,
        impressions: bool = False,
    ) -> "FeatureSet":
        """Everything that these tables can give.

        Args:
            catalogue: its attributes and tags decide which features there are.
            kinds: event types in the data.
            signal_columns: what the recall stage gives.
            config: bucket and windows of counters, and features of your own.
            resolution: `seconds`; `days` leaves out what is finer than a day; `ordinal` leaves out
                windows, ages and times, since its timestamps give an order and no real dates.
            users: where there are attributes of users.
            impressions: whether lists that were shown are recorded.

        Raises:
            UsageError: an unknown resolution, a window that is not whole buckets, a class of
                your own that cannot be used.
        """
        if resolution not in ("seconds", "days", "ordinal"):
            raise UsageError(
                "unknown time resolution",
                found=resolution,
                expected="seconds, days or ordinal",
            )
        widths = _widths(config, resolution)
        return cls(
            [
                *(signal_feature(name) for name in signal_columns),
                *_counters(
                    tuple(kinds)[:MAX_TYPES], widths, impressions, bool(catalogue.tag_names)
                ),
                *_of_user(tuple(kinds)[:MAX_TYPES], widths, resolution),
                *_of_item(catalogue, resolution),
                *_user_attributes(users, catalogue),
                *(own_feature(name) for name in config.own),
            ]
        )


def _widths(config: FeaturesConfig, resolution: str) -> tuple[int, ...]:
    """Widths of the bounded windows, ascending, that the resolution supports."""
    widths = sorted({window_us(name) for name in config.windows} - {UNBOUNDED})
    for width in widths:
        window_buckets(width, BUCKETS[config.bucket])
    if resolution == "ordinal":
        return ()
    if resolution == "days":
        return tuple(width for width in widths if width % DAY == 0)
    return tuple(widths)


def _counters(
    kinds: tuple[str, ...], widths: tuple[int, ...], impressions: bool, tags: bool
) -> list[Feature]:
    every = (*widths, UNBOUNDED)
    types = ("",) if len(kinds) < 2 else ("", *kinds)
    chosen: list[Feature] = [WindowCount("item", t, w) for t in types for w in every]
    chosen += [WindowCount("category", "", w) for w in every]
    longest = widths[-1] if widths else UNBOUNDED
    if tags:
        chosen += [WindowCount("tag", "", w) for w in (longest, UNBOUNDED)]
    if len(widths) > 1:
        chosen.append(Trend("", widths[0], widths[-1]))
    if impressions:
        chosen += [WindowCount("shown", "", w) for w in every]
        chosen += [SmoothedRate(t, "", w) for t in kinds for w in (longest, UNBOUNDED)]
    elif "view" in kinds:
        chosen += [SmoothedRate(t, "view", longest) for t in kinds if t != "view"]
    return list(dict.fromkeys(chosen))


def _of_user(kinds: tuple[str, ...], widths: tuple[int, ...], resolution: str) -> list[Feature]:
    types = ("",) if len(kinds) < 2 else ("", *kinds)
    chosen: list[Feature] = [UserActivity(name, UNBOUNDED) for name in types]
    chosen += [UserDiversity(of) for of in ("item", "category", "positive")]
    if resolution != "ordinal":
        chosen += [UserActivity("", width) for width in widths]
        chosen += [Recency(of) for of in ("user", "item", "category")]
        chosen.append(TimeOf("week"))
    if resolution == "seconds":
        chosen.append(TimeOf("day"))
    return chosen


def _of_item(catalogue: Catalogue, resolution: str) -> list[Feature]:
    chosen: list[Feature] = []
    if resolution != "ordinal" and (catalogue.created_at != MISSING_TIME).any():
        chosen.append(Age())
    if catalogue.tag_names:
        chosen.append(Overlap("tag"))
    if catalogue.category_names:
        chosen += [Overlap("category"), Attribute(CATEGORY, _frequent(catalogue, CATEGORY))]
    chosen += [Attribute(name) for name in catalogue.numeric_names]
    chosen += [Attribute(n, _frequent(catalogue, n)) for n in catalogue.categorical_names]
    return chosen


def _frequent(catalogue: Catalogue, name: str) -> tuple[str, ...]:
    """Values of a categorical attribute, most frequent first, ties by value."""
    codes, names = catalogue.categorical(name), catalogue.values_of(name)
    times = np.bincount(codes[codes >= 0], minlength=len(names)).tolist()
    order = sorted(range(len(names)), key=lambda code: (-times[code], names[code]))
    return tuple(names[code] for code in order[:MAX_CATEGORIES])


def _user_attributes(users: UserTable | None, catalogue: Catalogue) -> list[Feature]:
    if users is None:
        return []
    about = {*catalogue.tag_names, *catalogue.category_names}
    named = tuple(n for n, codes in users.categorical.items() if not about.isdisjoint(codes.names))
    return [
        *([StatedInterest(named)] if named else []),
        *(UserAttribute(name) for name in users.numeric),
        *(UserAttribute(n, tuple(c.names[:MAX_CATEGORIES])) for n, c in users.categorical.items()),
    ]


def own_feature(name: str) -> Feature:
    """An instance of a user's class, named as `storage.plug_ins.load_named` says.

    Raises:
        UsageError: it cannot be imported or made, or is not a feature.
    """
    kind = load_named(name, "features.own", FEATURES)
    with theirs_to_read(
        "a feature of your own cannot be made",
        f"features.own: {name}",
        expected="a class that is made without arguments",
    ):
        made = kind()
    if not isinstance(made, Feature):
        raise UsageError(
            "a feature of your own is not a Feature",
            where=f"features.own: {name}",
            found=type(made).__name__,
            expected="a subclass of recsys.features.kinds.kind.Feature",
        )
    return made


def _declared(feature: Feature) -> dict[str, Any]:
    if type(feature).__name__ in KINDS and KINDS[type(feature).__name__] is type(feature):
        return feature.to_json()
    return {"kind": "own", "class": address_of(type(feature))}


def _feature(declared: Mapping[str, Any]) -> Feature:
    fields = dict(declared)
    kind = str(fields.pop("kind", None))
    if kind == "own":
        return own_feature(str(fields.get("class")))
    if kind not in KINDS:
        raise UsageError(
            "unknown kind of feature",
            where="features.json",
            found=kind,
            expected="one of " + ", ".join(sorted(KINDS)),
        )
    plain = {n: tuple(v) if isinstance(v, list) else v for n, v in fields.items()}
    try:
        return cast(Any, KINDS[kind])(**plain)  # type: ignore[no-any-return]
    except TypeError as error:
        raise UsageError(
            "a feature's declaration does not fit its kind",
            where="features.json",
            found=f"{kind}: {error}",
        ) from None
