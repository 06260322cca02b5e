"""Feature rows that were served, computed again in batch from what was known when they were served.

A service logs a sample of its feature rows with the moment, the log position its state had reached
and the snapshot that state was folded from. Here the same rows are read in batch: from the tables
that the snapshot was built of, and the log behind it up to that position. Both must agree to 1e-6,
feature by feature; what does not is an alarm on the report's first screen.

Left out, and counted by reason: what a request brought along itself (its own history, items with
their text), what was answered without a part, and what nobody keeps any more (the version, the
snapshot's tables, the events of people who asked to be forgotten).

Shapes: L served lists, R their rows, F features.
"""

import base64
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import EventsConfig, FeaturesConfig, RecsysConfig
from recsys.data_schemas.errors import RecsysError
from recsys.data_schemas.log_record import ITEM, KNOWN_POSITION, LogRecord
from recsys.data_schemas.meaning import EventMeaning
from recsys.evaluation.report_context import Check
from recsys.features.catalogue import Catalogue
from recsys.features.counted_events import ENTITY_SHOWN
from recsys.features.feature_set import FeatureSet
from recsys.features.ids import IdIndex
from recsys.features.impressions import Impressions
from recsys.features.interactions import Floats, Longs
from recsys.features.kinds.kind import CounterFeature
from recsys.features.parity import (
    LIMIT,
    ItemPlaces,
    KnownHistories,
    Served,
    relative,
    served_rows,
    with_log,
)
from recsys.features.rows import BatchInputs
from recsys.features.state import OnlineState
from recsys.ingestion.tables.load import load_tables
from recsys.query import RankingQuery
from recsys.storage.bundle import Bundle, open_bundle
from recsys.storage.eventlog.retention import FEATURES
from recsys.storage.registry import Registry
from recsys.storage.stages import Stage, facts
from recsys.storage.stages.identity import MARKER
from recsys.storage.workspace import Workspace
from recsys.training.night.inputs import TABLES, user_table
from recsys.training.night.night_context import Night
from recsys.training.night.read_data import graded

LISTS: Final = 300
"""Served lists looked at, the latest (assumed; some seconds of work)."""
CODE: Final = (
    *("recsys.encoder", "recsys.features", "recsys.ranker", "recsys.retrieval"),
    *("recsys.business_rules", "recsys.explain", "recsys.filters", "recsys.new_items"),
    *("recsys.popular_items", "recsys.query", "recsys.reasons", "recsys.recommender"),
    *("recsys.rules", "recsys.sentences", "recsys.similar", "recsys.told_attributes"),
    *("recsys.ingestion.tables", "recsys.training.night.read_data"),
)
CHANGES: Final = 20
"""Times that items may change between the lists looked at; each costs one batch reading."""
REASONS: Final = {
    "history": "the request brought its own history",
    "degraded": "it was answered without a part",
    "waiting": "texts of new items were still being encoded",
    "old": "it was logged without the name of its snapshot",
    "version": "its version is no longer kept",
    "snapshot": "the tables of its snapshot are no longer kept",
    "changes": "items changed too often since",
    "attributes": "attributes of its person came through the service since its snapshot",
    "columns": "it has other columns than its version's features",
}


@dataclass(frozen=True)
class Sample:
    """One served list with its feature rows, as logged."""

    served: Served
    """Its position is the last that was folded, as the log numbers them."""
    version: str
    facts: Mapping[str, Any]

    @property
    def snapshot(self) -> str:
        return str(self.facts.get("snapshot", ""))

    @property
    def unfit(self) -> str | None:
        """Why its rows cannot be computed again, a key of `REASONS`."""
        for reason, holds in (
            ("old", not self.snapshot),
            ("history", self.facts.get("inline_history")),
            ("degraded", self.facts.get("degraded")),
            ("waiting", self.facts.get("waiting")),
        ):
            if holds:
                return reason
        return None


@dataclass
class Found:
    """What a comparison came to."""

    worst: dict[str, float] = field(default_factory=dict)
    """Column → largest relative difference."""
    example: dict[str, str] = field(default_factory=dict)
    """Column → the row with it, in words."""
    lists: int = 0
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason → lists."""

    def add(self, names: Sequence[str], logged: Floats, again: Floats, where: list[str]) -> None:
        """Compare float32[R, F] rows; `where` says of each row whose it is."""
        self.rows += len(logged)
        if not len(logged):
            return
        difference = relative(logged, again)
        for f, name in enumerate(names):
            row = int(np.argmax(difference[:, f]))
            worst = float(difference[row, f])
            if worst > self.worst.setdefault(name, 0.0):
                self.worst[name] = worst
                self.example[name] = (
                    f"{where[row]}: served {logged[row, f]:.9g}, in batch {again[row, f]:.9g}"
                )

    def facts(self) -> dict[str, Any]:
        """As plain values; an infinite difference (a value on one side only) as text."""
        return {
            "lists": self.lists,
            "rows": self.rows,
            "left_out": {REASONS.get(why, why): n for why, n in sorted(self.left_out.items())},
            "worst": {name: f"{value:.3g}" for name, value in self.worst.items()},
            "broken": {n: self.example[n] for n, value in self.worst.items() if value > LIMIT},
        }


def check(night: Night) -> list[Check]:
    """What comparing the latest served rows found; nothing where none could be compared."""
    drained = night.drained
    if drained is None:
        return []
    stage = night.runner.run(
        Stage(
            "parity",
            {"drained": drained.key, "lists": LISTS},
            lambda _: compare(night, drained.product).facts(),
            facts,
            code=CODE,
        )
    )
    if not stage.made:
        return []  # nothing that a dry run can foresee depends on it
    found = stage.product
    if found["left_out"]:
        said = "; ".join(f"{n} because {why}" for why, n in found["left_out"].items())
        night.reporter.say(f"parity: served lists not compared: {said}")
    for name, example in found["broken"].items():
        night.reporter.warn(f"batch and online differ in {name}: {example}")
    return checks(found)


def checks(found: Mapping[str, Any]) -> list[Check]:
    """The report's lines: one in all, and one for each feature that differs; none where nothing was
    compared."""
    if not found["rows"]:
        return []
    worst, broken = found["worst"], found["broken"]
    unequal = [f"{name} {value}" for name, value in worst.items() if float(value) > 0]
    return [
        Check(
            f"{len(worst)} features of {found['rows']:,} served rows in {found['lists']:,} lists",
            not broken,
            "largest relative differences: " + ", ".join(unequal)
            if unequal
            else "served and in batch the same to the last bit",
        ),
        *(Check(f"served feature {name}", False, where) for name, where in broken.items()),
    ]


def compare(night: Night, drained: Path) -> Found:
    """The latest sampled lists of the drained log against their batch reading."""
    found = Found()
    by_origin: dict[tuple[str, str], list[Sample]] = {}
    for sample in read_samples(drained / "impressions.parquet"):
        if sample.unfit is not None:
            found.left_out[sample.unfit] += 1
            continue
        by_origin.setdefault((sample.version, sample.snapshot), []).append(sample)
    for (version, snapshot), samples in by_origin.items():
        bundle = _bundle(night.registry, version)
        base = _Base.open(night.workspace, night.config, snapshot)
        if bundle is None or base is None:
            found.left_out["version" if bundle is None else "snapshot"] += len(samples)
            continue
        try:
            _compare_origin(bundle, base, drained, samples, found)
        except RecsysError as error:
            # Rows of then that cannot be read now (a feature of one's own is gone, say) are no
            # reason to end the night; nobody must take them for compared either.
            found.left_out[f"{error.what}: {error.found}"] += len(samples)
    return found


def read_samples(file: Path, limit: int = LISTS) -> list[Sample]:
    """The latest sampled lists, in the order of the log position they knew."""
    names = [c.USER_ID, c.TIMESTAMP, c.MODEL_VERSION, KNOWN_POSITION, FEATURES]
    table = pq.read_table(file, columns=names, filters=pc.field(FEATURES).is_valid())
    table = table.sort_by([(KNOWN_POSITION, "ascending"), (c.TIMESTAMP, "ascending")])
    last = table.slice(max(0, table.num_rows - limit))
    times = last[c.TIMESTAMP].cast(pa.int64()).to_pylist()
    return [_sample(row, time) for row, time in zip(last.to_pylist(), times, strict=True)]


def _sample(row: Mapping[str, Any], time: int) -> Sample:
    facts = json.loads(row[FEATURES])
    flat = np.frombuffer(base64.b64decode(facts["float32"]), "<f4")
    served = Served(
        row[c.USER_ID],
        time,
        row[KNOWN_POSITION],
        facts["items"],
        flat.reshape(len(facts["items"]), facts["columns"]),
        facts["context"],
    )
    return Sample(served, row[c.MODEL_VERSION], facts)


def _bundle(registry: Registry, version: str) -> Bundle | None:
    try:
        return open_bundle(registry.local_path(int(version)))
    except (RecsysError, ValueError):
        return None


@dataclass(frozen=True)
class _Base:
    """What a snapshot was built of."""

    inputs: BatchInputs
    """The tables alone, without the log behind them."""
    meaning: EventMeaning
    log_position: int
    """Records up to it are in the tables."""
    log_base: int
    """What is added to a log position to number it among the tables' rows."""

    @classmethod
    def open(cls, workspace: Workspace, config: RecsysConfig, snapshot: str) -> "_Base | None":
        """The tables of a snapshot, read with the settings of its night; None when gone.

        A snapshot made since by folding the log, or a published one, is named after that of its night.
        """
        snapshot = snapshot.partition("-")[0].partition(".")[0]
        try:
            marker = json.loads(
                (workspace.stages / "state" / snapshot / MARKER).read_text(encoding="utf-8")
            )
            folder = workspace.stages / "tables" / marker["facts"]["tables"] / TABLES
        except (OSError, ValueError, KeyError):
            return None
        if not folder.is_dir():
            return None
        sections = {"events": EventsConfig.model_validate(marker["inputs"]["events"])}
        then = config.model_copy(update=sections)
        tables = load_tables(folder, then)
        events, meaning = graded(tables.interactions, tables.meaning)
        if marker["facts"]["until"] is not None:
            events = events.before(int(marker["facts"]["until"]))
        inputs = BatchInputs(
            events,
            tables.catalogue,
            user_table(tables),
            tables.impressions,
            FeaturesConfig.model_validate(marker["inputs"]["features"]).bucket,
        )
        return cls(
            inputs,
            meaning,
            int(marker["facts"]["log_position"]),
            int(tables.summary["positions"]["log_base"]),
        )


def _compare_origin(
    bundle: Bundle, base: _Base, drained: Path, samples: list[Sample], found: Found
) -> None:
    """Lists of one version over one snapshot."""
    features = FeatureSet.from_json(bundle.features)
    told = _told_since(drained / "users.parquet", base.log_position)
    found.left_out["attributes"] += sum(s.served.user_id in told for s in samples)
    samples = [s for s in samples if s.served.user_id not in told]
    fit = [s for s in samples if s.served.features.shape[1] == len(features)]
    found.left_out["columns"] += len(samples) - len(fit)
    world = _World(bundle, base, drained)
    for span in _spans(world.changes, fit, found):
        rows = [row for sample in span if (row := world.row(sample)) is not None]
        if rows:
            found.lists += len(rows)
            found.add(features.columns, *_read_again(features, world, rows))
    found.left_out = +found.left_out


def _told_since(file: Path, position: int) -> set[str]:
    """Persons of whom the log has told attributes behind a position."""
    if not file.exists():
        return set()
    table = pq.read_table(file, columns=[c.USER_ID], filters=pc.field(c.POSITION) > position)
    return set(table[c.USER_ID].to_pylist())


def _spans(changes: Longs, samples: list[Sample], found: Found) -> Iterator[list[Sample]]:
    """Lists of stretches of the log in which no known item changes; the latest stretches."""
    spans: dict[int, list[Sample]] = {}
    for sample in samples:
        number = int(np.searchsorted(changes, sample.served.position, "right"))
        spans.setdefault(number, []).append(sample)
    for number in list(spans)[:-CHANGES]:
        found.left_out["changes"] += len(spans.pop(number))
    yield from spans.values()


@dataclass(frozen=True)
class _Row:
    """One list ready to be read again."""

    served: Served
    """Only items that the catalogue knew; its position bounds what it sees of `_World.events`."""
    signals: Mapping[str, Floats]
    version: str
    known: int
    """Last log position folded when it was served."""


class _World:
    """A snapshot's tables with the log behind them, and a release's recall over the items as they
    came. Lists are read in the order of what they knew."""

    def __init__(self, bundle: Bundle, base: _Base, drained: Path) -> None:
        from recsys.recommender import LoadedRelease

        tables, start = base.inputs.interactions, base.log_position
        self.base, self.catalogue = base, base.inputs.catalogue
        self._items = [
            LogRecord(int(row[c.POSITION]), ITEM, row, 0)
            for row in _behind(drained / "items.parquet", start).to_pylist()
        ]
        self._folded = 0
        self.changes = _changes(self._items, self.catalogue)
        forgets = _behind(drained / "forgets.parquet", start)
        self.last_forget: int = pc.max(forgets[c.POSITION]).as_py() or 0
        """Position of the last wish to be forgotten behind the snapshot; 0 without any."""
        forgotten = forgets[c.USER_ID].cast(pa.large_string())
        gone = np.asarray(pc.is_in(tables.user_ids.arrow(), value_set=forgotten))
        self._shown = _behind(drained / "impressions.parquet", start)
        self.events = with_log(
            tables.where(~gone[tables.user]),
            _behind(drained / "events.parquet", start),
            _places(self._items, self.catalogue),
            base.meaning,
            base.log_base,
        )
        self._histories = KnownHistories(self.events)
        self._users = IdIndex.build(self.events.user_ids)
        # Histories come from the tables, so recall is asked over a state without any event.
        nobody = tables.where(np.zeros(len(tables), bool))
        bucket = base.inputs.bucket_us
        state = OnlineState.build(
            nobody, self.catalogue, bucket_us=bucket, windows_us=(), log_position=start
        )
        self._loaded = LoadedRelease(bundle, state, version="")

    def row(self, sample: Sample) -> _Row | None:
        """A list with the signals of recall as of what it knew; None if no item was known."""
        served, known = sample.served, sample.served.position
        self._fold_items(known)
        found = self.catalogue.indices_of(list(served.item_ids))
        kept = np.flatnonzero(found >= 0)
        if not len(kept):
            return None
        bound = self.base.log_base + known + 1
        user = self._users.index_of(served.user_id)
        history = self._histories.of(user, served.now, bound)
        facts = sample.facts
        ask = RankingQuery(
            served.user_id,
            served.now,
            items=None if facts["recommended"] else [],
            keep_seen=facts["keep_seen"],
            exclude=facts["exclude"],
            filters=facts["filters"],
        )
        signals = self._loaded.signals(ask, history, np.ascontiguousarray(found[kept]))
        again = replace(
            served,
            position=bound,
            item_ids=[served.item_ids[place] for place in kept.tolist()],
            features=served.features[kept],
        )
        return _Row(again, signals, sample.version, known)

    def _fold_items(self, known: int) -> None:
        """Bring the catalogue to a log position, one record at a time, as a service does."""
        while self._folded < len(self._items) and self._items[self._folded].position <= known:
            self._loaded.apply([self._items[self._folded]])
            self._folded += 1
            while self._loaded.encode_new():
                pass
        if self._loaded.lacks_encoder:
            raise RecsysError("the release's encoder cannot be opened", found="new items to encode")

    def inputs(self) -> BatchInputs:
        """The tables with the log behind them, as of the items folded."""
        events, n_items = self.events, self.catalogue.n_items
        if n_items < events.n_items:
            events = replace(events.where(events.item < n_items), n_items=n_items)
        return replace(
            self.base.inputs,
            interactions=events,
            impressions=self._impressions(),
        )

    def _impressions(self) -> Impressions | None:
        before = self.base.inputs.impressions
        if before is not None:
            # Lists of the tables were known to everybody, however they are numbered.
            before = before.always_known()
        if not len(self._shown):
            return before
        position = pc.add(self._shown[c.POSITION], self.base.log_base)
        place = self._shown.column_names.index(c.POSITION)
        later = Impressions.from_table(
            self._shown.set_column(place, c.POSITION, position), self.catalogue
        )
        return later if before is None else before.joined(later)


def _behind(file: Path, position: int) -> Any:
    """Rows of an exported table behind a log position, in its order."""
    return pq.read_table(file, filters=pc.field(c.POSITION) > position).sort_by(c.POSITION)


def _changes(records: Sequence[LogRecord], catalogue: Catalogue) -> Longs:
    """Positions at which an item that was known already changes."""
    known: set[str] = set()
    found = []
    for record in records:
        item_id = record.payload[c.ITEM_ID]
        if item_id in known or catalogue.index_of(item_id) >= 0:
            found.append(record.position)
        known.add(item_id)
    return np.array(found, np.int64)


def _places(records: Sequence[LogRecord], catalogue: Catalogue) -> "ItemPlaces":
    """Where the items of the log stand in the catalogue, and since when."""
    born: dict[str, tuple[int, int]] = {}
    for record in records:
        item_id = record.payload[c.ITEM_ID]
        if catalogue.index_of(item_id) < 0 and item_id not in born:
            born[item_id] = (catalogue.n_items + len(born), record.position)
    return ItemPlaces(catalogue, born)


def _read_again(
    features: FeatureSet, world: _World, rows: list[_Row]
) -> tuple[Floats, Floats, list[str]]:
    """(logged float32[R, F], in batch float32[R, F], whose each row is) of lists of one stretch."""
    inputs = world.inputs()
    names = rows[0].signals
    signals = {name: np.concatenate([row.signals[name] for row in rows]) for name in names}
    made, logged = served_rows(
        [row.served for row in rows], inputs.interactions, inputs.catalogue, signals
    )
    again = features.batch(made, inputs)
    lengths = np.diff(made.offsets)
    known = np.repeat([row.known for row in rows], lengths)
    unsure = _unsure(features, known, world.last_forget)
    again[unsure] = logged[unsure]
    where = [
        f"item {item} for a list of version {row.version} at {_time(row.served.now)}"
        for row in rows
        for item in row.served.item_ids
    ]
    return logged, again, where


def _unsure(features: FeatureSet, known: Longs, last_forget: int) -> npt.NDArray[np.bool_]:
    """bool[R, F]: values that hold events of people who asked to be forgotten since.

    Events known before the wish are gone from the log, so counters of then cannot be counted again;
    lists shown to these people stay in the service's counters until its next snapshot.
    """
    counts = np.array([isinstance(f, CounterFeature) for f in features.features], bool)
    shown = np.array(
        [
            isinstance(f, CounterFeature) and any(n.entity == ENTITY_SHOWN for n in f.needs)
            for f in features.features
        ],
        bool,
    )
    before = known < last_forget
    unsure: npt.NDArray[np.bool_] = (before[:, None] & counts) | (shown & (last_forget > 0))
    return unsure


def _time(microseconds: int) -> str:
    return str(np.datetime64(microseconds, "us").astype("datetime64[s]"))
