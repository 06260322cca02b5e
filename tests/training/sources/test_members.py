"""Members that are averaged, larger sizes and a softmax over all items: all served by the same kernels."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recsys.retrieval.fitted_source import SourceFit
from recsys.retrieval.sequence.source import SequenceSource
from recsys.retrieval.source_params import resolved
from recsys.training import device_plan, device_speed
from recsys.training.device_plan import Device, SequenceSize
from recsys.training.sources import sequence
from recsys.training.sources.sequence import SEED_STEP, Negatives
from recsys.training.sources.sequence_model import SequenceModel

SMALL = {"width": 8, "negatives": 16, "epochs": 2, "learning_rate": 0.01}
ITEMS = np.arange(40, dtype=np.int32)


def fitted(world, seed=1, previous=None, **params):
    events, inputs = world
    return SequenceSource.fit(
        events, inputs, {**SMALL, **params}, seed=seed, workers=1, previous=previous
    )


def test_two_members_score_the_mean_of_two_fits(world, history):
    both = fitted(world, members=2)
    alone = [fitted(world, seed=1), fitted(world, seed=1 + SEED_STEP)]
    assert both.items.shape == (40, 16)
    for items in ([0, 2, 4], [1], list(range(25))):
        asked = history(items)
        found = both.score(asked, ITEMS, 0)[:, 0]
        mean = np.mean([one.score(asked, ITEMS, 0)[:, 0] for one in alone], axis=0)
        np.testing.assert_allclose(found, mean, atol=1e-4)


def test_members_are_saved_and_gone_on_from(world, history, tmp_path):
    both = fitted(world, members=2, blocks=2)
    both.save(tmp_path)
    opened = SequenceSource.load(tmp_path)
    asked = history([3, 5, 7])
    np.testing.assert_array_equal(opened.score(asked, ITEMS, 0), both.score(asked, ITEMS, 0))
    nobody = np.zeros(40, np.uint8)
    assert len(opened.recall(asked, 5, 0, nobody).items) == 5
    warm = fitted(world, members=2, blocks=2, epochs=0, previous=opened)
    parts = sequence._under("member1.", opened.training)
    assert set(parts) == set(sequence._under("", opened.training))
    assert not np.array_equal(parts["id.weight"], sequence._under("", opened.training)["id.weight"])
    assert warm.members == 2


def test_a_source_without_the_param_has_one_member(world, history, tmp_path):
    one = fitted(world)
    params = {name: value for name, value in one.params.items() if name != "members"}
    old = SequenceSource(one.items, one.targets, one.known, one.weights, params=params, fit_until=0)
    asked = history([3, 5])
    np.testing.assert_array_equal(old.score(asked, ITEMS, 0), one.score(asked, ITEMS, 0))


def test_a_larger_size_scores_as_torch_does(world, history):
    """Width, blocks and members of a plan are served by the kernels of the smallest size."""
    events, inputs = world
    params = resolved("sequence", SequenceSource.Params, {**SMALL, "width": 48, "blocks": 3})
    torch.manual_seed(0)
    counts = np.bincount(events.item, minlength=40).astype(np.int32)
    model = SequenceModel(counts, inputs.vectors, params, 40).eval()
    arrays = model.exported()
    source = SequenceSource(
        arrays.pop("items"),
        arrays.pop("targets"),
        model.known(),
        arrays,
        params=params,
        fit_until=0,
    )
    items = [1, 4, 9, 16]
    with torch.no_grad():
        tables, biases = model.all_items()
        state = model.states(tables[torch.tensor([items])])[0, -1]
        wanted = (tables @ state + biases).numpy()
    np.testing.assert_allclose(
        source.score(history(items), ITEMS, 0)[:, 0], wanted, atol=1e-4, rtol=1e-4
    )


def _model(world, **params):
    events, inputs = world
    chosen = resolved(
        "sequence", SequenceSource.Params, {**SMALL, "dropout": 0, "id_dropout": 0, **params}
    )
    torch.manual_seed(0)
    counts = np.bincount(events.item, minlength=40).astype(np.int32)
    return SequenceModel(counts, inputs.vectors, chosen, 40).train(), counts


def test_no_negatives_are_all_items(world):
    model, counts = _model(world)
    item = torch.tensor([[3, 5, 7, -1], [2, 4, 6, 8]])
    weight = torch.tensor([[1.0, 2.0, 1.0, 0.0], [1.0, 1.0, 3.0, 1.0]])
    found = model.loss(item, weight, Negatives(counts, 0, np.random.default_rng(0)))
    tables, biases = model.all_items()
    total, mass = 0.0, 0.0
    for row, length in ((0, 3), (1, 4)):
        states = model.states(tables[item[row, : length - 1]][None])[0]
        for place in range(length - 1):
            logits = tables @ states[place] + biases
            share = weight[row, place + 1]
            total += float(
                share * F.cross_entropy(logits[None], item[row, place + 1][None]).detach()
            )
            mass += float(share)
    assert float(found.detach()) == pytest.approx(total / mass, rel=1e-5)


def test_a_fit_against_all_items_learns(world, history):
    source = fitted(world, negatives=0, epochs=10)
    even = source.score(history([0, 2, 4, 6]), ITEMS[:38], 0)[:, 0]
    assert even[0::2].mean() > even[1::2].mean()


def test_bfloat16_trains_to_nearly_the_same_loss(world):
    losses = {}
    for half in (False, True):
        model, counts = _model(world, width=32)
        model.half = half
        negatives = Negatives(counts, 16, np.random.default_rng(0))
        optimiser = sequence._optimiser(model, {"learning_rate": 0.01, "weight_decay": 0.0})
        item, weight = np.arange(40, dtype=np.int32).reshape(4, 10), np.ones((4, 10), np.float32)
        for _ in range(20):
            sequence._step(model, optimiser, item, weight, negatives)
        with torch.no_grad():
            loss = model.loss(torch.from_numpy(item), torch.from_numpy(weight), negatives)
        losses[half] = float(loss)
    assert losses[True] != losses[False]
    assert losses[True] == pytest.approx(losses[False], rel=0.1)


def test_a_fit_that_time_ends_says_so(world, monkeypatch):
    assert fitted(world).cut_short == ()
    monkeypatch.setattr(sequence, "MOST_SECONDS", 1e-9)
    (said,) = fitted(world).cut_short
    assert "stopped after 0 of" in said


def fit_of(world, **params):
    events, inputs = world
    chosen = resolved("sequence", SequenceSource.Params, {**SMALL, **params})
    return SourceFit(events, inputs, chosen, seed=1, workers=1)


def test_a_processor_affords_what_it_has(world):
    found = SequenceSource.afforded(fit_of(world), 600.0)
    assert found.settings == []
    assert "nothing is timed" in found.note


def test_a_gpu_times_steps_of_each_size(world, monkeypatch):
    """The same code as on a GPU, on the processor, told that it is one."""
    gpu = Device("pretended", True, 8e9)
    monkeypatch.setattr(device_speed, "device_facts", lambda device: gpu)
    monkeypatch.setattr(device_speed, "WARM_UP", 1)
    monkeypatch.setattr(device_speed, "TIMED", 2)
    monkeypatch.setattr(device_plan, "SIZES", (SequenceSize(16, 2, 0),))
    before = torch.get_rng_state()
    found = SequenceSource.afforded(fit_of(world), 6000.0)
    assert torch.equal(before, torch.get_rng_state())
    assert found.settings[0]["width"] == 16.0
    assert found.settings[0]["negatives"] == 0.0
    assert "a step takes" in found.note
    events, inputs = world
    larger = {**SMALL, **found.settings[0], "epochs": 2.0}
    source = SequenceSource.fit(events, inputs, larger, seed=1, workers=1)
    assert source.items.shape[1] == 16
    assert source.blocks == 2
