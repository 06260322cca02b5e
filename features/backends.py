"""Where the Ibis expressions of the batch readings run.

A backend takes Arrow tables in and gives numpy columns out; the expression is the same for all.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import ibis
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_schemas.errors import UsageError

Columns = Mapping[str, npt.NDArray[Any]]


class Backend(Protocol):
    """An engine that holds tables and runs expressions over them."""

    def put(self, name: str, columns: Columns) -> Any:
        """Make (or replace) a table of equally long columns; an Ibis table of it."""
        ...

    def run(self, expression: Any) -> dict[str, npt.NDArray[Any]]:
        """Columns of an expression's result, in no stated order of rows."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...


class DuckDB:
    """The embedded engine; the default."""

    def __init__(self, memory_mb: int = 1500) -> None:
        self._connection = ibis.duckdb.connect()
        self._connection.raw_sql(f"SET memory_limit = '{memory_mb}MB'")
        self._connection.raw_sql("SET preserve_insertion_order = false")

    def put(self, name: str, columns: Columns) -> Any:
        # Past Ibis: its own replacing of tables is not understood by DuckDB 2.
        raw = self._connection.con
        raw.register("incoming", pa.table(dict(columns)))
        raw.execute(f'CREATE OR REPLACE TABLE "{name}" AS SELECT * FROM incoming')
        raw.unregister("incoming")
        return self._connection.table(name)

    def run(self, expression: Any) -> dict[str, npt.NDArray[Any]]:
        table = self._connection.to_pyarrow(expression)
        return {name: table[name].to_numpy() for name in table.column_names}

    def close(self) -> None:
        self._connection.disconnect()


class PySpark:
    """Spark through Ibis; needs the [spark] extra and a JDK 17."""

    def __init__(self) -> None:
        try:
            from pyspark.sql import SparkSession
        except ImportError:
            raise UsageError(
                "PySpark is not installed",
                where="features backend",
                found="pyspark",
                expected="the [spark] extra",
                fix="pip install 'recsys[spark]', with a JDK 17 on the PATH",
            ) from None
        session = (
            SparkSession.builder.master("local[2]")
            .config("spark.ui.enabled", "false")
            .config("spark.sql.session.timeZone", "UTC")
            .config("spark.sql.shuffle.partitions", "4")
            .getOrCreate()
        )
        self._session = session
        self._connection = ibis.pyspark.connect(session)

    def put(self, name: str, columns: Columns) -> Any:
        frame = pa.table(dict(columns)).to_pandas()
        self._session.createDataFrame(frame).createOrReplaceTempView(name)
        return self._connection.table(name)

    def run(self, expression: Any) -> dict[str, npt.NDArray[Any]]:
        frame = self._connection.to_pandas(expression)
        return {name: np.asarray(frame[name]) for name in frame.columns}

    def close(self) -> None:
        self._session.stop()


def open_backend(name: str, memory_mb: int) -> Backend:
    """A backend by name.

    Raises:
        UsageError: there is none of this name, or its package is not installed.
    """
    if name == "duckdb":
        return DuckDB(memory_mb)
    if name == "pyspark":
        return PySpark()
    raise UsageError(
        "unknown features backend", found=name, expected="duckdb or pyspark", where="backend"
    )
