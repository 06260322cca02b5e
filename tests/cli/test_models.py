import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.cli.paired import paired_differences
from recsys.registry import Registry
from recsys.registry.versions import Change, Version


@pytest.fixture
def registered(monkeypatch, folder):
    """Two versions in a registry that is only remembered."""
    state = {"champion": 1, "calls": []}
    bundle = folder / "bundle"

    def version(number, ndcg):
        names = tuple(a for a in ("champion",) if state["champion"] == number)
        metrics = (
            {"ndcg@10": ndcg, "recall@10": 0.5, "only": number}
            if number == 1
            else {"ndcg@10": ndcg, "recall@10": 0.5}
        )
        return Version(number, "2026-01-01T00:00:00+00:00", "d" * 64, names, metrics,
                       {"gate": "better"}, "file:///x", None)  # fmt: skip

    def promote(self, number, reason):
        state["calls"].append((number, reason))
        state["champion"] = number
        return number

    monkeypatch.setattr(Registry, "list", lambda self: [version(2, 0.25), version(1, 0.2)])
    monkeypatch.setattr(Registry, "champion", lambda self: state["champion"])
    monkeypatch.setattr(Registry, "alias", lambda self, name: state.get(name))
    monkeypatch.setattr(Registry, "_aliases", lambda self: {"champion": state["champion"]})
    monkeypatch.setattr(
        Registry, "history",
        lambda self: [Change("2026-01-01T00:00:00+00:00", "promote", 1, None, "first", "me")],
    )  # fmt: skip
    monkeypatch.setattr(Registry, "promote", promote)
    monkeypatch.setattr(Registry, "rollback", lambda self, reason: promote(self, 1, reason))
    monkeypatch.setattr(Registry, "local_path", lambda self, number: bundle)
    yield state
    shutil.rmtree(bundle, ignore_errors=True)


def test_nothing_registered_is_said(recsys, folder):
    code, out, _ = recsys("models", "list")
    assert code == 0
    assert "recsys nightly" in out


def test_the_list_shows_aliases_metrics_and_history(recsys, registered):
    code, out, _ = recsys("models", "list")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split()[:3] == ["version", "aliases", "registered"]
    assert lines[1].startswith("2 ")
    assert "champion" in lines[2]
    assert "0.2500" in lines[1]
    assert "promote 1: first (me)" in out


def test_json_is_one_document(recsys, registered):
    for words in (("list",), ("compare", "2"), ("promote", "2"), ("rollback",)):
        code, out, _ = recsys("models", *words, "--json")
        assert code == 0
        assert isinstance(json.loads(out), dict)
    assert json.loads(recsys("models", "list", "--json")[1])["versions"][0]["version"] == 2


def test_promotion_and_rollback_say_what_changed(recsys, registered):
    _, out, _ = recsys("models", "promote", "2", "--reason", "it looks good")
    assert "is now version 2 (was 1)" in out
    assert registered["calls"] == [(2, "it looks good")]
    _, out, _ = recsys("models", "promote", "2")
    assert "already; nothing changed" in out
    _, out, _ = recsys("models", "rollback")
    assert "is now version 1 (was 2)" in out


def test_comparison_takes_what_both_measured(recsys, registered):
    code, out, _ = recsys("models", "compare", "2")
    assert code == 0
    assert "ndcg@10" in out
    assert "+0.0500" in out
    assert "only" not in out


def test_an_unknown_version_lists_those_there_are(recsys, registered):
    code, _, err = recsys("models", "promote", "7")
    assert code == 2
    assert "2, 1" in err


def write_report(folder, ndcg, times):
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps({"evaluation": {"main": "ranker"}}))
    table = {
        "user": list(range(len(times))),
        "time": times,
        "ranker/ndcg@10": ndcg,
        "popular/ndcg@10": [0.0] * len(times),
    }
    pq.write_table(pa.table(table), folder / "report.parquet")
    return folder


def test_differences_are_paired_on_the_lists_both_nights_judged(tmp_path):
    first = write_report(tmp_path / "a", [0.5] * 20, list(range(20)))
    second = write_report(tmp_path / "b", [0.25] * 19 + [0.0], [*range(19), 99])
    found = paired_differences(first, second / "report.html", seed=1)
    # Every list but the last is common, and 0.25 better.
    assert found == {
        "ndcg@10": {"difference": 0.25, "low": 0.25, "high": 0.25, "groups": 19, "users": 19}
    }
    far = write_report(tmp_path / "c", [0.5], [77])
    assert paired_differences(first, far, seed=1) == {}
    assert paired_differences(first, tmp_path / "gone", seed=1) == {}
