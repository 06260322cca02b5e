"""What there is to watch."""

import pytest

from recsys.operations.night_metrics import HELP
from recsys.serving import telemetry


@pytest.fixture(scope="session")
def metric_names():
    """Every metric that the service or a night gives, as Prometheus stores it."""
    names = set(HELP)
    for metric in telemetry._registry.collect():
        endings = {
            "counter": ("_total",),
            "histogram": ("_bucket", "_sum", "_count"),
            "gauge": ("",),
        }[metric.type]
        names |= {metric.name + ending for ending in endings}
    return names
