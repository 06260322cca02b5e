"""Examples: what is seen, what is kept apart, and the leak that is refused."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.data_schemas.errors import DataRefused
from recsys.features.impressions import Impressions
from recsys.features.interactions import DAY
from recsys.features.ragged import offsets_of
from recsys.training.finetune.examples import (
    WEAK_SHARE,
    fewer_users,
    make_examples,
    match_shown,
)
from recsys.training.finetune.loop import MOST_REPEATS, NEW_SHARE, Sampler

MINUTE = 60 * 1_000_000


def test_a_history_is_strictly_before_its_example(behaviour):
    until = int(behaviour.time.max())
    split = make_examples(behaviour, fit_until=until, places=5, seed=1)
    for part in (split.train, split.valid):
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


def test_items_held_out_have_no_part_in_training(behaviour):
    shown = lists(*((u, 0, [i % 64 for i in range(u, u + 30)]) for u in range(120)))
    split = make_examples(
        behaviour, fit_until=int(behaviour.time.max()), places=5, seed=1, shown=shown
    )
    held = set(split.held.tolist())
    assert 16 <= len(held) + 8 <= 32  # a quarter of the 64 at most, by lot
    train = split.train
    assert not held & set(train.histories.events.item.tolist())
    assert not held & set(train.target.tolist())
    assert not held & set(train.unclicked.items.tolist())
    assert not held & set(split.known.tolist())
    assert set(split.items.tolist()) == held | set(split.known.tolist())


def test_validation_asks_for_held_out_items_by_what_was_known_before(behaviour):
    split = make_examples(behaviour, fit_until=int(behaviour.time.max()), places=3, seed=1)
    valid, events = split.valid, split.valid.histories.events
    assert len(valid) == len(split.asker) >= 20
    assert np.isin(valid.target, split.held).all()
    whole = behaviour.histories()
    for row, start, end, user in zip(
        valid.row, valid.start, valid.end, split.asker.tolist(), strict=True
    ):
        assert end == row  # the target is the last of its history's rows
        past, now = events.item[start:end], int(events.time[row])
        before = whole.of(user).before(now)
        wanted = before.item[~np.isin(before.item, split.held)][-3:]
        assert past.tolist() == wanted.tolist()
        assert len(past) > 0
        assert not np.isin(past, split.held).any()


def test_an_item_that_was_learned_from_is_not_held_out_later(behaviour):
    """A later fit starts from an earlier one's weights: the share falls as the catalogue grows."""
    few = replace(behaviour, n_items=64)
    more = replace(behaviour, item=(behaviour.item + 64 * (behaviour.user % 9)).astype(np.int32))
    grown = replace(
        more, item=np.where(behaviour.user % 9 == 0, behaviour.item, more.item), n_items=64 * 9
    )
    until = int(behaviour.time.max())
    before = make_examples(few, fit_until=until, places=5, seed=1)
    after = make_examples(grown, fit_until=until, places=5, seed=1)
    assert not np.isin(after.held, before.known).any()


def test_too_little_to_validate_on_is_refused(behaviour):
    """Plenty of events, hardly any of them on more than a few items."""
    one = replace(behaviour, item=(behaviour.item % 2).astype(np.int32))
    with pytest.raises(DataRefused, match="too little behaviour"):
        make_examples(one, fit_until=int(one.time.max()), places=5, seed=1)


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


def lists(*shown):
    """(user, minute, items) of each list."""
    users, minutes, items = zip(*shown, strict=True)
    return Impressions.of(
        offsets_of([len(i) for i in items]),
        np.concatenate(items).astype(np.int32),
        np.array(minutes, np.int64) * MINUTE,
        user=np.array(users, np.int32),
    )


def test_unclicked_items_are_those_of_the_last_list_before(interactions_of):
    events = replace(
        interactions_of([0, 1, 0], [5, 5, 7]), time=np.array([10, 11, 90], np.int64) * MINUTE
    )
    shown = lists(
        (0, 1, [5, 1]),  # an earlier list with the same item
        (0, 9, [2, 5, 7, 3]),  # the one acted on; 7 is acted on later
        (0, 12, [5, 4]),  # after the event
        (0, 20, [7, 9]),  # too long before the next event
        (1, 10, [6, -1]),  # without the item
        (-1, 10, [5, 8]),  # of somebody without events
    )
    found = match_shown(events, shown)
    rows = [
        found.items[a:b].tolist() for a, b in zip(found.offsets, found.offsets[1:], strict=False)
    ]
    # The histories table holds user 0's events first.
    assert rows == [[2, 3], [], []]


def test_own_negatives_are_drawn_from_the_examples_list(behaviour):
    held = make_examples(behaviour, fit_until=int(behaviour.time.max()), places=5, seed=1).held
    learned = ~np.isin(behaviour.item, held)
    first = int(np.flatnonzero((behaviour.user == 7) & learned)[-1])
    item, time = int(behaviour.item[first]), int(behaviour.time[first])
    others = [i for i in range(60) if i % 8 != 7 and i not in held]
    shown = Impressions.of(
        np.array([0, 4]),
        np.array([others[0], item, others[1], others[2]], np.int32),
        np.array([time - 5]),
        user=np.array([7], np.int32),
    )
    split = make_examples(
        behaviour, fit_until=int(behaviour.time.max()), places=5, seed=1, shown=shown
    )
    rng, seen = np.random.default_rng(0), []
    for i in range(len(split.train)):
        own = split.train.own(np.array([i]), rng)[0]
        if (own >= 0).any():
            seen.append((int(split.train.target[i]), set(own.tolist())))
    assert split.valid.with_own() == 0
    assert len(seen) == 1
    assert seen[0][0] == item
    assert seen[0][1] <= set(others[:3])


def test_views_teach_weakly_and_never_validate(behaviour):
    viewed = np.arange(len(behaviour)) % 4 > 0
    events = replace(
        behaviour,
        grade=np.where(viewed, 0, 3).astype(np.int8),
        weight=np.where(viewed, 1, 5).astype(np.float32),
    )
    split = make_examples(events, fit_until=int(events.time.max()), places=5, seed=1)
    grade = split.train.histories.events.grade
    weak = grade[split.train.row] == 0
    assert weak.sum() > 2 * (~weak).sum()
    assert (split.valid.histories.events.grade[split.valid.row] > 0).all()
    sampler = Sampler(split.train, 0, 8, 8, 64, np.full(64, 5))
    assert sampler.probability[weak].sum() == pytest.approx(WEAK_SHARE)
    neutral = replace(events, value=np.where(viewed, np.float32(3), np.float32(np.nan)))
    split = make_examples(neutral, fit_until=int(events.time.max()), places=5, seed=1)
    assert (split.train.histories.events.grade[split.train.row] > 0).all()


def test_nobodys_target_is_no_candidate_of_a_step_that_encodes(behaviour):
    """Its share of the draws is nought, and the correction for that would drown all other logits."""
    # item 64 stands first in every history, and nobody acts on it after anything else
    item = np.where(np.arange(len(behaviour)) < 120, 64, behaviour.item).astype(np.int32)
    behaviour = replace(behaviour, item=item, n_items=65)
    split = make_examples(behaviour, fit_until=int(behaviour.time.max()), places=5, seed=1)
    targets = np.unique(split.train.target)
    sampler = Sampler(split.train, 0, 256, 8, 10**6, np.full(behaviour.n_items, 5))
    met = False
    for step in range(20):
        plan = sampler.plan(step, encode=True)
        met |= not np.isin(plan.encoded, targets).all()
        assert np.isin(plan.items[plan.candidates], targets).all()
        assert np.isin(plan.batch.target, plan.items[plan.candidates]).all()
    assert met


def with_openers(behaviour, count=60):
    """The same with the first event of every history on one of `count` items of the end of the
    vocabulary, which nobody acts on after anything else."""
    item = behaviour.item.copy()
    item[:120] = behaviour.n_items + behaviour.user[:120] % count
    return replace(behaviour, item=item, n_items=behaviour.n_items + count)


def test_an_encoded_item_has_its_row_though_it_is_nobodys_target(behaviour):
    """It is encoded for its place in one history, while the examples drawn may hold others."""
    openers = with_openers(behaviour)
    split = make_examples(openers, fit_until=int(openers.time.max()), places=5, seed=1)
    targets = np.unique(split.train.target)
    sampler = Sampler(split.train, 0, 16, 8, 64, np.full(openers.n_items, 5))
    alone = 0
    for step in range(20):
        plan = sampler.plan(step, encode=True)
        rows = np.searchsorted(plan.items, plan.encoded)
        assert (plan.items[np.minimum(rows, len(plan.items) - 1)] == plan.encoded).all()
        alone += int((~np.isin(plan.encoded, [*targets, *plan.batch.item.ravel()])).sum())
    assert alone > 0


def test_what_is_new_to_a_warm_start_is_drawn_more_often(behaviour):
    split = make_examples(behaviour, fit_until=int(behaviour.time.max()), places=5, seed=1)
    times = split.train.histories.events.time[split.train.row]
    for since, wanted in ((5 * DAY, NEW_SHARE), (6 * DAY + 100_000, None)):
        plain = Sampler(split.train, 0, 8, 8, 64, np.full(64, 5)).probability
        raised = Sampler(split.train, 0, 8, 8, 64, np.full(64, 5), since=since).probability
        new = times > since
        assert 0 < new.mean() < 0.5
        if wanted is not None:
            assert raised[new].sum() == pytest.approx(wanted)
        ratio = (raised[new] / plain[new]).mean() / (raised[~new] / plain[~new]).mean()
        assert ratio <= MOST_REPEATS * (1 + 1e-9)


def test_fewer_users_name_at_most_so_many_items_and_more_only_add_to_them(behaviour):
    world, before = behaviour, set()
    named = len(np.unique(world.item))
    for items in (named // 4, named // 2, named - 1):
        kept = fewer_users(world, items, seed=1)
        assert len(np.unique(kept.item)) <= items
        users = set(kept.user.tolist())
        assert before <= users
        assert len(kept) == np.isin(world.user, list(users)).sum(), "whole users"
        before = users
    assert fewer_users(world, named, seed=1) is world
