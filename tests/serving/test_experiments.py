"""Experiments of a workspace as services deal people to their arms, and log it."""

import asyncio

import pytest

from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.storage.eventlog import open_log
from recsys.storage.experiment_records import (
    DeclaredExperiment,
    ExperimentList,
    find_experiment,
    read_experiments,
    start_experiment,
    stop_experiment,
)
from recsys.storage.workspace import Workspace

ASK = {"items": ["1", "2", "3", "4"]}


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "work")


@pytest.fixture
def begin(workspace):
    """Start an experiment of version 2 against version 1."""

    def start(name="spring", kind="ab", share=0.5, control="1", **more):
        new = DeclaredExperiment(name, kind, "2", control, share, "", **more)
        return start_experiment(workspace, new)

    return start


def run(scenario):
    return asyncio.run(scenario())


def shown(path):
    with open_log(path / "log.sqlite") as log:
        return [r.payload for r in log.read(0, 10_000) if r.kind == "impression"]


async def ask(client, **who):
    answer = await client.post("/v1/rank", json={**ASK, **who})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return body.get("experiment"), body["model_version"]


async def both_open(eventually, app):
    await eventually(lambda: app.versions.open_version("1") and app.versions.open_version("2"))


def test_arms_are_the_same_after_a_restart_and_are_logged(
    serve, workspace, begin, tmp_path, eventually, fakes
):
    begin()
    trials = ExperimentList(workspace, every=0.0)

    async def arms(champion):
        # Another champion: both arms keep the versions that they were started with.
        async with serve(fakes[0](champion), experiments=trials) as (client, app):
            await both_open(eventually, app)
            return {u: await ask(client, user_id=f"u{u}") for u in range(40)}

    first, second = run(lambda: arms("1")), run(lambda: arms("3"))
    assert first == second
    assert {(e["arm"], v) for e, v in first.values()} == {("control", "1"), ("challenger", "2")}
    for row in shown(tmp_path):
        experiment, version = first[int(row["user_id"][1:])]
        assert (row["experiment"], row["arm"]) == ("spring", experiment["arm"])
        assert row["model_version"] == version
        assert "unit" not in row


def test_a_running_service_takes_up_start_and_stop(serve, workspace, begin, eventually):
    trials = ExperimentList(workspace, every=0.0)

    async def scenario():
        async with serve(experiments=trials) as (client, app):
            assert (await ask(client, user_id="u"))[0] is None
            begin()
            await both_open(eventually, app)
            assert (await ask(client, user_id="u"))[0]["name"] == "spring"
            # Nobody is an experiment's who asked for a version, or for nothing to be learned.
            assert (await ask(client, user_id="u", model_version="2"))[0] is None
            stop_experiment(workspace, "spring", "enough")
            assert (await ask(client, user_id="u")) == (None, "1")

    run(scenario)


def test_who_opted_out_takes_no_part(serve, workspace, begin, tmp_path, eventually):
    begin()

    async def scenario():
        trials = ExperimentList(workspace, every=0.0)
        async with serve(experiments=trials, opted_out={"o"}) as (client, app):
            await both_open(eventually, app)
            assert (await ask(client, user_id="o")) == (None, "1")
            assert (await ask(client, user_id="u"))[0] is not None

    run(scenario)
    assert [row.get("experiment") for row in shown(tmp_path)] == [None, "spring"]


def test_visits_as_units_keep_their_arm_over_the_log_in(
    serve, workspace, begin, tmp_path, eventually
):
    declared = begin(unit="session")

    async def scenario():
        async with serve(experiments=ExperimentList(workspace, every=0.0)) as (client, app):
            await both_open(eventually, app)
            for n in range(20):
                before = await ask(client, session_id=f"s{n}")
                after = await ask(client, session_id=f"s{n}", user_id="u")
                assert before == after
            # A person who is named without a visit has no unit.
            assert (await ask(client, user_id="u"))[0] is None

    run(scenario)
    rows = [row for row in shown(tmp_path) if row.get("unit")]
    assert len(rows) == 40
    assert {row["unit"] for row in rows} == {declared.pseudonym(f"session:s{n}") for n in range(20)}
    assert not any("s1" in str(row["unit"]) for row in rows)


def test_interleaving_of_a_share(serve, workspace, begin, tmp_path, eventually):
    begin(kind="interleave", share=0.5)

    async def scenario():
        async with serve(experiments=ExperimentList(workspace, every=0.0)) as (client, app):
            await both_open(eventually, app)
            return [await ask(client, user_id=f"u{n}") for n in range(40)]

    found = run(scenario)
    inside = [e for e, _ in found if e]
    assert 8 < len(inside) < 32
    assert {e["arm"] for e in inside} == {"interleaved"}
    assert {v for e, v in found if e is None} == {"1"}
    assert all(set(row["teams"]) == {"1", "2"} for row in shown(tmp_path) if "teams" in row)


def test_one_runs_at_a_time_and_names_are_used_once(workspace, begin):
    first = begin()
    with pytest.raises(UsageError, match="another experiment is running"):
        begin("summer")
    stop_experiment(workspace, "spring", "enough")
    with pytest.raises(UsageError, match="stopped before"):
        stop_experiment(workspace, "spring", "again")
    with pytest.raises(UsageError, match="was an experiment of this name"):
        begin()
    second = begin("summer")
    assert second.salt != first.salt
    assert [one.stopped is None for one in read_experiments(workspace)] == [False, True]
    with pytest.raises(UsageError, match="no such experiment"):
        find_experiment(workspace, "winter")


def test_a_damaged_list_is_said_and_the_running_service_keeps_what_it_read(workspace, begin):
    begin()
    trials = ExperimentList(workspace, every=0.0)
    assert trials.running().name == "spring"
    workspace.experiments.write_text("{")
    assert trials.running().name == "spring"
    with pytest.raises(RecsysError, match="cannot be read"):
        read_experiments(workspace)
