"""Checks that read the log a stretch at a time find what they find of all of it at once."""

import numpy as np

from recsys.evaluation.data_leaks.examine import examine
from recsys.evaluation.data_leaks.row_codes import _rows_of_shared_moments
from recsys.features import on_disk, ragged


def test_the_length_of_a_stretch_changes_no_finding(planted, shop, films, logged, monkeypatch):
    kinds = planted.sales_later, planted.file_order_encodes, planted.last_seen, planted.twins
    logs = [shop, films, planted.stars_all(films, np.random.default_rng(0))]
    logs += [kind(shop, np.random.default_rng(0)) for kind in kinds]
    whole = [examine(logged(log)) for log in logs]
    assert any(not finding.check.passed for findings in whole for finding in findings)
    monkeypatch.setattr(on_disk.stretches, "__defaults__", (997,))
    monkeypatch.setattr(ragged, "_CHUNK", 1013)
    assert [examine(logged(log)) for log in logs] == whole


def test_moments_are_shared_across_the_edges_of_stretches(monkeypatch):
    time = np.array([1, 1, 2, 3, 3, 3, 4, 5, 5])
    for length in (100, 1, 2, 3):
        monkeypatch.setattr(on_disk.stretches, "__defaults__", (length,))
        assert _rows_of_shared_moments(time).tolist() == [0, 1, 3, 4, 5, 7, 8]
