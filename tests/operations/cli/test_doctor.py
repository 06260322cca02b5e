import json

from recsys.operations.cli import doctor


def test_the_machine_is_described_without_a_config(recsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "_devices", lambda: ["CPU, 2 threads, avx2"])
    code, out, _ = recsys("doctor", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["packages"]["mlflow"]
    assert report["machine"]["cores"] >= 1
    assert "workspace" not in report
    assert any("no GPU" in line for line in report["advice"])
    assert list(tmp_path.iterdir()) == []


def test_missing_files_and_no_champion_are_advice(recsys, folder, monkeypatch):
    monkeypatch.setattr(doctor, "_devices", lambda: ["a GPU", "CPU"])
    code, out, _ = recsys("doctor")
    assert code == 1
    assert "items.parquet does not exist" in out
    assert "no champion yet" in out
    assert "embedded SQLite, 0 versions" in out
    assert "no GPU" not in out


def test_a_config_that_is_named_must_exist(recsys, tmp_path):
    code, _, err = recsys("doctor", "-c", tmp_path / "nope.yaml")
    assert code == 2
    assert "nope.yaml" in err


def test_a_registry_that_does_not_answer_is_said(recsys, folder, monkeypatch):
    monkeypatch.setattr(doctor, "_devices", lambda: ["CPU"])
    (folder / "work" / "mlflow").mkdir(parents=True)
    (folder / "work" / "mlflow" / "mlflow.db").write_bytes(b"no database" * 999)
    code, out, _ = recsys("doctor")
    assert code == 1
    assert "is damaged" in out
