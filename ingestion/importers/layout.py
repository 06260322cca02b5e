"""What every importer needs: finding files, reading them with clear errors, writing tables."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.ingestion.tables.duck import DuckEngine, quote


@dataclass
class Job:
    """One conversion under way."""

    duck: DuckEngine
    layout: str
    source: Path
    target: Path
    counts: dict[str, int] = field(default_factory=dict)
    """Rows written, by table."""
    notes: list[str] = field(default_factory=list)
    """What was assumed or left out; stands as comments in recsys.yaml."""
    settings: list[str] = field(default_factory=list)
    """Further lines of recsys.yaml."""

    def find(self, *patterns: str, why: str = "") -> list[Path]:
        """Files of the source that match any pattern, at any depth, sorted.

        Raises:
            UsageError: there is none.
        """
        found = self.look(*patterns)
        if not found:
            names = (p.relative_to(self.source) for p in self.source.rglob("*.*"))
            # What is hidden is no part of a data set; it may be what we are writing.
            there = sorted(n.as_posix() for n in names if not n.as_posix().startswith("."))
            raise UsageError(
                f"a file of the {self.layout} layout is missing",
                where=str(self.source),
                found=", ".join(there[:10]) or "an empty folder",
                expected=" or ".join(patterns) + (f" ({why})" if why else ""),
                fix="unpack the data set there, or name the folder it was unpacked to",
            )
        return found

    def look(self, *patterns: str) -> list[Path]:
        """As `find`, but an empty list if there is none."""
        return sorted({f for p in patterns for f in self.source.rglob(p) if f.is_file()})

    def write(self, table: str, sql: str, files: list[Path]) -> None:
        """Write a query's rows as a table; `files` is what it reads, for messages.

        Raises:
            DataRefused: the files are not what the layout says.
        """
        path = self.target / "data" / f"{table}.parquet"
        try:
            self.duck.copy(sql, path)
            self.counts[table] = int(
                self.duck.one(f"SELECT count(*) FROM read_parquet({quote(str(path))})")
            )
        except duckdb.Error as error:
            if isinstance(error, duckdb.ParserException | duckdb.InternalException):
                raise
            raise DataRefused(
                f"the files are not in the {self.layout} layout",
                where=", ".join(str(f) for f in files[:3]),
                found=str(error).splitlines()[0][:300],
                expected=f"the files as published, unchanged (for the {table} table)",
                fix="unpack the data set again; a newer release may have another layout",
            ) from error

    def finish(self, scratch: Path) -> None:
        """Write recsys.yaml and remove what was only needed on the way."""
        shutil.rmtree(scratch)
        lines = [f"# Imported from the {self.layout} layout.", *(f"# {n}" for n in self.notes)]
        lines += ["data:", *(f"  {t}: data/{t}.parquet" for t in self.counts)]
        lines += ["workspace: work", f"name: {self.layout}"]
        lines += ["clock: end_of_data  # the data has ended", *self.settings]
        (self.target / "recsys.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def listed(files: list[Path]) -> str:
    """Files as a list of SQL."""
    return "[" + ", ".join(quote(str(f)) for f in files) + "]"
