"""Texts encoded in parts on an engine have the bytes that one process gives them."""

import numpy as np
import pytest

from recsys.data_schemas.config import EncoderConfig, SparkConfig
from recsys.encoder import encode as encode_module
from recsys.encoder.encode import encode_items
from recsys.encoder.encode_parts import EncodeElsewhere
from recsys.features.interactions import Interactions
from recsys.storage.engines import LocalEngine
from recsys.storage.scratch import ScratchFolder
from recsys.training.finetune.fit import fit_encoder

TEXTS = [f"alpha widget {'glue ' * (i % 5 * 4)} number {i}" for i in range(43)]
LIMIT = 16


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("encoder") / "out"
    config = EncoderConfig(model=str(tiny_model), fine_tune=False, max_tokens=LIMIT)
    none = [np.empty(0, t) for t in ("i4", "i4", "i2", "i8", "f4", "f4", "i1", "i8")]
    events = Interactions(*none, np.empty(0, object), ("purchase",), len(TEXTS))
    fit_encoder(events, TEXTS, config, fit_until=5, out_dir=out, seed=0, budget_seconds=None)
    return out


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(encode_module, "TEXTS_AT_ONCE", 10)


@pytest.fixture
def one_process(folder, tmp_path):
    vectors, counts = encode_items(folder, TEXTS, tmp_path / "one")
    assert (counts.encoded, counts.truncated > 0) == (43, True)
    return vectors, counts


def encoded(folder, engine, scratch, cache):
    elsewhere = EncodeElsewhere(engine, scratch, folder, LIMIT)
    return encode_items(folder, TEXTS, cache, elsewhere=elsewhere)


def test_two_processes_give_the_bytes_of_one(folder, one_process, tmp_path):
    scratch = ScratchFolder(str(tmp_path / "scratch"))
    vectors, counts = encoded(folder, LocalEngine(2), scratch, tmp_path / "two")
    assert np.array_equal(vectors, one_process[0])
    assert counts == one_process[1]
    assert scratch.names() == set()


def test_a_killed_encoding_goes_on_with_the_rest(watched_engine, folder, one_process, tmp_path):
    scratch = ScratchFolder(str(tmp_path / "scratch"))
    with pytest.raises(KeyboardInterrupt):
        encoded(folder, watched_engine(dies_at=3), scratch, tmp_path / "two")
    engine = watched_engine()
    vectors, _ = encoded(folder, engine, scratch, tmp_path / "two")
    assert engine.given == [3, 4]
    assert np.array_equal(vectors, one_process[0])


def test_a_single_part_asks_no_engine(watched_engine, folder, tmp_path):
    scratch, engine = ScratchFolder(str(tmp_path / "scratch")), watched_engine()
    elsewhere = EncodeElsewhere(engine, scratch, folder, LIMIT)
    encode_items(folder, TEXTS[:10], tmp_path / "cache", elsewhere=elsewhere)
    assert engine.given == []


@pytest.mark.spark
@pytest.mark.usefixtures("session_ends")
@pytest.mark.filterwarnings("ignore")
def test_spark_gives_the_same_bytes(folder, one_process, tmp_path):
    from recsys.storage.engines.spark import SparkEngine

    engine = SparkEngine.open(SparkConfig(master="local[2]"))
    engine.shares_disk = False  # as though on other machines: the encoder is published
    scratch = ScratchFolder(str(tmp_path / "scratch"))
    vectors, _ = encoded(folder, engine, scratch, tmp_path / "two")
    assert np.array_equal(vectors, one_process[0])
