"""A snapshot between nights is what a service had folded, and lies where services look."""

import json

import numpy as np
import pytest

from recsys.data_schemas.config import parse_config
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import DAY, HOUR
from recsys.features.published_state import store_of
from recsys.features.random_world import START, RandomWorld, item_table
from recsys.features.state import OnlineState
from recsys.operations.forget_user import forget_user
from recsys.operations.make_snapshot import make_snapshot
from recsys.storage import node_copies
from recsys.storage.eventlog import LogReplaced, log_address, open_log
from recsys.storage.eventlog.log import user_write
from recsys.storage.workspace import Workspace

FAR = np.iinfo(np.int64).max


@pytest.fixture
def shop(tmp_path, monkeypatch, empty_database):
    """A workspace with a state, a log and a store, without a night."""
    monkeypatch.setenv(node_copies.VARIABLE, str(tmp_path / "disk"))
    made = {"data": {"items": "i", "events": "e"}, "serving": {"store": "store", "shards": 2}}
    config = parse_config(made, tmp_path)
    workspace = Workspace(config.workspace_path)
    world = RandomWorld.make(3)
    with open_log(log_address(config)) as log:
        log.append_events([click("early")])
        OnlineState.build(
            world.interactions,
            Catalogue.from_table(item_table(14)),
            bucket_us=HOUR,
            windows_us=[DAY],
            log_position=log.last_position(),
            log_mark=log.mark(),
            users=world.users,
        ).save(workspace.state / "abc")
    workspace.current_state.write_text(json.dumps({"snapshot": "abc"}))
    workspace.mlflow.joinpath("mlflow.db").write_bytes(empty_database.read_bytes())
    return config, workspace


def click(user, item="item-0", at=START):
    return {"user_id": user, "item_id": item, "event_type": "click", "timestamp": at}


def test_it_is_the_former_one_with_the_log_folded_in(shop):
    config, workspace = shop
    assert make_snapshot(config).records == 0
    with open_log(log_address(config)) as log:
        log.append_events([click("new"), click("user-0", at=START + 1)])
        log.put_item({"item_id": "fresh", "title": "T"})
        log.append_events([click("new", "fresh")])
        log.submit([user_write("new", {"plan": "paid", "age": 3}, 1)]).result()
        folded = OnlineState.open(workspace.state / "abc")
        folded.apply([r for r in log.read(1) if r.kind != "user"])
        end = log.mark()
    made = make_snapshot(config)
    assert (made.records, made.position, made.folder.name) == (
        5,
        end.position,
        f"abc.{end.position}",
    )
    state = OnlineState.open(workspace.current_snapshot())
    assert state.log_mark == end
    assert state.user_ids() == folded.user_ids()
    for user in folded.user_ids():
        assert [c.tolist() for c in state.history(user, FAR)] == [
            c.tolist() for c in folded.history(user, FAR)
        ]
    assert state.user_attributes("new") == {"plan": "paid", "age": 3.0}
    assert state.user_attributes("user-0") == folded.user_attributes("user-0")
    assert state.catalogue.index_of("fresh") == folded.catalogue.index_of("fresh") >= 0
    assert made.published is not None
    assert store_of(config).current() == made.published
    # Again, and again: the workspace keeps the latest and the one before.
    for n in range(3):
        with open_log(log_address(config)) as log:
            log.append_events([click(f"more-{n}")])
        made = make_snapshot(config)
        assert made.folder.name.startswith("abc.")
    assert len(list(workspace.state.glob("abc*"))) == 2
    assert make_snapshot(config).records == 0


def test_another_log_is_not_folded_in(shop, tmp_path):
    config, workspace = shop
    for file in workspace.log.glob("log.sqlite*"):
        file.unlink()
    with open_log(log_address(config)) as log:
        log.append_events([click("new"), click("other")])
    with pytest.raises(LogReplaced):
        make_snapshot(config)
    assert workspace.current_snapshot().name == "abc"


def test_forgetting_reaches_snapshots_and_what_is_published(shop, tmp_path):
    config, _ = shop
    with open_log(log_address(config)) as log:
        log.append_events([click("gone"), click("stays")])
        log.submit([user_write("gone", {"plan": "only-theirs"}, 1)]).result()
    before = make_snapshot(config).published
    receipt = forget_user(config, "gone")
    assert any(place.where.startswith("published snapshots") for place in receipt.places)
    store = store_of(config)
    after = store.current()
    assert after.name != before.name
    left = {p.name for p in (tmp_path / "store" / "states").iterdir()}
    assert left == {after.world, *after.shards}
    state = OnlineState.open(store.fetch(after, None))
    assert not state.knows_user("gone")
    assert state.user_attributes("gone") == {}
    assert state.knows_user("stays")
    for file in (tmp_path / "store").rglob("*"):
        # The world names who was forgotten until the next night, as the workspace's snapshot does.
        if file.is_file() and file.name != "state.json":
            assert b"gone" not in file.read_bytes(), file
            assert b"only-theirs" not in file.read_bytes(), file
