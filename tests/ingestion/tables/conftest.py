"""Small tables written as files, and an ingestion of them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import RecsysConfig, parse_config
from recsys.ingestion.tables.event_partitions import read_events_table
from recsys.ingestion.tables.ingest import ingest
from recsys.ingestion.tables.load import read_summary
from recsys.storage.eventlog.retention import NO_LIMITS, Retention

UTC_TIME = pa.timestamp("us", tz="UTC")
NOON = 1_700_000_000_000_000
"""A moment in 2023, µs."""
NOW = NOON + 365 * 86_400_000_000


@dataclass
class Desk:
    """A folder in which a test lays out tables and ingests them."""

    root: Path

    def write(self, name: str, table: pa.Table | dict[str, Any]) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path)
        return path

    def items(self, n: int = 4, name: str = "items.parquet", **columns: Any) -> Path:
        base: dict[str, Any] = {
            "item_id": [f"i{k}" for k in range(n)],
            "title": [f"Item {k}" for k in range(n)],
        }
        return self.write(name, {k: v for k, v in (base | columns).items() if v is not None})

    def events(self, n: int = 8, name: str = "events.parquet", **columns: Any) -> Path:
        base: dict[str, Any] = {
            "user_id": [f"u{k % 3}" for k in range(n)],
            "item_id": [f"i{k % 4}" for k in range(n)],
            "event_type": ["click"] * n,
            "timestamp": pa.array([NOON + k * 1_000_000 for k in range(n)], UTC_TIME),
        }
        return self.write(name, {k: v for k, v in (base | columns).items() if v is not None})

    def config(self, **data: Any) -> RecsysConfig:
        names = {"items": "items.parquet", "events": "events.parquet"} | data
        privacy = names.pop("privacy", {})
        return parse_config({"data": names, "privacy": privacy}, self.root)

    @property
    def out(self) -> Path:
        return self.root / "work" / "tables"

    def ingest(
        self,
        previous: Path | None = None,
        drained: Path | None = None,
        forgotten: set[str] | None = None,
        now: int = NOW,
        opted_out: set[str] | None = None,
        limits: Retention = NO_LIMITS,
        **data: Any,
    ) -> dict[str, Any]:
        return ingest(
            self.config(**data),
            self.out,
            previous,
            drained,
            forgotten,
            opted_out=opted_out or set(),
            limits=limits,
            now=now,
        )

    def rows(self, name: str) -> list[dict[str, Any]]:
        if name == "events.parquet":
            base = read_summary(self.out)["positions"]["log_base"]
            events: list[dict[str, Any]] = read_events_table(self.out, base).to_pylist()
            return events
        rows: list[dict[str, Any]] = pq.read_table(self.out / name).to_pylist()
        return rows

    def left_behind(self) -> list[str]:
        """Everything below `work`, hidden files too."""
        work = self.root / "work"
        return sorted(str(p.relative_to(work)) for p in work.rglob("*")) if work.exists() else []


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def at() -> Callable[[int], datetime]:
    """A moment `seconds` after NOON."""
    return lambda seconds: datetime.fromtimestamp(NOON / 1e6 + seconds, UTC)
