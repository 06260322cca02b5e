"""The engine that is always there: processes of this machine.

Ranking is mostly Python and small arrays, so threads would wait for one another; the processes
share what they map from the disk.
"""

import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Final

from recsys.storage.engines.engine import (
    Check,
    EngineFailed,
    Facts,
    PartWork,
    answered,
    facts_of,
    wrong_query,
)
from recsys.storage.files import is_disk_full
from recsys.storage.processors import bound_engine, processors
from recsys.storage.scratch import ScratchFolder

PARTS_FOR_MANY: Final = 4
"""Parts from which further processes pay for their start (measured: 3 s, as 500 lists)."""


def threads_of_part(parts: int) -> int:
    """Threads that each of so many parts may use: all where they are done one after the other."""
    return processors() if parts < PARTS_FOR_MANY else 1


class LocalEngine:
    """Parts in as many processes as there are processors.

    Args:
        processes: at a time; one, which is this process, where there is little to do, when None.
    """

    shares_disk = True

    def __init__(self, processes: int | None = None) -> None:
        self._processes = processes

    def sql(self, query: str, into: ScratchFolder, folder: Path, where: str, check: Check) -> None:
        """Write the rows of a query of DuckDB as one Parquet file; see `Engine.sql`."""
        import duckdb  # what serves and answers has no need of it

        with tempfile.TemporaryDirectory(prefix="query-") as spill, duckdb.connect() as database:
            database.execute("SET TimeZone = 'UTC'")
            bound_engine(database)
            database.execute(f"SET temp_directory = {_quoted(spill)}")
            database.execute(f"SET file_search_path = {_quoted(str(folder))}")
            # Nothing is fetched from a network that nobody asked for.
            database.execute("SET autoinstall_known_extensions = false")
            try:
                rows = database.sql(query)
                check(rows.limit(0).to_arrow_table().schema)
                target = Path(into.address, "rows.parquet")
                target.parent.mkdir(parents=True, exist_ok=True)
                database.execute(f"COPY ({query}) TO {_quoted(str(target))} (FORMAT parquet)")
            except duckdb.Error as error:
                if is_disk_full(error) or isinstance(error, duckdb.OutOfMemoryException):
                    raise
                line = str(error).splitlines()[0]
                raise wrong_query(query, where, line, "DuckDB") from error

    def each_part(self, work: PartWork, parts: Sequence[int]) -> Iterator[Facts]:
        """Facts of each part, in the order of `parts`.

        Raises:
            EngineFailed: a process was ended, as happens when memory runs out.
            RecsysError: a part's own.
        """
        processes = self._processes
        if processes is None:
            processes = processors() if len(parts) >= PARTS_FOR_MANY else 1
        if processes <= 1:
            for part in parts:
                yield work(part)
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context) as pool:
            try:
                yield from map(facts_of, pool.map(partial(answered, work), parts))
            except BrokenProcessPool:
                raise EngineFailed(
                    "a process that worked on a part was ended from outside",
                    where="engine",
                    expected="memory for every process: a release's arrays once, and 500 MB each",
                    fix="free memory, or name fewer processors with `taskset`, and run the same "
                    "command again: finished parts are kept",
                ) from None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
