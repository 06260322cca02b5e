"""What a night leaves for Prometheus."""

from prometheus_client.parser import text_string_to_metric_families

from recsys.operations import night_metrics
from recsys.storage.workspace import Workspace
from recsys.training.night.usage import Usage


def read(path):
    return {
        (sample.name, sample.labels.get("outcome")): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


def test_a_promotion_is_remembered_by_the_nights_after_it(tmp_path, monkeypatch):
    workspace, clock = Workspace(tmp_path), iter([1000.0, 2000.0])
    monkeypatch.setattr(night_metrics.time, "time", lambda: next(clock))
    usage = Usage(60.0, 90.5, 0.0, 12_000, 34_000)
    first = read(night_metrics.write_night_metrics(workspace, "promoted", usage))
    assert first[night_metrics.OUTCOME, "promoted"] == 1
    assert first["recsys_night_processor_seconds", None] == 90.5
    assert {name for name, _ in first} == set(night_metrics.HELP)
    second = read(night_metrics.write_night_metrics(workspace, "failed", None))
    assert second[night_metrics.ENDED, None] == 2000
    assert second[night_metrics.PROMOTED, None] == 1000
    assert [second[night_metrics.OUTCOME, one] for one in night_metrics.OUTCOMES] == [0, 0, 0, 1]
    assert ("recsys_night_seconds", None) not in second
