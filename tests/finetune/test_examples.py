"""Examples: what is seen, what is kept apart, and the leak that is refused."""

from dataclasses import replace

import numpy as np
import pytest

from data_schemas.errors import DataRefused
from features.interactions import DAY
from training.finetune.examples import make_examples


def test_a_history_is_strictly_before_its_example(behaviour):
    until = int(behaviour.time.max())
    split = make_examples(behaviour, fit_until=until, places=5, seed=1)
    for part in split:
        events = part.histories.events
        for row, start, end in zip(part.row, part.start, part.end, strict=True):
            assert (events.time[start:end] < events.time[row]).all()
            assert end > start


def test_events_of_one_moment_do_not_see_each_other(behaviour):
    tied = replace(behaviour, time=behaviour.time // (3 * DAY))
    split = make_examples(tied, fit_until=int(tied.time.max()), places=5, seed=1)
    events = split.train.histories.events
    assert len(split.train) > 0
    for row, start, end in zip(split.train.row, split.train.start, split.train.end, strict=True):
        assert events.time[start:end].max() < events.time[row]


def test_a_batch_holds_the_last_items_on_the_right(behaviour):
    split = make_examples(behaviour, fit_until=int(behaviour.time.max()), places=4, seed=1)
    which = np.arange(len(split.train))
    batch = split.train.batch(which)
    events = split.train.histories.events
    for i in which:
        wanted = events.item[split.train.start[i] : split.train.end[i]][-4:]
        assert batch.item[i].tolist() == [-1] * (4 - len(wanted)) + wanted.tolist()
    assert batch.target.tolist() == events.item[split.train.row].tolist()
    assert (batch.age[batch.item >= 0] >= 9).all()  # a day is 2**10.5 minutes


def test_validation_users_have_no_part_in_training(behaviour):
    split = make_examples(behaviour, fit_until=int(behaviour.time.max()), places=5, seed=1)
    offsets = split.train.histories.offsets
    train, valid = (set(np.searchsorted(offsets, part.row, "right").tolist()) for part in split)
    assert len(valid) == 20
    assert len(split.valid) == 20 * 5  # every example of theirs, since they have few
    assert not train & valid


def test_dislikes_are_no_positives(behaviour):
    grade = np.where(np.arange(len(behaviour)) % 2 == 0, behaviour.grade, -1).astype(np.int8)
    split = make_examples(
        replace(behaviour, grade=grade), fit_until=int(behaviour.time.max()), places=5, seed=1
    )
    assert (split.train.histories.events.grade[split.train.row] > 0).all()


def test_events_after_the_window_are_refused(behaviour):
    with pytest.raises(DataRefused, match="after the end of the encoder's window"):
        make_examples(behaviour, fit_until=int(behaviour.time.max()) - 1, places=5, seed=1)


def test_too_little_behaviour_is_refused(behaviour):
    few = behaviour.where(behaviour.user < 3)
    with pytest.raises(DataRefused, match="too little behaviour"):
        make_examples(few, fit_until=int(behaviour.time.max()), places=5, seed=1)
