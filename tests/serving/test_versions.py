"""Champions swapped under load, pinned versions, experiments."""

import asyncio
import random
import re
import threading
from collections import Counter

import pytest

from recsys.data_schemas.errors import UsageError
from recsys.serving import telemetry as metrics
from recsys.serving.experiments import explore, team_draft
from recsys.storage.eventlog import open_log
from recsys.storage.experiment_records import unit_share
from recsys.storage.registry import RegistryError

ASK = {"user_id": "u", "items": ["1", "2", "3", "4"]}


def run(scenario):
    return asyncio.run(scenario())


def test_a_champion_is_swapped_under_load_and_no_answer_mixes_versions(serve, fakes, eventually):
    provider, engine = fakes[0](), fakes[1]

    async def scenario():
        order = {}
        for version in ("1", "2"):
            async with serve(fakes[0](version)) as (client, _):
                answer = (await client.post("/v1/rank", json=ASK)).json()
                order[version] = [(i["item_id"], i["score"]) for i in answer["items"]]
        assert order["1"] != order["2"]
        async with serve(provider) as (client, app):
            answers = []

            async def ask_on():
                while not (answers and answers[-1] == "2"):
                    answer = await client.post("/v1/rank", json=ASK)
                    assert answer.status_code == 200
                    body = answer.json()
                    ranked = [(i["item_id"], i["score"]) for i in body["items"]]
                    assert ranked == order[body["model_version"]]
                    answers.append(body["model_version"])

            async def promote():
                await eventually(lambda: len(answers) > 20)
                provider.champion = "2"
                await eventually(lambda: answers[-1] == "2")

            async with asyncio.TaskGroup() as together:
                for work in (promote, *[ask_on] * 8):
                    together.create_task(work())
            assert set(answers) == {"1", "2"}
            assert answers == sorted(answers)
            assert isinstance(app.versions.champion(), engine)

    run(scenario)


def test_a_champion_that_does_not_load_leaves_the_old_one_in_service(serve, fakes, eventually):
    provider = fakes[0]()

    async def scenario():
        async with serve(provider) as (client, app):
            provider.champion = "broken"
            await eventually(lambda: "broken" in provider.loads)
            polls = provider.polls
            await eventually(lambda: provider.polls > polls + 3)
            assert provider.loads.count("broken") == 1
            assert (await client.post("/v1/rank", json=ASK)).json()["model_version"] == "1"
            provider.champion = "3"
            await eventually(lambda: app.versions.champion().version == "3")
            assert (await client.post("/v1/rank", json=ASK)).json()["model_version"] == "3"

    run(scenario)


def test_a_version_is_pinned_by_the_request_and_follows_the_log(serve, fakes):
    provider = fakes[0]()

    async def scenario():
        async with serve(provider, pinned_versions=1) as (client, app):
            pinned = await client.post("/v1/rank", json={**ASK, "model_version": "2"})
            assert pinned.json()["model_version"] == "2"
            event = {"user_id": "u", "item_id": "4", "event_type": "click"}
            await client.post("/v1/events", json=event)
            again = (await client.post("/v1/rank", json={**ASK, "model_version": "2"})).json()
            assert again["items"][0]["item_id"] == "4"
            await client.post("/v1/rank", json={**ASK, "model_version": "3"})
            assert app.versions.roles() == {"1": "champion", "3": "pinned"}
            assert provider.loads == ["1", "2", "3"]
            unknown = await client.post("/v1/rank", json={**ASK, "model_version": "9"})
            assert (unknown.status_code, "'9'" in unknown.json()["detail"]) == (404, True)
            models = (await client.get("/v1/models")).json()
            assert {m["version"]: m["role"] for m in models["models"]} == {
                "1": "champion",
                "2": "available",
                "3": "pinned",
            }

    run(scenario)


class Named:
    """A provider whose versions have several names, as a registry's have."""

    def __init__(self, fakes, champion="1"):
        self.inner, self.asked = fakes[0](champion), []
        self.open = asyncio.Event()
        self.open.set()

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def resolve(self, name):
        self.asked.append(name)
        number = {"challenger": "2"}.get(name) or name.rpartition("/")[2].lstrip("0")
        if number not in {"1", "2", "3"}:
            raise UsageError("no model version has this name", found=name)
        return number


def test_all_names_of_a_version_lead_to_one_engine(serve, fakes):
    provider = Named(fakes)

    async def scenario():
        async with serve(provider) as (client, app):
            for name in ("2", "02", "002", "models:/recsys/2", "challenger") * 3:
                answer = await client.post("/v1/rank", json={**ASK, "model_version": name})
                assert answer.json()["model_version"] == "2"
            for name in ("champion", "1", "01", "models:/recsys/1"):
                answer = await client.post("/v1/rank", json={**ASK, "model_version": name})
                assert answer.json()["model_version"] == "1"
            assert provider.loads == ["1", "2"]
            assert app.versions.roles() == {"1": "champion", "2": "pinned"}
            assert len(provider.asked) == len(set(provider.asked))

    run(scenario)


def test_who_pins_the_champion_follows_it(serve, fakes, eventually):
    provider = Named(fakes)

    async def scenario():
        async with serve(provider) as (client, app):
            pinned = {**ASK, "model_version": "champion"}
            assert (await client.post("/v1/rank", json=pinned)).json()["model_version"] == "1"
            provider.inner.champion = "3"
            await eventually(lambda: app.versions.champion().version == "3")
            assert (await client.post("/v1/rank", json=pinned)).json()["model_version"] == "3"

    run(scenario)


def test_a_version_that_is_not_there_is_looked_for_once(serve, fakes, monkeypatch):
    monkeypatch.setattr("recsys.serving.loaded_versions.NAMES_KEPT", 8)
    provider = Named(fakes)

    async def scenario():
        async with serve(provider) as (client, app):
            for _ in range(5):
                answer = await client.post("/v1/rank", json={**ASK, "model_version": "nine"})
                assert answer.status_code == 404
            assert provider.asked == ["nine"]
            for n in range(12):
                await client.post("/v1/rank", json={**ASK, "model_version": f"wrong {n}"})
            assert len(app.versions._names._known) == 8
            shown = (await client.get("/metrics")).text
            assert 'recsys_versions_refused_total{reason="unknown"}' in shown
            assert "recsys_versions_open 1.0" in shown

    run(scenario)


def test_versions_are_opened_one_at_a_time(serve, fakes):
    gate, begun = threading.Event(), []

    class Slow(fakes[0]):
        def load(self, version):
            if version != "1":
                begun.append(version)
                assert gate.wait(60)
            return super().load(version)

    async def scenario():
        async with serve(Slow()) as (client, _):
            first = asyncio.create_task(client.post("/v1/rank", json={**ASK, "model_version": "2"}))
            while not begun:
                await asyncio.sleep(0.005)
            for _ in range(3):
                other = await client.post("/v1/rank", json={**ASK, "model_version": "3"})
                assert other.status_code == 503
                assert other.headers["retry-after"]
            assert (await client.post("/v1/rank", json=ASK)).status_code == 200
            gate.set()
            assert (await first).json()["model_version"] == "2"
            assert begun == ["2"]
            again = await client.post("/v1/rank", json={**ASK, "model_version": "3"})
            assert again.json()["model_version"] == "3"

    run(scenario)


def test_versions_are_listed_again_once_the_registry_answers(serve, fakes):
    class Locked(fakes[0]):
        locked = True

        def versions(self):
            if self.locked:
                raise RegistryError("the registry's database does not answer")
            return super().versions()

    provider = Locked()

    async def scenario():
        async with serve(provider) as (client, _):
            answer = await client.get("/v1/models")
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert (await client.post("/v1/rank", json=ASK)).status_code == 200
            provider.locked = False
            listed = (await client.get("/v1/models")).json()["models"]
            assert listed[0] == {"version": "1", "role": "champion"}

    run(scenario)


def test_users_stay_in_their_arm(serve, eventually):
    async def scenario():
        async with serve(ab=("2", 0.5)) as (client, app):
            await eventually(lambda: app.versions.open_version("2"))
            arms = {}
            for n in [*range(40)] * 2:
                body = (await client.post("/v1/rank", json={**ASK, "user_id": f"u{n}"})).json()
                arm = (body["experiment"]["arm"], body["model_version"])
                assert arms.setdefault(n, arm) == arm
            assert set(arms.values()) == {("champion", "1"), ("challenger", "2")}
            share = unit_share("u1", "ab:2")
            assert (arms[1][0] == "challenger") == (share < 0.5)

    run(scenario)


def test_nobody_is_in_an_arm_whose_version_is_not_there_or_has_won(serve, fakes):
    provider = fakes[0]()

    async def scenario():
        async with serve(provider, ab=("broken", 0.5)) as (client, _):
            for n in range(10):
                body = (await client.post("/v1/rank", json={**ASK, "user_id": f"u{n}"})).json()
                assert ("experiment" in body, body["model_version"]) == (False, "1")
        async with serve(provider, ab=("1", 0.5)) as (client, _):
            assert "experiment" not in (await client.post("/v1/rank", json=ASK)).json()

    run(scenario)


def test_interleaved_lists_name_the_team_of_each_item(serve, tmp_path, eventually):
    async def scenario():
        async with serve(interleave="2") as (client, app):
            await eventually(lambda: app.versions.open_version("2"))
            body = (await client.post("/v1/recommend", json={"user_id": "u", "k": 10})).json()
            teams = Counter(item["team"] for item in body["items"])
            assert sum(teams.values()) == 10
            assert abs(teams["1"] - teams["2"]) <= 1
            assert body["model_version"] == "1+2"
            assert body["experiment"] == {"name": "interleave", "arm": "interleaved"}
        with open_log(tmp_path / "log.sqlite") as log:
            shown = next(r.payload for r in log.read(0) if r.kind == "impression")
        assert shown["teams"] == [item["team"] for item in body["items"]]

    run(scenario)


def seen():
    """Lists that the shadow has ranked along."""
    (line,) = re.findall(r"recsys_shadow_overlap_count (\S+)", metrics.render().decode())
    return float(line)


def test_a_shadow_never_changes_an_answer(serve, eventually):
    async def scenario():
        async with serve(shadow="2") as (client, app):
            await eventually(lambda: app.versions.open_version("2"))
            before = seen()
            body = (await client.post("/v1/rank", json=ASK)).json()
            assert body["model_version"] == "1"
            await eventually(lambda: seen() == before + 1)

    run(scenario)


def test_team_draft_takes_each_list_in_order_and_no_item_twice():
    rng = random.Random(1)
    for _ in range(50):
        drafted = team_draft(list("abcdef"), list("cadbxy"), 6, rng)
        items = [item for item, _ in drafted]
        assert len(set(items)) == len(items) == 6
        assert all(
            abs(sum(1 if team else -1 for _, team in drafted[: n + 1])) <= 1 for n in range(6)
        )
    assert team_draft(["a"], ["a"], 5, rng)[0][0] == "a"
    assert team_draft([], [], 5, rng) == []


def test_logged_propensities_are_the_frequencies_of_being_shown_there():
    rng, lists, share = random.Random(2), 40_000, 0.4
    seen, logged = Counter(), {}
    for _ in range(lists):
        shown, propensities = explore(["a", "b", "c", "d"], share, rng)
        for place, (item, p) in enumerate(zip(shown, propensities, strict=True)):
            seen[item, place] += 1
            assert logged.setdefault((item, place), p) == p
    # One of three pairs is swapped in 40 % of lists: 0.4/3 each.
    assert logged["a", 0] == pytest.approx(1 - 0.4 / 3)
    assert logged["b", 1] == pytest.approx(1 - 2 * 0.4 / 3)
    assert logged["b", 0] == pytest.approx(0.4 / 3)
    for key, count in seen.items():
        # Four standard errors of a frequency over 40,000 draws are at most 0.01.
        assert count / lists == pytest.approx(logged[key], abs=0.01)
    assert explore(["a"], 1.0, rng) == (["a"], [1.0])
