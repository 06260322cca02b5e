"""Parts on Spark: `mapInArrow` over the parts' numbers, the same Python in every worker.

What Spark does is to start the work, retry it and spread it; handing rows over would cost more code
and no less time. Works in a process of its own (`local[4]`), on a cluster (`yarn`, `k8s://…`,
`spark://…`) and over Spark Connect (`sc://…`).
"""

import json
import logging
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from recsys import __version__
from recsys.data_schemas.config import SparkConfig
from recsys.data_schemas.distribution import install_extra
from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.storage.engines.engine import (
    GPUS,
    Check,
    EngineFailed,
    Facts,
    PartWork,
    answered,
    facts_of,
    wrong_query,
)
from recsys.storage.scratch import ScratchFolder

WHERE: Final = "engine.spark"
REACHABLE_SECONDS: Final = 5.0
"""How long a master may take to accept a connection; Spark itself would try for minutes."""
NOT_INSTALLED: Final = "PACKAGE_NOT_INSTALLED"
"""How PySpark names a package that its Connect client lacks."""
QUIET: Final = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}


class SparkEngine:
    """Parts as tasks of a Spark session."""

    def __init__(self, session: Any, shares_disk: bool) -> None:
        """Use `open`."""
        self._session = session
        self.shares_disk = shares_disk

    @classmethod
    def open(cls, settings: SparkConfig) -> "SparkEngine":
        """The session that the config names, with one task tried in it.

        Raises:
            UsageError: pyspark or a JDK is missing, the master is wrong or away, or its workers run
                another Python or another version of this package.
        """
        session = open_session(settings)
        master = settings.master or "" if settings.remote is None else settings.remote
        engine = cls(session, re.fullmatch(r"local(\[.*\])?", master) is not None)
        engine._require_same_python()
        return engine

    def each_part(self, work: PartWork, parts: Sequence[int]) -> Iterator[Facts]:
        """Facts of each part, in the order of `parts`; all parts are done when the first is told.

        Raises:
            EngineFailed: Spark gave up; finished parts are kept.
            RecsysError: a part's own.
        """
        if not parts:
            return
        try:
            answers = self._answers(work, parts)
        except Exception as error:
            raise EngineFailed(
                "Spark gave up on a part",
                where=WHERE,
                found=_cause(error),
                fix="see the executors' logs; the same command goes on with what is not finished",
            ) from error
        for part in parts:
            yield facts_of(answers[part])

    def sql(self, query: str, into: ScratchFolder, folder: Path, where: str, check: Check) -> None:
        """Write the rows of a query of Spark SQL, a Parquet file for each of its partitions; see
        `Engine.sql`. The workers write them through pyarrow: the driver holds no row."""
        try:
            rows = self._session.sql(query)
            schema = rows.limit(0).toArrow().schema
        except Exception as error:
            line = (str(error).splitlines() or [type(error).__name__])[0][:400]
            raise wrong_query(query, where, line, "Spark SQL") from None
        check(schema)
        # A query without rows has no partition that would write a file.
        into.write_table("rows-none.parquet", schema.empty_table())

        def write(batches: Any) -> Any:
            from pyspark import TaskContext

            partition = TaskContext.get().partitionId()
            with tempfile.TemporaryDirectory(prefix="rows-") as aside:
                file = Path(aside, "rows.parquet")
                count = 0
                with pq.ParquetWriter(file, schema) as writer:
                    for batch in batches:
                        writer.write_batch(batch.cast(schema))
                        count += batch.num_rows
                if count:
                    into.take_file(f"rows-{partition:06d}.parquet", file)
            yield pa.RecordBatch.from_pydict({"rows": pa.array([count], pa.int64())})

        try:
            rows.mapInArrow(write, "rows long").collect()
        except Exception as error:
            raise RecsysError(
                "Spark gave up on the query",
                where=where,
                found=_cause(error),
                fix="see the executors' logs, then run the same command again",
            ) from error

    def _answers(self, work: PartWork, parts: Sequence[int]) -> dict[int, dict[str, Any]]:
        numbers = list(parts)

        def answer_each(batches: Any) -> Any:
            from pyspark import TaskContext

            if gpus := TaskContext.get().resources().get("gpu"):
                os.environ[GPUS] = ",".join(gpus.addresses)
            for batch in batches:
                asked = [numbers[place] for place in batch.column(0).to_pylist()]
                told = [json.dumps(answered(work, part)) for part in asked]
                yield pa.RecordBatch.from_pydict(
                    {"part": pa.array(asked, pa.int64()), "answer": pa.array(told, pa.string())}
                )

        # A task for each part.
        asked = self._session.range(0, len(numbers), 1, len(numbers))
        rows = asked.mapInArrow(answer_each, "part long, answer string").collect()
        return {int(row["part"]): json.loads(row["answer"]) for row in rows}

    def _require_same_python(self) -> None:
        """One task, before any work: can the workers import what they will run?"""
        try:
            [found] = self._answers(_about_this_process, [0]).values()
        except Exception as error:
            raise UsageError(
                "Spark's workers cannot run this package",
                where=WHERE,
                found=_cause(error),
                expected=f"Python {platform.python_version()} with recsys {__version__} on every node",
                fix="install it there, and name that Python in the environment's PYSPARK_PYTHON or "
                "`engine.spark.conf: {spark.pyspark.python: …}`",
            ) from None
        here = _about_this_process(0)
        if found != here:
            raise UsageError(
                "Spark's workers run something else than this process",
                where=WHERE,
                found=", ".join(f"{name} {value}" for name, value in found.items()),
                expected=", ".join(f"{name} {value}" for name, value in here.items()),
                fix="bring both to the same versions; lists would differ otherwise",
            )


def _about_this_process(_: int) -> dict[str, Any]:
    """What must be alike on driver and workers for the same bits."""
    import numpy as np

    python = ".".join(map(str, sys.version_info[:2]))
    return {"python": python, "recsys": __version__, "numpy": np.__version__}


def open_session(settings: SparkConfig) -> Any:
    """A Spark session as configured; the process's own if it has one.

    Raises:
        UsageError: pyspark or a JDK is missing, or the master is wrong or does not answer.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise UsageError(
            "PySpark is not installed",
            where=WHERE,
            expected="the [spark] extra",
            fix=f"{install_extra('spark')}, with a JDK 17 on the PATH",
        ) from None
    if settings.remote is None:
        _require_java()
    _require_reachable(settings)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("recsys")
    if settings.remote is not None:
        builder = builder.remote(settings.remote)
    elif settings.master is not None:
        builder = builder.master(settings.master)
    conf = {**QUIET, "spark.sql.session.timeZone": "UTC", **settings.conf}
    for name, value in conf.items():
        builder = builder.config(name, value)
    logging.getLogger("py4j").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return builder.getOrCreate()
    except Exception as error:
        if settings.remote is not None and NOT_INSTALLED in str(error):
            raise UsageError(
                "the client of Spark Connect is not installed whole",
                where=WHERE,
                found=_cause(error),
                expected="the [connect] extra",
                fix=install_extra("connect"),
            ) from None
        raise UsageError(
            "there is no Spark session to be had",
            where=WHERE,
            found=_cause(error),
            expected="master: yarn, k8s://…, spark://HOST:PORT or local[4,4]; or remote: sc://HOST:PORT",
            fix="correct `engine.spark` in the config",
        ) from None


def _require_java() -> None:
    if shutil.which("java") is None and not os.environ.get("JAVA_HOME"):
        raise UsageError(
            "there is no JDK on this machine",
            where=WHERE,
            expected="java on the PATH, or JAVA_HOME",
            fix="install a JDK 17 (`apt install openjdk-17-jre-headless`), or use `remote: sc://…`",
        )


def _require_reachable(settings: SparkConfig) -> None:
    """Whether a master that is named by host and port accepts connections at all."""
    address = settings.remote or settings.master or ""
    if not address.startswith(("spark://", "sc://")):
        return
    # Of several masters (spark://a:1,b:1) Spark tries all; here one that answers is enough.
    scheme, _, hosts = address.partition("://")
    tried = []
    for host in hosts.split(","):
        place = urlsplit(f"{scheme}://{host}")
        try:
            port = place.port or (15002 if scheme == "sc" else 7077)
            with socket.create_connection((place.hostname or "", port), REACHABLE_SECONDS):
                return
        except (OSError, ValueError) as error:
            tried.append(f"{host}: {error}")
    raise UsageError(
        "the Spark master does not answer",
        where=WHERE,
        found="; ".join(tried),
        expected=f"a master at {address}",
        fix="start it, or correct `engine.spark` in the config",
    )


def _cause(error: Exception) -> str:
    """The line of Spark's long stories that says what happened: the last one that names an error,
    since causes come after what they caused."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith(("at ", "File ", "... "))]
    telling = [line for line in lines if re.search(r"[A-Z]\w*(Error|Exception)\b", line)]
    telling = [line for line in telling if "Py4J" not in line]
    return (telling or lines or [type(error).__name__])[-1].lstrip(": ")[:400]
