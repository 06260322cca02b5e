"""Pieces of a snapshot are the snapshot again, person by person; a store keeps them whole and checked."""

import json
import os
import shutil

import numpy as np
import pytest

from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.data_schemas.log_record import LogRecord
from recsys.data_schemas.shards import Shards, shard_of
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import DAY, HOUR
from recsys.features.published_state import CURRENT, STATES, StateStore
from recsys.features.random_world import START, item_table
from recsys.features.state import OnlineState
from recsys.features.state_shards import join_state, split_state
from recsys.features.user_table import UserTable, with_told
from recsys.storage import node_copies

FAR = np.iinfo(np.int64).max


@pytest.fixture
def snapshot(trial, tmp_path):
    folder = tmp_path / "state" / "abc"
    OnlineState.build(
        trial.interactions,
        Catalogue.from_table(item_table(14)),
        bucket_us=HOUR,
        windows_us=[DAY],
        log_position=7,
        users=trial.users,
    ).save(folder)
    return folder


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Go to another machine: `machine("b")`."""

    def at(name):
        monkeypatch.setenv(node_copies.VARIABLE, str(tmp_path / f"disk-{name}"))

    at("a")
    return at


def persons(state, users):
    return {
        user: (
            [column.tolist() for column in state.history(user, FAR)],
            state.user_attributes(user),
        )
        for user in users
    }


def everybody(snapshot):
    whole = OnlineState.open(snapshot)
    assert whole.users is not None
    return whole, sorted({*whole.user_ids(), *whole.users.ids.all().to_pylist()})


def counters(state):
    view = state.counters(START + 30 * DAY)
    items = np.arange(state.catalogue.n_items, dtype=np.int32)
    kinds = np.arange(len(state.kinds), dtype=np.int16)
    return view.read("item", items, kinds, np.array([0])).tolist()


@pytest.mark.parametrize("shards", [1, 4, 64])
def test_every_person_is_in_one_shard_and_the_world_in_all(snapshot, tmp_path, shards):
    whole, users = everybody(snapshot)
    out = tmp_path / "pieces"
    out.mkdir()
    world, *parts = split_state(snapshot, out, shards)
    assert len(parts) == shards
    for n, part in enumerate(parts):
        made = tmp_path / f"joined-{n}"
        made.mkdir()
        join_state(world, [part], made)
        state = OnlineState.open(made)
        mine = [user for user in users if shard_of(user, shards) == n]
        others = [user for user in users if user not in mine]
        assert persons(state, mine) == persons(whole, mine)
        assert persons(state, others) == {user: ([[]] * 5, {}) for user in others}
        assert counters(state) == counters(whole)
    made = tmp_path / "all"
    made.mkdir()
    join_state(world, parts, made)
    assert persons(OnlineState.open(made), users) == persons(whole, users)


def test_what_is_folded_counts_everywhere_and_is_kept_in_its_shard(snapshot):
    state = OnlineState.open(snapshot)
    state.shards = Shards.parse("1/2")
    before = np.array(counters(state)).sum()
    records = [
        LogRecord(8 + n, "event", {
            "user_id": f"new-{n}", "item_id": "item-0", "event_type": "click", "timestamp": START,
        }, START)
        for n in range(20)
    ]  # fmt: skip
    assert state.apply(records) == 20
    kept = {f"new-{n}" for n in range(20) if shard_of(f"new-{n}", 2) == 1}
    assert {f"new-{n}" for n in range(20) if state.knows_user(f"new-{n}")} == kept
    assert 0 < len(kept) < 20
    assert np.array(counters(state)).sum() > before


def test_a_worker_elsewhere_fetches_checks_and_maps(snapshot, tmp_path, machine):
    whole, users = everybody(snapshot)
    store = StateStore(str(tmp_path / "store"))
    assert store.current() is None
    made = store.publish(snapshot, 4)
    assert store.publish(snapshot, 4) == made == store.current()
    assert made.position == 7
    machine("b")
    folder = store.fetch(made, Shards.parse("0,1/2"))
    assert persons(OnlineState.open(folder), users) == persons(whole, users)
    half = store.fetch(made, Shards.parse("1/2"))
    mine = [user for user in users if shard_of(user, 2) == 1]
    assert persons(OnlineState.open(half), mine) == persons(whole, mine)
    assert store.fetch(made, Shards.parse("1/2")) == half
    with pytest.raises(UsageError, match="not made of"):
        store.fetch(made, Shards.parse("1/3"))
    machine("c")
    piece = next((tmp_path / "store" / STATES).glob("world-*"))
    file = piece / "files" / "state.json"
    file.write_bytes(file.read_bytes().replace(b"7", b"8", 1))
    with pytest.raises(RecsysError, match="damaged"):
        store.fetch(made, None)
    assert not list((tmp_path / "disk-c").glob("world-*"))


def test_newer_snapshots_take_the_place_of_older_ones(snapshot, tmp_path):
    store = StateStore(str(tmp_path / "store"))
    names = []
    for n in range(4):
        state = OnlineState.open(snapshot)
        state.log_position = 100 + n
        state.save(snapshot.with_name(f"abc.{n}"))
        made = store.publish(snapshot.with_name(f"abc.{n}"), 2)
        names.append(made.name)
    assert len(set(names)) == 4
    left = {p.name for p in (tmp_path / "store" / STATES).iterdir()}
    assert sum(name.startswith("world-") for name in left) == 2
    assert len(json.loads((tmp_path / "store" / CURRENT).read_text())["states"]) == 2
    assert store.current() == made
    store.fetch(made, None)


def test_copies_that_no_worker_uses_go(snapshot, tmp_path):
    one, other = (StateStore(str(tmp_path / "store")) for _ in range(2))
    one.tidy()
    first = one.publish(snapshot, 2)
    mine = one.fetch(first, Shards.parse("0/2"))
    theirs = other.fetch(first, Shards.parse("1/2"))
    long_ago = tmp_path / "disk-a" / "shard-9-gone"
    long_ago.mkdir()

    def an_hour_later():
        for copy in (tmp_path / "disk-a").iterdir():
            os.utime(copy, (1, 1))

    an_hour_later()
    other.tidy()
    assert not long_ago.exists()
    assert (mine.exists(), theirs.exists()) == (False, True), "nobody has said that it is in use"
    mine = one.fetch(first, Shards.parse("0/2"))
    an_hour_later()
    with pytest.MonkeyPatch.context() as patch:
        # Both say so, in any order, before either removes.
        patch.setattr(node_copies.time, "time", lambda: 2)
        one.tidy()
        other.tidy()
    other.tidy()
    assert mine.exists()
    assert theirs.exists()


def test_forgetting_publishes_anew_and_leaves_nothing_else(snapshot, tmp_path, machine):
    store = StateStore(str(tmp_path / "store"))
    _, users = everybody(snapshot)
    gone = users[0]
    assert store.forget(snapshot, 2) == 0
    assert not (tmp_path / "store" / CURRENT).exists()
    before = store.publish(snapshot, 2)
    shutil.copytree(snapshot, tmp_path / "aside")
    state = OnlineState.open(tmp_path / "aside")
    state.apply([LogRecord(8, "forget", {"user_id": gone}, 0)])
    state.log_position = 7
    state.save(snapshot)
    assert store.forget(snapshot, 2) > 0
    after = store.current()
    assert after is not None
    assert after.snapshot == before.snapshot
    assert after.name != before.name
    left = {p.name for p in (tmp_path / "store" / STATES).iterdir()}
    assert left == {after.world, *after.shards}
    machine("b")
    assert not OnlineState.open(store.fetch(after, None)).knows_user(gone)


def test_what_was_told_of_persons_is_taken_in():
    before = with_told(None, {"a": {"plan": "free", "age": 3.0}})
    table = with_told(
        before, {"a": {"plan": "paid"}, "b": {"age": 5.0, "city": "Graz"}, "c": {"age": "x"}}
    )
    assert table.attributes("a") == {"plan": "paid", "age": 3.0}
    assert table.attributes("b") == {"age": 5.0, "city": "Graz"}
    assert table.attributes("c") == {}
    assert before.attributes("a") == {"plan": "free", "age": 3.0}
    assert isinstance(table, UserTable)
