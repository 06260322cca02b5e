import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from recsys.operations.compare_releases import on_saved_lists
from recsys.storage.registry import Registry
from recsys.storage.registry.version_tags import Change, Version


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


def kept(folder, users, answers, champion=None):
    """A report's folder with the lists of a night: one list per user, each wants item 1."""
    from recsys.evaluation.lists import PastItems, RankedLists, Truth
    from recsys.evaluation.saved_lists import write_lists

    folder.mkdir()
    n = len(users)
    ids, code = np.unique(np.array(users, object), return_inverse=True)
    truth = Truth.of(np.arange(n), np.ones(n, int), np.ones(n, int), code, np.full(n, 1_000_000))
    past = PastItems(np.zeros(n + 1, np.int64), np.empty(0, np.int32))
    lists = [RankedLists.of("recsys", [(a, [0.0] * len(a)) for a in answers], 3)]
    if champion:
        name = f"champion (version {champion[0]})"
        lists.append(RankedLists.of(name, [(a, [0.0] * len(a)) for a in champion[1]], 3))
    write_lists(folder, truth, past, lists, ids)
    return folder / "report.html"


def version_of(number, report):
    tags = {"recsys.report": str(report)}
    return SimpleNamespace(version=number, report=str(report), tags=tags)


def test_versions_are_compared_on_the_lists_both_nights_hold(tmp_path):
    users = [f"u{n}" for n in range(9)]
    first = kept(tmp_path / "a", users, [[1, 2, 3]] * 9)
    # Another night with other people in it: the same person has another number there.
    second = kept(tmp_path / "b", ["a new one", *users[1:]], [[2, 1, 3]] * 8 + [[3, 2]])
    rows = on_saved_lists(version_of(2, first), version_of(1, second))
    assert rows.queries.users == users[1:]
    assert rows.first.name == "version 2"
    assert rows.first.items.tolist() == [[1, 2, 3]] * 8
    assert rows.second.items.tolist() == [[2, 1, 3]] * 7 + [[3, 2, -1]]
    assert "8 lists that both nights hold" in rows.how


def test_a_night_knows_its_champions_lists(tmp_path):
    night = kept(tmp_path / "a", ["x", "y"], [[1, 2]] * 2, champion=(7, [[2, 1]] * 2))
    rows = on_saved_lists(version_of(8, night), version_of(7, tmp_path / "gone"))
    assert rows.first.items.tolist() == [[1, 2]] * 2
    assert rows.second.items.tolist() == [[2, 1]] * 2
    turned = on_saved_lists(version_of(7, tmp_path / "gone"), version_of(8, night))
    assert turned.first.items.tolist() == [[2, 1]] * 2
    assert on_saved_lists(version_of(8, night), version_of(6, tmp_path / "gone")) is None
