"""Where the Ibis expressions of the batch readings run.

A backend takes Arrow tables in and gives numpy columns out; the expression is the same for all.
"""

import tempfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, Protocol

import ibis
import numpy.typing as npt
import pyarrow as pa

from recsys.data_schemas.config import SparkConfig
from recsys.data_schemas.errors import UsageError
from recsys.features.counter_query import CountColumn
from recsys.storage.engines.spark import open_session
from recsys.storage.processors import bound_engine

ARRAYS: Final = "arrays"
"""No engine at all: counts from sorted arrays of this process (`recsys.features.array_counts`)."""
LEAST_MEMORY_MB: Final = 256
"""DuckDB needs some tens of MB for its own (measured)."""
Columns = Mapping[str, npt.NDArray[Any]]
Query = Callable[[tuple[CountColumn, ...]], Any]
"""An Ibis expression over unbound tables, by the counts wanted (see `counter_query`)."""


@lru_cache(maxsize=64)
def sql_of(query: Query, columns: tuple[CountColumn, ...], dialect: str) -> str:
    """The SQL that Ibis writes for an engine; kept, since writing it costs a tenth of a second."""
    return str(ibis.to_sql(query(columns), dialect=dialect))


class Backend(Protocol):
    """An engine that holds tables and runs expressions over them."""

    def put(self, name: str, columns: Columns) -> None:
        """Make (or replace) a table of equally long columns."""
        ...

    def run(self, query: Query, columns: tuple[CountColumn, ...]) -> dict[str, npt.NDArray[Any]]:
        """Columns of a query's result, its rows in no stated order."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...


class DuckDB:
    """The embedded engine. Ibis writes the SQL, DuckDB itself is asked."""

    def __init__(self, memory_mb: int) -> None:
        import duckdb

        self._connection = duckdb.connect()
        # What does not fit goes to a folder of our own, not to the caller's working folder.
        self._spill = tempfile.TemporaryDirectory(prefix="features-")
        self._connection.execute(f"SET temp_directory = '{self._spill.name}'")
        bound_engine(self._connection, max(memory_mb, LEAST_MEMORY_MB))
        self._connection.execute("SET preserve_insertion_order = false")

    def put(self, name: str, columns: Columns) -> None:
        self._connection.register("incoming", pa.table(dict(columns)))
        self._connection.execute(f'CREATE OR REPLACE TABLE "{name}" AS SELECT * FROM incoming')
        self._connection.unregister("incoming")

    def run(self, query: Query, columns: tuple[CountColumn, ...]) -> dict[str, npt.NDArray[Any]]:
        answer = self._connection.execute(sql_of(query, columns, "duckdb"))
        found: dict[str, npt.NDArray[Any]] = answer.fetchnumpy()
        return found

    def close(self) -> None:
        self._connection.close()
        self._spill.cleanup()


class PySpark:
    """Spark, asked with the SQL that Ibis writes for it; needs the [spark] extra and a JDK 17."""

    def __init__(self, settings: SparkConfig) -> None:
        # Few shuffles: what is counted here has been cut to a part that fits memory.
        conf = {"spark.sql.shuffle.partitions": "4", **settings.conf}
        self._session = open_session(settings.model_copy(update={"conf": conf}))

    def put(self, name: str, columns: Columns) -> None:
        self._session.createDataFrame(pa.table(dict(columns))).createOrReplaceTempView(name)

    def run(self, query: Query, columns: tuple[CountColumn, ...]) -> dict[str, npt.NDArray[Any]]:
        found = self._session.sql(sql_of(query, columns, "pyspark")).toArrow()
        return {name: found[name].to_numpy() for name in found.column_names}

    def close(self) -> None:
        # The session is the process's own and costs seconds to start: it is left to others.
        for table in self._session.catalog.listTables():
            self._session.catalog.dropTempView(table.name)

    def stop(self) -> None:
        """End the process's Spark session."""
        self._session.stop()


def open_backend(name: str, memory_mb: int, spark: SparkConfig | None = None) -> Backend:
    """A backend by name.

    Args:
        name: `duckdb` or `pyspark`.
        memory_mb: what DuckDB may take.
        spark: how Spark is reached (`engine.spark` of the config); when None as its own settings say.

    Raises:
        UsageError: there is none of this name, or its package is not installed.
    """
    if name == "duckdb":
        return DuckDB(memory_mb)
    if name == "pyspark":
        return PySpark(spark or SparkConfig())
    raise UsageError(
        "unknown features backend",
        found=name,
        expected="arrays, duckdb or pyspark",
        where="backend",
    )
