"""Replay: what was ranked at a moment is what the replay of that moment gives, over HTTP and after
later events, items and impressions have reached the state."""

import random
import re
from datetime import UTC, datetime

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.api import to_microseconds
from recsys.data_schemas.config import load_config
from recsys.operations.cli.demo import apart, service, show_new_film
from recsys.operations.cli.demo_new_film import FILM
from recsys.operations.open_release import load_release
from recsys.query import RankingQuery
from recsys.serving.client import Client

MOMENTS, CANDIDATES = 40, 30
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]


def scores(ranked):
    return {item.item_id: item.score for item in ranked.items}


def test_replayed_moments_give_the_scores_of_the_release(released):
    config = released / "recsys.yaml"
    events = pq.read_table(released / "data" / "events.parquet").to_pylist()
    moments = random.Random(3).sample(events, MOMENTS)
    moments.sort(key=lambda event: event["timestamp"])
    loaded = load_release(load_config(config))
    ids = [loaded.state.catalogue.id_of(i) for i in range(CANDIDATES)]

    def expected(event):
        now = to_microseconds(event["timestamp"].astimezone(UTC))
        answer = loaded.answer(RankingQuery(event["user_id"], now, items=ids))
        return dict(zip(answer.item_ids, answer.scores, strict=True))

    def close(left, right):
        assert left.keys() == right.keys()
        np.testing.assert_allclose([left[i] for i in ids], [right[i] for i in ids], rtol=1e-6)

    with service(config) as address, Client(address, timeout=60) as client:

        def replayed(event):
            at = event["timestamp"].astimezone(UTC)
            return scores(client.rank(event["user_id"], ids, as_of=at))

        for event in moments:
            close(replayed(event), expected(event))
        served = []
        for event in moments[:10]:
            served.append((event["user_id"], scores(client.rank(event["user_id"], ids))))
            client.event(event["user_id"], ids[0], "purchase")
        client.put_item("later", title="It came later")
        for event in moments:
            close(replayed(event), expected(event))
        close(served[0][1], scores(client.rank(served[0][0], ids, as_of=_data_end(loaded))))


def _data_end(loaded):
    """Just after the end of the data: where the frozen clock stood for the first served list."""
    return datetime.fromtimestamp((loaded.moment + 1) / 1e6, UTC)


def test_the_demonstrations_new_film_reaches_people(released, capsys):
    with apart(released / "recsys.yaml") as beside, service(beside) as address:
        show_new_film(address, released / "data" / "events.parquet")
        with Client(address, timeout=60) as client:
            assert client.get_item("new-film").title == FILM["title"]
    said = capsys.readouterr().out
    assert "nearest by text: " in said
    found = re.search(r"of (\d+) people asked before and after, (\d+) have it", said)
    people, getting = int(found[1]), int(found[2])
    assert 0 < people <= 40
    # Reserved places let it compete; a ranker of twenty trees may still put it far back.
    assert 0 <= getting <= people
    assert ("<- new" in said or "the list of" in said) == (getting > 0)
