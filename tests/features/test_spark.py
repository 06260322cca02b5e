"""The same expressions on Spark give the same table."""

import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from recsys.data_schemas.config import SparkConfig, load_config
from recsys.features.feature_set import FeatureSet
from recsys.features.interactions import DAY
from recsys.features.kinds.smoothed_rate import SmoothedRate
from recsys.features.kinds.trend import Trend
from recsys.features.kinds.window_count import WindowCount
from recsys.features.random_world import RandomWorld
from recsys.features.rows import ANY_POSITION, BatchInputs, Rows
from recsys.ingestion.generator import generate, settings_of
from recsys.ingestion.tables.ingest import ingest
from recsys.ingestion.tables.load import load_tables
from recsys.storage.progress import Reporter

pytestmark = [pytest.mark.spark, pytest.mark.filterwarnings("ignore")]
LISTS, CANDIDATES = 300, 10
GAMES = Path(os.environ.get("RECSYS_REAL_DATA", ".")) / "games"
"""A real log to try, too large and not free enough to lie beside the tests."""


@pytest.fixture(scope="module")
def spark():
    pytest.importorskip("pyspark", reason="the [spark] extra is not installed")
    if shutil.which("java") is None and not os.environ.get("JAVA_HOME"):
        pytest.skip("there is no JDK on this machine")
    with warnings.catch_warnings():
        # Spark's own start-up code warns; ours does not run in it.
        warnings.simplefilter("ignore")
        from recsys.features.backends import PySpark

        engine = PySpark(SparkConfig(master="local[2]"))
        yield engine
        engine.stop()


def every_count(kind):
    """Counters of every entity and shape; `kind` is one of the data's event types."""
    return FeatureSet(
        [
            *(WindowCount(of, "", w) for of in ("item", "category", "tag") for w in (0, DAY)),
            WindowCount("item", kind, 7 * DAY),
            WindowCount("shown", "", DAY),
            SmoothedRate(kind, "", 7 * DAY),
            Trend("", DAY, 7 * DAY),
        ]
    )


def tables(config_file, out):
    """(rows, inputs) of a folder's tables: lists at the times of some events."""
    config = load_config(config_file)
    ingest(config, out)
    found = load_tables(out, config)
    events, shown = found.interactions, found.impressions
    draw = np.random.default_rng(5)
    at = np.sort(draw.integers(0, len(events), LISTS))
    rows = Rows(
        np.arange(LISTS + 1) * CANDIDATES,
        events.user[at],
        events.time[at],
        np.full(LISTS, ANY_POSITION),
        events.item[draw.integers(0, len(events), LISTS * CANDIDATES)],
        {},
        events.histories(),
    )
    return rows, BatchInputs(events, found.catalogue, impressions=shown)


def same_on_every_engine(features, rows, inputs):
    found = {
        engine: features.batch(rows, BatchInputs(**{**vars(inputs), "backend": engine}))
        for engine in ("arrays", "duckdb", "pyspark")
    }
    np.testing.assert_array_equal(found["pyspark"], found["duckdb"])
    np.testing.assert_array_equal(found["pyspark"], found["arrays"])
    return found["pyspark"]


@pytest.mark.parametrize("seed", [1, 2])
def test_spark_gives_the_table_of_the_other_engines(spark, seed):
    trial = RandomWorld.make(seed)
    same_on_every_engine(every_count("click"), trial.rows, trial.inputs())


def test_generated_events_give_the_same_table(spark, tmp_path):
    settings = settings_of(users=300, items=200, days=10, seed=4)
    generate(settings, tmp_path / "log", Reporter(quiet=True))
    table = same_on_every_engine(
        every_count("click"), *tables(tmp_path / "log" / "recsys.yaml", tmp_path / "tables")
    )
    assert (np.nan_to_num(table) > 0).any(axis=0).all(), "every counter counts something"


@pytest.mark.skipif(
    not (GAMES / "events.parquet").is_file(),
    reason="RECSYS_REAL_DATA names no folder with games/events.parquet",
)
def test_a_real_log_gives_the_same_table(spark, tmp_path):
    config = tmp_path / "recsys.yaml"
    config.write_text(f"data: {{items: {GAMES}/items.parquet, events: {GAMES}/events.parquet}}\n")
    table = same_on_every_engine(every_count("purchase"), *tables(config, tmp_path / "tables"))
    assert table[:, 0].max() > 100
