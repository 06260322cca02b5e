"""Identifiers by number without a Python string each."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

from recsys.features import packed_strings
from recsys.features.ids import hash_ids
from recsys.features.on_disk import arrays_in
from recsys.features.packed_strings import PackedStrings, pack

TEXTS = ["user-1", "", "ünï", "用户", "user-1000", "x" * 70]


@pytest.fixture(params=["strings", "arrow", "slice of arrow", "chunks", "array"])
def ids(request):
    given = {
        "strings": TEXTS,
        "arrow": pa.array(TEXTS),
        "slice of arrow": pa.array(["before", *TEXTS, "behind"], pa.large_string())[1:-1],
        "chunks": pa.chunked_array([TEXTS[:2], [], TEXTS[2:]]),
        "array": np.array(TEXTS, object),
    }
    return PackedStrings.of(given[request.param])


def test_they_read_like_an_array_of_strings(ids):
    whole = np.array(TEXTS, object)
    assert len(ids) == len(TEXTS)
    assert [*ids] == ids.tolist() == np.asarray(ids).tolist() == TEXTS
    assert [ids[0], ids[-1], ids[np.int32(3)]] == [TEXTS[0], TEXTS[-1], TEXTS[3]]
    places = np.array([4, 0, 4, -1])
    mask = np.array([True, False, False, True, False, True])
    for which in (places, places[:0], mask):
        found = ids[which]
        assert found.dtype == object
        assert found.tolist() == whole[which].tolist()
    with pytest.raises(IndexError):
        ids[len(TEXTS)]


def test_a_slice_reads_the_same_bytes(ids):
    for which in (
        slice(1, 4),
        slice(None),
        slice(4, 0, -2),
        slice(3, 1),
        slice(9),
        slice(-2, None),
    ):
        assert ids[which].tolist() == TEXTS[which]
        assert hash_ids(ids[which]).tolist() == hash_ids(TEXTS[which]).tolist()
    part = ids[1:5]
    assert np.shares_memory(part.block, ids.block)
    assert part[1:][0] == TEXTS[2]
    assert part[np.array([0, 3])].tolist() == [TEXTS[1], TEXTS[4]]
    block, offsets = pack(part)
    assert offsets[0] == 0
    assert block.tobytes() == "".join(TEXTS[1:5]).encode()
    assert PackedStrings.joined([part, ["more"], [], pa.array(["last"])]).tolist() == [
        *TEXTS[1:5], "more", "last",
    ]  # fmt: skip


def test_arrow_reads_the_same_bytes(ids):
    assert ids.arrow().to_pylist() == TEXTS
    assert ids[2:4].arrow().to_pylist() == TEXTS[2:4]
    assert pa.array(ids, pa.string()).equals(pa.array(TEXTS))
    assert pa.array(ids).type == pa.large_string()
    assert hash_ids(ids).tolist() == hash_ids(TEXTS).tolist()
    assert np.shares_memory(pack(ids)[0], ids.block)
    assert PackedStrings.of(ids) is ids


def test_many_are_looked_at_some_at_a_time(monkeypatch):
    monkeypatch.setattr(packed_strings, "AT_ONCE", 4)
    assert [*PackedStrings.of(TEXTS)] == TEXTS


def test_many_lie_in_a_file(tmp_path):
    many = [f"user-{number:06d}" for number in range(200_000)]
    with arrays_in(tmp_path):
        ids = PackedStrings.of(pa.array(many))
        assert not ids.block.flags.owndata
        assert not ids.offsets.flags.owndata
        assert ids[np.array([150_000, 7])].tolist() == [many[150_000], many[7]]
        assert pickle.loads(pickle.dumps(ids)).tolist() == many


def test_none_at_all():
    ids = PackedStrings.of([])
    assert len(ids) == 0
    assert [*ids] == []
    assert ids[np.empty(0, int)].tolist() == []
    assert ids.arrow().to_pylist() == []
