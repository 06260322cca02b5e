"""The last events of some users are held out of a sequence fit, and the best weights are kept."""

import numpy as np
import pytest

from recsys.training.sources.sequence import (
    PATIENCE,
    Best,
    HeldOut,
    Negatives,
    Sequences,
    hold_out,
    train,
)


@pytest.fixture
def events(interactions_of):
    """2,000 users with three events each, and one with two."""
    users = np.repeat(np.arange(2001), 3)[:-1]
    return interactions_of(users.tolist(), (np.arange(len(users)) % 40).tolist())


def test_only_last_events_are_held_out_and_the_ones_before_ask_for_them(events):
    learned, held = hold_out(events, 2, np.random.default_rng(0))
    assert len(held.target) == 100  # a twentieth of those with three events
    assert len(learned) == len(events) - 100
    left = np.bincount(learned.user)
    assert left[-1] == 2
    for user, before, target in zip(
        np.flatnonzero(left[:-1] == 2), held.item, held.target, strict=True
    ):
        own = events.item[events.user == user].tolist()
        assert [*before.tolist(), target] == own


def test_of_few_users_nothing_is_held_out(interactions_of):
    events = interactions_of([0] * 5 + [1] * 5, list(range(10)))
    learned, held = hold_out(events, 4, np.random.default_rng(0))
    assert learned is events
    assert held is None


class Told:
    """A model that is as good as it is told, with its own number of looks as its weight."""

    def __init__(self, qualities):
        import torch

        self.qualities, self.looks = qualities, 0
        self.weight = torch.zeros(1)

    def found(self, item, target):
        self.looks += 1
        self.weight = self.weight + 1
        return self.qualities[self.looks - 1]

    def named_parameters(self):
        return [("weight", self.weight)]

    def load_state_dict(self, weights):
        self.weight = weights["weight"]


HELD = HeldOut(np.zeros((1, 2), np.int32), np.zeros(1, np.int64))


def test_the_best_weights_are_restored_and_worse_looks_end_the_fit():
    qualities = [0.1, 0.3, *[0.2] * PATIENCE]
    best = Best(Told(qualities), HELD)
    for step in range(len(qualities)):
        assert not best.is_past
        best.look(step)
    assert best.is_past
    best.restore()
    assert best.model.weight.tolist() == [2.0]


def test_a_fit_ends_with_the_weights_that_found_the_held_out_best(events, monkeypatch):
    from recsys.retrieval.sequence.source import SequenceSource
    from recsys.training.sources.sequence_model import SequenceModel

    params = SequenceSource.Params().model_dump()
    params |= {"width": 8.0, "heads": 1.0, "negatives": 16.0, "length": 2.0}
    draw = np.random.default_rng(0)
    learned, held = hold_out(events, 2, draw)
    counts = np.bincount(events.item, minlength=40).astype(np.int32)
    model = SequenceModel(counts, None, params, 40)
    seen = []
    found = SequenceModel.found
    monkeypatch.setattr(
        SequenceModel, "found", lambda *asked: seen.append(found(*asked)) or seen[-1]
    )
    train(
        model, Sequences.of(learned, 2, 5.0), Negatives(counts, 16, draw), 3.0, params, draw, held
    )
    assert max(seen) > seen[0]  # items follow one another, so that there is something to learn
    assert found(model, held.item, held.target) == pytest.approx(max(seen))
