import json
import os

import numpy as np
import pytest

from recsys.storage import bundle as module
from recsys.storage.bundle import BundleRefused, open_bundle


def edit_manifest(folder, **changes):
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_bundle_is_read_as_it_was_written(make_bundle):
    bundle = open_bundle(make_bundle())
    assert bundle.item_ids == ["a", "bé", "c"]
    assert np.array_equal(bundle.vectors(), np.eye(3))
    assert list(bundle.sources) == ["als", "popular"]
    assert np.load(bundle.sources["popular"] / "array.npy")[0] == 2.0
    assert bundle.fit_until == {"als": 1_000_000, "popular": 500_000, "ranker": 1_000_000}
    assert bundle.features == {"families": ["text"]}
    assert bundle.facts == {"night": "2026-01-01"}
    assert bundle.manifest["config"] == {"seed": 7}
    assert bundle.n_items == 3
    assert bundle.encoder is None
    assert bundle.catalogue is None


def test_the_same_parts_give_the_same_digest(make_bundle, tmp_path):
    first, second = make_bundle(out=tmp_path / "x"), make_bundle(out=tmp_path / "y")
    assert open_bundle(first).digest == open_bundle(second).digest
    assert open_bundle(make_bundle(2.0)).digest != open_bundle(first).digest


def test_encoder_catalogue_and_texts_are_taken_along(make_bundle, tmp_path):
    encoder, catalogue = tmp_path / "enc", tmp_path / "cat"
    encoder.mkdir()
    catalogue.mkdir()
    (encoder / "manifest.json").write_text('{"fit_until": 42}')
    (catalogue / "x").write_text("y")
    items = {"ids": ["a"], "vectors": None, "texts": ["t"], "catalogue": catalogue}
    bundle = open_bundle(make_bundle(encoder=encoder, items=items))
    assert bundle.fit_until["encoder"] == 42
    assert (bundle.encoder / "manifest.json").exists()
    assert (bundle.catalogue / "x").read_text() == "y"
    assert bundle.vectors() is None


def test_a_failed_part_leaves_nothing(make_bundle, tmp_path):
    class Broken:
        def save(self, folder):
            (folder / "half").write_text("x")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        make_bundle(ranker=Broken(), out=tmp_path / "out" / "b")
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: (b / "manifest.json").unlink(), "not a bundle"),
        (lambda b: (b / "manifest.json").write_text("{"), "does not match"),
        (lambda b: (b / "manifest.json").write_text("{}"), "no format version"),
        (lambda b: (b / "sources/als/array.npy").unlink(), "is missing"),
        (lambda b: os.truncate(b / "items/vectors.npy", 50), "50 bytes"),
        (lambda b: (b / "ranker/extra").write_text("x"), "does not list"),
        (lambda b: edit_manifest(b, format=9, readable_from=9), "newer recsys"),
        (lambda b: edit_manifest(b, format=0, readable_from=0), "no longer read"),
    ],
)
@pytest.mark.parametrize("verify", [True, False])
def test_a_bundle_that_is_not_what_was_written_is_refused(make_bundle, damage, message, verify):
    folder = make_bundle()
    damage(folder)
    with pytest.raises(BundleRefused, match=message):
        open_bundle(folder, verify=verify)


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["items/vectors.npy", "sources/als/array.npy", "features.json"])
def test_one_changed_bit_is_found(make_bundle, name):
    folder = make_bundle()
    flip(folder / name)
    with pytest.raises(BundleRefused, match="SHA-256"):
        open_bundle(folder)


def test_a_newer_bundle_that_says_it_can_be_read_is_read(make_bundle):
    folder = make_bundle()
    edit_manifest(folder, format=7, readable_from=1)
    assert open_bundle(folder).n_items == 3


def test_a_manifest_without_its_parts_is_refused(make_bundle):
    folder = make_bundle()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["parts"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleRefused, match="no parts"):
        open_bundle(folder)


def test_a_local_copy_is_hashed_once_and_again_when_touched(make_bundle, tmp_path, monkeypatch):
    made = make_bundle()
    folder = tmp_path / open_bundle(made).digest
    made.rename(folder)
    hashed = []
    real = module.hash_file
    monkeypatch.setattr(module, "hash_file", lambda f: hashed.append(f.name) or real(f))
    open_bundle(folder)
    assert "vectors.npy" in hashed
    hashed.clear()
    open_bundle(folder)
    assert hashed == ["manifest.json"]
    flip(folder / "items/vectors.npy")
    with pytest.raises(BundleRefused, match=r"vectors\.npy"):
        open_bundle(folder)


def test_vectors_must_match_the_ids(make_bundle):
    with pytest.raises(ValueError, match="2 vectors for 1 ids"):
        make_bundle(items={"ids": ["a"], "vectors": np.zeros((2, 3), np.float32)})
