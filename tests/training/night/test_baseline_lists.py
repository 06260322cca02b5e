"""Baselines that cannot be had are named, and hold a release back."""

from types import SimpleNamespace

from recsys.training.night.baseline_lists import Baselines
from recsys.training.night.publish import _missing


def test_a_baseline_that_fails_is_named_and_the_others_go_on():
    found = Baselines()

    def broken():
        raise MemoryError("no room for the matrix")

    found.attempt("als", broken)
    found.attempt("bm25", lambda: "a source")
    assert found.sources == {"bm25": "a source"}
    assert found.failed == {"als": "MemoryError: no room for the matrix"}
    said = _missing(SimpleNamespace(facts={"failed": found.failed}))
    assert said == ["the baseline “als” could not be fitted: MemoryError: no room for the matrix"]
    assert _missing(SimpleNamespace(facts={"failed": {}})) == []
