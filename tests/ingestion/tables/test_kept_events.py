"""An ingestion that builds upon an earlier one gives the bytes of one from scratch."""

import os
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from recsys.ingestion.tables import event_writing
from recsys.ingestion.tables import ingest as whole
from recsys.ingestion.tables.event_partitions import periods
from recsys.ingestion.tables.ingest import ingest
from recsys.ingestion.tables.kept_events import FilePrint, KnownInputs, LogPart, keep
from recsys.storage.eventlog.retention import Retention
from recsys.storage.files import hash_file

TIME = pa.timestamp("us", tz="UTC")
DAY = 86_400_000_000
START = 19_700 * DAY
"""A day of December 2023."""


class World:
    """Files of events, a log, items and wishes that change from night to night."""

    def __init__(self, desk, seed):
        self.desk, self.draw = desk, np.random.default_rng(seed)
        self.files, self.items, self.n, self.day = {}, 4, 0, 6
        self.log, self.wishes, self.since, self.nights = [], {}, None, 0
        self.forgotten, self.out = set(), None
        for name in ("a", "b", "c"):
            self.files[name] = self.rows(14)

    def rows(self, count, days=None):
        """Rows of which some break a rule, share an id or equal another."""
        draw, low = self.draw, 0 if days is None else days
        rows = []
        for _ in range(count):
            day = int(draw.integers(low, self.day + 1))
            if draw.random() < 0.1:
                day += 3
            at = START + day * DAY * 9 + int(draw.integers(0, 3)) * DAY // 3
            id_ = f"e{draw.integers(0, 150)}" if draw.random() < 0.4 else None
            value = [None, 1.0, 0.1][int(draw.integers(0, 3))]
            rows.append((f"u{draw.integers(0, 7)}" if draw.random() > 0.03 else " ",
                         f"i{draw.integers(0, 6)}", "click", at, value, id_))  # fmt: skip
        return rows

    def change(self):
        """One night's changes."""
        draw = self.draw
        self.day += 1
        for what in draw.choice(8, size=2, replace=False):
            name = str(draw.choice(sorted(self.files)))
            if what == 0:
                self.files[f"f{self.nights}"] = self.rows(6, self.day)
            elif what == 1:
                self.files[name] = self.files[name][2:] + self.rows(3)
            elif what == 2 and len(self.files) > 2:
                del self.files[name]
            elif what == 3:
                self.files[f"a{self.nights}"] = self.rows(3)
            elif what == 4:
                self.log += self.rows(4)
            elif what == 5:
                self.forgotten.add(f"u{draw.integers(0, 7)}")
            elif what == 6:
                self.items = min(self.items + 1, 6)
            else:
                self.since = START + (self.day - 6) * 3 * DAY
        self.nights += 1

    def lay_out(self):
        """Write everything; (label → print, the log's folder)."""
        self.desk.items(self.items)
        place = self.desk.root / "events"
        for file in place.glob("*.parquet") if place.exists() else ():
            file.unlink()
        for name, rows in self.files.items():
            self.desk.write(f"events/{name}.parquet", columns(rows))
        log = None
        if self.log:
            table = columns(self.log) | {
                "received_at": pa.array([row[3] for row in self.log], TIME),
                "position": list(range(1, len(self.log) + 1)),
            }
            log = self.desk.write("drained/events.parquet", table).parent
        found = sorted(place.glob("*.parquet"))
        return {str(file): FilePrint(file.name, hash_file(file)) for file in found}, log

    def night(self, out, earlier):
        """Ingest into a folder."""
        prints, log = self.lay_out()
        return ingest(
            self.desk.config(events="events", quarantine_limit=1.0), out,
            self.out / "items.parquet" if self.out else None, log, set(self.forgotten),
            limits=Retention(self.since, None, None), now=START + (self.day + 1) * 9 * DAY,
            known=KnownInputs(prints, LogPart("the log", len(self.log)), earlier),
        )  # fmt: skip


def columns(rows):
    names = ("user_id", "item_id", "event_type", "timestamp", "value", "event_id")
    kinds = (pa.string(), pa.string(), pa.string(), TIME, pa.float64(), pa.string())
    return {n: pa.array([row[k] for row in rows], kinds[k]) for k, n in enumerate(names)}


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def small_files(monkeypatch):
    """Years and months of more than a dozen events are divided."""
    monkeypatch.setattr(event_writing, "periods", partial(periods, most=12))


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("seed", range(4))
def test_any_sequence_of_changes_gives_the_bytes_of_a_run_from_scratch(desk, seed, monkeypatch):
    world, built_upon = World(desk, seed), []
    monkeypatch.setattr(
        whole, "keep", lambda *given: built_upon.append(kept := keep(*given)) or kept
    )
    for night in range(6):
        built, scratch = desk.root / f"built{night}", desk.root / f"scratch{night}"
        found = world.night(built, world.out)
        assert found == world.night(scratch, None)
        assert contents(built) == contents(scratch), f"night {night}"
        world.out = built
        world.change()
    assert sum(kept is not None for kept in built_upon) >= 4


@pytest.mark.usefixtures("small_files")
def test_a_further_day_leaves_the_files_of_all_others(desk, monkeypatch):
    world = World(desk, 0)
    world.night(desk.root / "first", None)
    world.out = desk.root / "first"
    world.files["later"] = [
        ("u1", "i1", "click", START + 58 * DAY + k, None, None) for k in range(3)
    ]
    world.day += 1
    read = []
    monkeypatch.setattr(
        event_writing, "write_period",
        lambda duck, period, *rest, write=event_writing.write_period: (
            read.append(period.name), write(duck, period, *rest)),
    )  # fmt: skip
    world.night(desk.root / "second", world.out)
    before = {f.name: f.stat().st_ino for f in (desk.root / "first/events").iterdir()}
    after = {f.name: f.stat().st_ino for f in (desk.root / "second/events").iterdir()}
    assert len(read) <= 2
    assert len(before.items() & after.items()) >= len(before) - 1 > 0
    os.remove(desk.root / "first/events" / next(iter(before)))
    world.night(desk.root / "third", desk.root / "first")
    assert contents(desk.root / "third") == contents(desk.root / "second")
