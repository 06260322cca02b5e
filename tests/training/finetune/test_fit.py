"""Fits on the small world: they learn, resume, stop cleanly and leave nothing half-written."""

import json
import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys.data_schemas.errors import DataRefused, RecsysError, UsageError
from recsys.encoder.encode import encode_items
from recsys.encoder.torch_model import ItemEncoder
from recsys.encoder.tower import InterestSource, Tower
from recsys.features.impressions import Impressions
from recsys.training.finetune.fit import fit_encoder
from recsys.training.finetune.loop import Progress, Trainer
from recsys.training.finetune.states import SCRATCH, scratch_folder


@pytest.fixture
def fit(behaviour, texts, tmp_path):
    def run(config, name="out", **changes):
        arguments = {
            "fit_until": int(behaviour.time.max()),
            "out_dir": tmp_path / name,
            "seed": 3,
            "budget_seconds": None,
        }
        return fit_encoder(behaviour, texts, config, **(arguments | changes))

    return run


def weights(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def test_a_fit_learns_what_its_users_do(fit, settings, texts, behaviour, tmp_path):
    seen = []
    manifest = fit(
        settings(head_steps=40, max_steps=20, epochs=20, patience=100),
        on_metrics=lambda values, step: seen.append((step, values)),
        vector_cache=tmp_path / "vectors",
    )
    learned = manifest["learned"]
    assert learned["best_ndcg"] > learned["start_ndcg"] + 0.03
    assert learned["steps"] == 60 == len(learned["losses"])
    assert np.mean(learned["losses"][-5:]) < learned["losses"][0]
    assert learned["activations_cached"]
    assert [s for s, v in seen if "encoder_loss" in v] == list(range(1, 61))
    assert manifest["fit_until"] == int(behaviour.time.max())
    vectors, counts = encode_items(tmp_path / "out", texts, tmp_path / "vectors")
    assert counts.encoded == 0  # the fit has put them there
    fresh, _ = encode_items(tmp_path / "out", texts, None)
    np.testing.assert_allclose((vectors * fresh).sum(1), 1, atol=1e-4)
    source = InterestSource.open(tmp_path / "out", vectors, manifest["fit_until"])
    kind, histories = np.arange(64) % 8, behaviour.histories()
    items, now = np.arange(64, dtype=np.int32), manifest["fit_until"] + 1
    gaps = []
    for user in range(120):
        score, chance = source.score(histories.of(user), items, now)[:, :2].T
        own = kind == user % 8
        gaps.append(score[own].mean() - score[~own].mean())
        assert ((chance > 0) & (chance < 1)).all()
    assert np.mean(np.array(gaps) > 0) > 0.95


@pytest.fixture
def last_is_best(monkeypatch):
    """Validations that rise with every step, so that the last weights are kept."""

    def rising(self, *, encode):
        examples = len(self.split.valid)
        self._last = [[float(self.progress.step)] * examples, [0.0] * examples]
        return {"ndcg": float(self.progress.step), "ndcg10": 0.0, "loss": 0.0}

    monkeypatch.setattr(Trainer, "validate", rising)


def test_only_the_top_layers_change(fit, settings, tiny_model, tmp_path, last_is_best):
    fit(settings())
    before, after = weights(tiny_model), weights(tmp_path / "out")
    changed = {name for name, value in after.items() if not np.array_equal(value, before[name])}
    assert changed
    assert all("encoder.layer.2." in name for name in changed)
    assert not (tmp_path / "out.new").exists()


@pytest.mark.parametrize("freeze", ["head", "full", "lora"])
def test_every_freeze_strategy_runs(fit, settings, tiny_model, tmp_path, freeze, last_is_best):
    manifest = fit(settings(freeze=freeze, max_steps=3, head_steps=2))
    before, after = weights(tiny_model), weights(tmp_path / "out")
    assert set(before) == set(after)
    changed = [name for name in after if not np.array_equal(after[name], before[name])]
    assert bool(changed) == (freeze != "head")
    assert all(math.isfinite(loss) for loss in manifest["learned"]["losses"])


def test_lora_moves_attention_only(fit, settings, tiny_model, tmp_path, last_is_best):
    fit(settings(freeze="lora", max_steps=6, head_steps=0, learning_rate=0.05))
    before, after = weights(tiny_model), weights(tmp_path / "out")
    changed = [name for name in after if not np.array_equal(after[name], before[name])]
    assert changed
    assert all(".self." in name for name in changed)


def test_binary_loss_runs(fit, settings):
    losses = fit(settings(loss="bce"))["learned"]["losses"]
    assert losses[-1] < losses[0]


def test_two_fits_are_the_same(fit, settings):
    """Whatever was drawn before them."""
    torch.manual_seed(11)
    first = fit(settings(dropout=0.2), "a")
    torch.manual_seed(12)
    second = fit(settings(dropout=0.2), "b")
    assert first["learned"]["losses"] == second["learned"]["losses"]
    assert first["version"] == second["version"]


@pytest.mark.parametrize("killed_at", [4, 10])
def test_a_killed_fit_resumes_to_the_same_curve(fit, settings, tmp_path, monkeypatch, killed_at):
    config = settings(dropout=0.2)
    whole = fit(config, "whole")
    step, state = Trainer.step, tmp_path / "state"

    def dying(self, number, done, *, encode):
        if number == killed_at:
            raise KeyboardInterrupt
        return step(self, number, done, encode=encode)

    monkeypatch.setattr(Trainer, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        fit(config, "resumed", checkpoint_dir=state)
    assert not (tmp_path / "resumed").exists()
    again = []
    monkeypatch.setattr(
        Trainer,
        "step",
        lambda self, number, done, *, encode: (
            again.append(number) or step(self, number, done, encode=encode)
        ),
    )
    resumed = fit(config, "resumed", checkpoint_dir=state)
    assert min(again) > 0  # it did not start afresh
    np.testing.assert_allclose(resumed["learned"]["losses"], whole["learned"]["losses"], rtol=1e-5)
    assert not (state / "last").exists()


def test_a_checkpoint_of_another_fit_is_refused(fit, settings, tmp_path, monkeypatch):
    monkeypatch.setattr("recsys.training.finetune.checkpoint.Checkpoints.clear", lambda self: None)
    fit(settings(max_steps=1), checkpoint_dir=tmp_path / "state")
    with pytest.raises(RecsysError, match="belongs to another fit"):
        fit(settings(max_steps=2), checkpoint_dir=tmp_path / "state")


def test_a_truncated_checkpoint_is_refused(fit, settings, tmp_path, monkeypatch):
    monkeypatch.setattr("recsys.training.finetune.checkpoint.Checkpoints.clear", lambda self: None)
    fit(settings(max_steps=1), checkpoint_dir=tmp_path / "state")
    file = tmp_path / "state" / "last" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(RecsysError, match=r"state\.safetensors"):
        fit(settings(max_steps=1), checkpoint_dir=tmp_path / "state")


def test_a_lost_loss_keeps_the_last_good_weights(fit, settings, monkeypatch, tmp_path):
    gradients = Trainer._gradients

    def lost(self, plan):
        loss = gradients(self, plan)
        return math.nan if self.progress.step >= 9 else loss

    monkeypatch.setattr(Trainer, "_gradients", lost)
    learned = fit(settings())["learned"]
    assert "the loss became nan at step 9" in learned["stopped"]
    assert "lower learning_rate" in learned["stopped"]
    assert learned["steps"] == 9
    assert all(np.isfinite(value).all() for value in weights(tmp_path / "out").values())


def test_a_gradient_that_is_no_number_never_reaches_the_weights(
    fit, settings, monkeypatch, tmp_path
):
    gradients = Trainer._gradients

    def lost(self, plan):
        loss = gradients(self, plan)
        if self.progress.step >= 9:
            self.learner.encoder.head.weight.grad.fill_(math.nan)
        return loss

    monkeypatch.setattr(Trainer, "_gradients", lost)
    learned = fit(settings())["learned"]
    assert "the loss became nan at step 9" in learned["stopped"]
    assert all(np.isfinite(value).all() for value in weights(tmp_path / "out").values())


def test_vectors_that_are_no_numbers_are_the_worst(fit, settings, monkeypatch):
    finish = ItemEncoder.finish
    monkeypatch.setattr(ItemEncoder, "finish", lambda self, pooled: finish(self, pooled) * math.nan)
    learned = fit(settings(max_steps=1, head_steps=1))["learned"]
    assert learned["best_ndcg"] == 0.0


def test_out_of_memory_halves_the_chunk_and_keeps_the_loss(fit, settings, monkeypatch, caplog):
    config = settings(dropout=0.0)
    whole = fit(config, "whole")["learned"]["losses"]
    from recsys.training.finetune.states import ItemStates

    pooled = ItemStates.pooled

    def short(self, items):
        if torch.is_grad_enabled() and len(items) * self.lengths[items].max() > 100:
            raise torch.OutOfMemoryError("simulated")
        return pooled(self, items)

    monkeypatch.setattr(ItemStates, "pooled", short)
    small = fit(config, "small")["learned"]["losses"]
    assert "out of memory" in caplog.text
    np.testing.assert_allclose(small, whole, rtol=2e-3)


def test_an_item_is_encoded_once_a_step_however_many_histories_it_is_in(fit, settings, monkeypatch):
    from recsys.training.finetune.states import ItemStates

    steps, pooled, step = [], ItemStates.pooled, Trainer.step

    def counted(self, items):
        if torch.is_grad_enabled():
            steps[-1].extend(items.tolist())
        return pooled(self, items)

    def begin(self, number, done, *, encode):
        steps.append([])
        return step(self, number, done, encode=encode)

    monkeypatch.setattr(ItemStates, "pooled", counted)
    monkeypatch.setattr(Trainer, "step", begin)
    monkeypatch.setattr("recsys.training.finetune.states.CHUNK_TOKENS", 32)
    fit(settings(batch_size=256))
    tuned = [items for items in steps if items]
    assert tuned
    assert all(len(items) == len(set(items)) <= 64 < 256 for items in tuned)


def test_chunks_that_are_computed_twice_give_the_same_gradients(fit, settings, monkeypatch):
    config = settings(dropout=0.0)
    whole = fit(config, "whole")["learned"]["losses"]
    monkeypatch.setattr("recsys.training.finetune.loop.KEPT_TOKENS", 0)
    monkeypatch.setattr("recsys.training.finetune.states.CHUNK_TOKENS", 64)
    again = fit(config, "again")["learned"]["losses"]
    np.testing.assert_allclose(again, whole, rtol=1e-4)


def test_a_budget_is_kept(fit, settings):
    endless = settings(head_steps=100_000, max_steps=100_000, epochs=100_000, patience=100_000)
    learned = fit(endless, budget_seconds=12.0)["learned"]
    assert learned["stopped"] == "the time budget is used"
    assert 0 < learned["steps"] < 50_000


def test_a_short_budget_cuts_the_texts(fit, settings, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(
        "recsys.training.finetune.states.ItemStates.tokens_per_second", lambda self, items: 4.0
    )
    caplog.set_level("INFO")
    monkeypatch.setattr("recsys.training.finetune.states.SHORTEST_CUT", 3)
    manifest = fit(settings(max_steps=1), budget_seconds=60.0, vector_cache=tmp_path / "vectors")
    assert "cut to 3 tokens while tuning" in caplog.text
    assert manifest["truncated"] == 0  # in use, texts are whole
    assert not (tmp_path / "vectors").exists()  # vectors of cut texts are of no use


def test_too_many_texts_for_the_budget_are_those_of_fewer_users(fit, settings, monkeypatch):
    monkeypatch.setattr(
        "recsys.training.finetune.states.ItemStates.tokens_per_second", lambda self, items: 4.0
    )
    monkeypatch.setattr("recsys.training.finetune.fit.LEAST_TEXTS", 60)
    few = fit(settings(max_steps=1), "few", budget_seconds=60.0)["learned"]
    assert 0 < few["users_learned_from"] < few["users"]
    whole = fit(settings(max_steps=1), "whole")["learned"]
    assert whole["users_learned_from"] == whole["users"] == few["users"]
    assert few["examples"] < whole["examples"]


def test_the_same_fit_gives_the_same_numbers(fit, settings, tmp_path):
    whole = settings(dropout=0.1, max_steps=3)
    names = ("one", "two")
    losses = [fit(whole, name)["learned"]["losses"] for name in names]
    assert losses[0] == losses[1]
    for file in ("model.safetensors", "tower.safetensors"):
        one, two = ((tmp_path / name / file).read_bytes() for name in names)
        assert one == two
    assert not torch.are_deterministic_algorithms_enabled()


def test_patience_ends_a_fit(fit, settings):
    learned = fit(settings(head_learning_rate=1e-9, learning_rate=1e-9, head_steps=60, patience=2))
    assert "no better validation" in learned["learned"]["stopped"]


@pytest.mark.parametrize("freeze", ["last_n", "full"])
def test_a_warm_start_goes_on_from_the_last_encoder(fit, settings, tmp_path, freeze):
    first = fit(settings(head_steps=40, freeze=freeze), "first")["learned"]
    assert first["best_ndcg"] > first["start_ndcg"]
    assert [row["name"] for row in first["compared"]] == ["no tuning", "cold start, tuned"]
    changed = settings(head_steps=3, max_steps=1, freeze=freeze)
    second = fit(changed, "second", previous=tmp_path / "first")["learned"]
    rows = {row["name"]: row["ndcg"] for row in second["compared"]}
    assert rows["last encoder, not tuned again"] == pytest.approx(first["best_ndcg"], abs=1e-4)
    # The two fits encode the same texts in other steps: a near tie may be rounded the other way.
    assert rows["no tuning"] == pytest.approx(first["start_ndcg"], abs=5e-4)
    # Between two that nDCG cannot tell apart the likelihood decides.
    assert second["best_ndcg"] in rows.values()
    assert second["best_ndcg"] == pytest.approx(max(rows.values()), abs=5e-3)
    assert second["start"] == "warm"
    # Whichever start wins, what is written is what was validated.
    again = fit(settings(head_steps=1, max_steps=1), "third", previous=tmp_path / "second")
    rows = {row["name"]: row["ndcg"] for row in again["learned"]["compared"]}
    assert rows["last encoder, not tuned again"] == pytest.approx(second["best_ndcg"], abs=1e-3)


def test_a_warm_start_gone_astray_loses_to_a_cold_one(fit, settings, tmp_path):
    fit(settings(), "first")
    from safetensors.numpy import load_file, save_file

    broken = tmp_path / "first" / "2_Dense" / "model.safetensors"
    noise = np.random.default_rng(0).normal(size=load_file(broken)["linear.weight"].shape)
    noise[1:] = 0  # every text gets nearly the same vector
    save_file({"linear.weight": noise.astype(np.float32)}, broken)
    learned = fit(settings(), "second", previous=tmp_path / "first")["learned"]
    assert learned["start"] == "cold"
    assert learned["best_ndcg"] == max(row["ndcg"] for row in learned["compared"])


def test_the_manifest_says_what_tuning_the_layers_gave(fit, settings, tiny_model, tmp_path):
    layers = fit(settings())["learned"]["layers"]
    before, after = weights(tiny_model), weights(tmp_path / "out")
    changed = any(not np.array_equal(after[name], before[name]) for name in after)
    assert layers["steps"] > 0
    assert layers["tuned"] == changed


def progress_with_layers(last, kept):
    """A trainer whose layers joined at step 10 and were validated at step 20."""
    trainer = Trainer.__new__(Trainer)
    trainer.progress = Progress(step=20, best_step=8, layers_from=10, kept=kept)
    trainer._last = last
    return trainer


@pytest.mark.parametrize(
    ("gains", "losses", "pay"),
    [
        ([0.5, 0.1, 0.3, 0.3], [1.0, 1.0, 1.0, 1.0], True),  # no difference in nDCG, likelier
        ([0.5, 0.1, 0.3, 0.3], [3.0, 3.0, 3.0, 3.0], False),  # no difference in nDCG, less likely
        ([0.4, 0.0, 0.2, 0.2], [1.0, 1.0, 1.0, 1.0], False),  # lower for every example
        ([0.9, 0.0, 0.1, 0.1], [1.0, 1.0, 1.0, 1.0], True),  # lower for most, by less than chance
    ],
)
def test_likelihood_decides_about_layers_where_ndcg_cannot_tell(gains, losses, pay):
    kept = [[0.5, 0.1, 0.3, 0.3], [2.0, 2.0, 2.0, 2.0]]
    assert progress_with_layers([gains, losses], kept)._layers_pay() == pay


def test_only_layers_just_tuned_are_kept_at_no_higher_ndcg():
    trainer = progress_with_layers([[0.5], [1.0]], [[0.5], [2.0]])
    assert trainer._layers_pay()
    trainer.progress.best_step = 15  # layers are kept already: nDCG decides among them
    assert not trainer._layers_pay()
    trainer.progress.layers_from = -1  # the head's phase
    assert not trainer._layers_pay()


def test_validation_loss_is_that_of_all_its_items(fit, settings):
    """Uniform scores over n items have the loss log n; nothing is corrected where nothing is drawn."""
    learned = fit(settings())["learned"]
    assert all(0 < check["loss"] < np.log(64) + 1 for check in learned["validations"])


@pytest.mark.parametrize("freeze", ["last_n", "head"])
def test_own_negatives_are_learned_from(fit, settings, behaviour, texts, freeze):
    """Lists of the user's own kind with one item of another: a shown list tells them apart."""
    rng = np.random.default_rng(0)
    items = np.stack([behaviour.item, rng.integers(0, 64, len(behaviour))], 1)
    shown = Impressions.of(
        np.arange(0, 2 * len(behaviour) + 1, 2),
        items.ravel().astype(np.int32),
        behaviour.time - 5,
        user=behaviour.user,
    )
    learned = fit(settings(freeze=freeze), shown=shown)["learned"]
    assert learned["examples_with_shown_negatives"] > 0.8 * learned["examples"]
    plain = fit(settings(freeze=freeze), "plain")["learned"]
    assert plain["examples_with_shown_negatives"] == 0
    assert learned["losses"][0] > plain["losses"][0]  # one more choice to make
    assert all(math.isfinite(loss) for loss in learned["losses"])


def test_items_that_only_open_histories_are_encoded_where_they_belong(
    settings, behaviour, texts, tmp_path, monkeypatch
):
    """Nobody's target, last in the vocabulary and seldom in a step's histories: each has its own row
    of the step's vectors all the same."""
    item = behaviour.item.copy()
    item[:120] = 64 + behaviour.user[:120] % 60
    opened = replace(behaviour, item=item, n_items=124)
    steps = []
    gradients = Trainer._gradients

    def watched(self, plan):
        steps.append(plan)
        return gradients(self, plan)

    monkeypatch.setattr(Trainer, "_gradients", watched)
    learned = fit_encoder(
        opened,
        [*texts, *(f"red {text}" for text in texts[:60])],
        settings(batch_size=16),
        fit_until=int(opened.time.max()),
        out_dir=tmp_path / "out",
        seed=3,
        budget_seconds=None,
    )["learned"]
    assert all(math.isfinite(loss) for loss in learned["losses"])
    assert any((plan.encoded >= 64).any() for plan in steps)
    assert all(np.isin(plan.encoded, plan.items).all() for plan in steps)


def test_items_that_recall_ranks_high_become_negatives(fit, settings, monkeypatch):
    found = []
    mine = Trainer._mine

    def kept(self, which, rng):
        items = mine(self, which, rng)
        found.append((self.sampler.train, which, items))
        return items

    monkeypatch.setattr(Trainer, "_mine", kept)
    fit(settings(hard_negatives=3))
    assert found
    for train, which, items in found:
        events, offsets = train.histories.events, train.histories.offsets
        user = np.searchsorted(offsets, train.row[which], "right") - 1
        assert (items >= 0).any()
        for place, owner in enumerate(user):
            acted = set(events.item[offsets[owner] : offsets[owner + 1]].tolist())
            assert not acted & set(items[place].tolist())


def test_activations_of_killed_fits_are_removed(tmp_path):
    gone = tmp_path / f"{SCRATCH}{2**22 + 1}"  # beyond the kernel's largest process id
    alive = tmp_path / f"{SCRATCH}{os.getpid()}"
    for folder in (gone, alive):
        folder.mkdir()
    assert scratch_folder(tmp_path) == alive
    assert alive.exists()
    assert not gone.exists()


def test_a_disk_without_room_keeps_no_activations(fit, settings, monkeypatch):
    whole = fit(settings(dropout=0.0), "whole")["learned"]
    monkeypatch.setattr("recsys.training.finetune.states.MEMORY_BYTES", 0)
    monkeypatch.setattr("recsys.training.finetune.states.free_bytes", lambda path: 1000)
    learned = fit(settings(dropout=0.0), "tight")["learned"]
    assert whole["activations_cached"]
    assert not learned["activations_cached"]
    np.testing.assert_allclose(learned["losses"], whole["losses"], rtol=5e-3)


def test_without_fine_tuning_the_base_model_serves(fit, settings, tiny_model, tmp_path):
    manifest = fit(settings(fine_tune=False))
    before, after = weights(tiny_model), weights(tmp_path / "out")
    assert all(np.array_equal(after[name], before[name]) for name in after)
    tower = Tower.load(tmp_path / "out")
    assert np.array_equal(tower.project, np.eye(16, dtype=np.float32))
    assert manifest["learned"] == {"fine_tuned": False}


def test_wrong_calls_get_one_message(fit, settings, behaviour, texts, tmp_path, tiny_model):
    with pytest.raises(UsageError, match="that many layers"):
        fit(settings(last_n=7))
    with pytest.raises(DataRefused, match="texts and items do not match"):
        fit_encoder(
            behaviour,
            texts[:-1],
            settings(),
            fit_until=int(behaviour.time.max()),
            out_dir=tmp_path / "out",
            seed=0,
            budget_seconds=None,
        )
    with pytest.raises(DataRefused, match="after the end"):
        fit(settings(), fit_until=5)
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    content = json.loads((broken / "config.json").read_text()) | {"model_type": "unheard-of"}
    (broken / "config.json").write_text(json.dumps(content))
    with pytest.raises(RecsysError, match="encoder cannot be loaded"):
        fit(settings(model=str(broken)))
    assert not (tmp_path / "out").exists()


def test_foreign_text_is_counted(fit, settings, behaviour, tmp_path, caplog):
    foreign = ["世界 人民 和平"] * 64
    fit_encoder(
        behaviour,
        foreign,
        settings(max_steps=1, head_steps=1),
        fit_until=int(behaviour.time.max()),
        out_dir=tmp_path / "foreign",
        seed=0,
        budget_seconds=None,
    )
    assert "64 of 64 texts are in a language" in caplog.text


@pytest.fixture
def no_better(monkeypatch):
    """Validations that no weights change, however far they go."""

    def flat(self, *, encode):
        examples = len(self.split.valid)
        self._last = [[0.3] * examples, [float(-len(self.progress.losses))] * examples]
        return {"ndcg": 0.3, "ndcg10": 0.1, "loss": 0.0}

    monkeypatch.setattr(Trainer, "validate", flat)


@pytest.mark.parametrize("freeze", ["last_n", "lora"])
def test_where_tuning_does_not_help_the_frozen_text_serves(
    fit, settings, texts, tmp_path, no_better, freeze
):
    learned = fit(settings(freeze=freeze), "tuned", vector_cache=tmp_path / "v")["learned"]
    assert learned["serves"] == "frozen"
    assert learned["verdict"].endswith("no more than chance: the frozen text serves")
    assert not learned["layers"]["tuned"]
    fit(settings(fine_tune=False), "frozen")
    tuned, frozen = (encode_items(tmp_path / n, texts, None)[0] for n in ("tuned", "frozen"))
    np.testing.assert_allclose(tuned, frozen, atol=1e-5)
    # What the fit has put aside is the frozen text too, through activations in half precision.
    kept, _ = encode_items(tmp_path / "tuned", texts, tmp_path / "v")
    np.testing.assert_allclose(kept, frozen, atol=1e-3)
    one, two = (Tower.load(tmp_path / n) for n in ("tuned", "frozen"))
    for name in ("project", "position_bias", "age_bias", "kind_bias"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_a_killed_fit_that_does_not_help_still_gives_the_frozen_text(
    fit, settings, texts, tmp_path, no_better, monkeypatch
):
    step = Trainer.step

    def dying(self, number, done, *, encode):
        if number == 8:
            raise KeyboardInterrupt
        return step(self, number, done, encode=encode)

    monkeypatch.setattr(Trainer, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        fit(settings(), checkpoint_dir=tmp_path / "checkpoints")
    monkeypatch.setattr(Trainer, "step", step)
    fit(settings(), checkpoint_dir=tmp_path / "checkpoints")
    fit(settings(fine_tune=False), "frozen")
    tuned, frozen = (encode_items(tmp_path / n, texts, None)[0] for n in ("out", "frozen"))
    np.testing.assert_allclose(tuned, frozen, atol=1e-5)
