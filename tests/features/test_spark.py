"""The same expressions on Spark give the same table."""

import os
import shutil
import warnings

import numpy as np
import pytest

from features.feature_set import FeatureSet
from features.interactions import DAY
from features.kinds.smoothed_rate import SmoothedRate
from features.kinds.trend import Trend
from features.kinds.window_count import WindowCount
from features.trial import Trial

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def spark():
    pytest.importorskip("pyspark", reason="the [spark] extra is not installed")
    if shutil.which("java") is None and not os.environ.get("JAVA_HOME"):
        pytest.skip("there is no JDK on this machine")
    with warnings.catch_warnings():
        # Spark's own start-up code warns; ours does not run in it.
        warnings.simplefilter("ignore")
        from features.backends import PySpark

        engine = PySpark()
        yield engine
        engine.stop()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [1, 2])
def test_spark_gives_the_table_of_duckdb(spark, seed):
    features = FeatureSet(
        [
            *(WindowCount(of, "", w) for of in ("item", "category", "tag") for w in (0, DAY)),
            WindowCount("item", "click", 7 * DAY),
            WindowCount("shown", "", DAY),
            SmoothedRate("click", "", 7 * DAY),
            Trend("", DAY, 7 * DAY),
        ]
    )
    trial = Trial.make(seed)
    np.testing.assert_array_equal(trial.batch(features, "pyspark"), trial.batch(features))
