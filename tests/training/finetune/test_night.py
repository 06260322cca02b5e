"""The encoder's nights on the small world: when it is due, what it starts from, how it ages."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import EncoderConfig, load_config
from recsys.data_schemas.errors import UsageError
from recsys.encoder.manifest import EncoderManifest
from recsys.encoder.tower import Tower
from recsys.features.interactions import DAY
from recsys.operations.cli.main import main
from recsys.storage.progress import Reporter
from recsys.storage.registry import Registry
from recsys.storage.stages import StageRunner
from recsys.storage.workspace import Workspace
from recsys.training.finetune.fit_inputs import FittedEncoder
from recsys.training.night import (
    encoder_age,
    read_data,
    refresh_encoder,
    report_parts,
    tune_encoder,
)
from recsys.training.night.night_context import Night

CONFIG = """
data: {{items: items.parquet, events: events.parquet, impressions: impressions.parquet}}
budget_minutes: 60
windows: {{cuts: 1}}
encoder:
  {{model: {model}, last_n: 1, batch_size: 64, step_tokens: 128, negatives: 32, head_steps: 6,
    max_steps: 6, max_tokens: 16, history_length: 5, learning_rate: 0.002}}
"""
START = np.datetime64("2026-01-01", "us")


class World:
    """A workspace whose tables grow."""

    def __init__(self, folder, behaviour, texts, model):
        self.folder, self.texts = folder, list(texts)
        self.said = []
        names = [f"u{u}" for u in behaviour.user]
        self.rows = list(zip(names, behaviour.item.tolist(), behaviour.time.tolist(), strict=True))
        self.kinds = ["purchase"] * len(self.rows)
        self.config_file = folder / "recsys.yaml"
        self.config_file.write_text(CONFIG.format(model=model), encoding="utf-8")

    def day(self, number, kind="purchase"):
        """Every user acts once more; the last event of the day is on a new item."""
        self.texts.append(f"alpha robot number {number}")
        for u in range(120):
            item = (u * 7 + 8 * number) % 64 if u < 119 else len(self.texts) - 1
            self.rows.append((f"u{u}", item, number * DAY + u * 1000))
            self.kinds.append(kind)

    def night(self):
        users, items, times = zip(*self.rows, strict=True)
        stamps = pa.array(START + np.array(times, "timedelta64[us]"), pa.timestamp("us", "UTC"))
        ids = [f"i{i:03d}" for i in range(len(self.texts))]
        pq.write_table(
            pa.table({"item_id": ids, "title": self.texts}), self.folder / "items.parquet"
        )
        events = {
            "user_id": list(users),
            "item_id": [ids[i] for i in items],
            "event_type": self.kinds,
            "timestamp": stamps,
        }
        pq.write_table(pa.table(events), self.folder / "events.parquet")
        shown = [[ids[i], ids[(i + 1) % 60], ids[(i + 2) % 60]] for i in items]
        lists = {
            "impression_id": [f"s{i}" for i in range(len(items))],
            "user_id": list(users),
            "timestamp": pa.array(
                START + np.array(times, "timedelta64[us]") - 60_000_000, pa.timestamp("us", "UTC")
            ),
            "item_ids": shown,
        }
        pq.write_table(pa.table(lists), self.folder / "impressions.parquet")
        config = load_config(self.config_file)
        workspace = Workspace(config.workspace_path)
        reporter = Reporter(quiet=True)
        self.said = []
        reporter.say = self.said.append
        reporter.warn = self.said.append
        night = Night(config, workspace, StageRunner(workspace, reporter), reporter)
        night.tables = read_data.validate(night)
        night.data = read_data.split(night, read_data.load(night.tables.product, night.config))
        return night

    def refresh(self):
        return refresh_encoder.refresh(self.night())

    def heard(self, words):
        return [line for line in self.said if words in line]


@pytest.fixture
def world(tmp_path, behaviour, texts, tiny_model):
    return World(tmp_path, behaviour, texts, tiny_model)


@pytest.fixture
def champion(monkeypatch):
    """Makes an encoder folder the champion's."""

    def name(folder):
        monkeypatch.setattr(Registry, "champion", lambda self: 1)
        monkeypatch.setattr(Registry, "local_path", lambda self, version: folder.parent)

    return name


pytestmark = pytest.mark.filterwarnings("default")
"""MLflow warns of its own parts here; our warnings are errors elsewhere."""


def test_a_second_night_encodes_what_is_new_and_follows_with_the_tower(world):
    first = world.refresh()
    assert world.heard("due, there is none yet")
    assert world.heard("no tuning: validation nDCG")
    assert world.heard("vectors: ")
    learned = first.stage.facts["manifest"]["learned"]
    assert learned["start"] == "cold"
    assert learned["examples_with_shown_negatives"] > 0.5 * learned["examples"]
    assert first.folder.parent == first.stage.folder
    world.day(7, kind="click")
    world.day(8, kind="click")  # the first cut lies on a bucket: two days move it
    second = world.refresh()
    assert second.stage.key == first.stage.key
    assert world.heard("not due, 2.0 of 7 days")
    assert world.heard("2 texts encoded, 64 from the cache")
    assert world.heard("user tower: fitted again")
    facts = second.vectors_stage.facts["tower"]
    assert second.fit_until == facts["until"]
    if facts["kept"]:
        assert facts["ndcg_after"] > facts["ndcg_before"]
    # Its event types are numbered as tonight's are, and the first night's files are as they were.
    manifest = EncoderManifest.read(second.folder)
    assert manifest.kinds == ["purchase", "click"]
    assert manifest.fit_until == second.fit_until
    assert len(Tower.load(second.folder).kind_bias) == 3
    assert len(Tower.load(first.folder).kind_bias) == 2
    assert EncoderManifest.read(first.folder).kinds == ["purchase"]
    world.refresh()
    assert world.heard("vectors: unchanged")


def test_a_due_encoder_starts_from_the_champions_weights(world, champion):
    first = world.refresh()
    champion(first.folder)
    for number in range(7, 14):
        world.day(number)
    second = world.refresh()
    assert second.stage.key != first.stage.key
    assert world.heard("due, 7.0 days of data")
    assert world.heard("starts from the champion's weights")
    names = [row["name"] for row in second.stage.facts["manifest"]["learned"]["compared"]]
    assert names == [
        "last encoder, not tuned again",
        "warm start, tuned",
        "no tuning",
        "cold start, tuned",
    ]
    assert all(r["age_days"] >= 0 for r in encoder_age.remembered(world.night()))


def test_a_champion_that_has_seen_too_much_or_is_another_model_is_no_start(world, champion):
    first = world.refresh()
    champion(first.folder)
    night = world.night()
    until = EncoderManifest.read(first.folder).fit_until
    assert tune_encoder._champions(night, until) == first.folder
    assert tune_encoder._champions(night, until - 1) is None
    file = first.folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model": "another"}))
    assert tune_encoder._champions(night, until) is None
    file.write_text("{")
    assert tune_encoder._champions(night, until) is None
    assert world.heard("the champion's cannot be read")


def test_an_encoder_fitted_apart_is_the_one_at_hand(world, tmp_path, capsys):
    world.night()
    config, inputs, out = str(world.config_file), str(tmp_path / "inputs"), tmp_path / "out"
    assert main(["train", "encoder", "-c", config, "--inputs-only", inputs]) == 0
    assert f"torchrun --nproc-per-node=N -m recsys fit-encoder --inputs {inputs}" in (
        capsys.readouterr().out
    )
    assert main(["fit-encoder", "--inputs", inputs, "--out", str(out)]) == 0
    assert main(["train", "encoder", "-c", config, "--fitted", str(out)]) == 0
    world.day(7)
    encoded = world.refresh()
    assert world.heard("not due")
    fitted = FittedEncoder.read(out)
    assert EncoderManifest.read(encoded.stage.product).version == fitted.manifest["version"]
    assert fitted.manifest["learned"]["fine_tuned"]
    assert fitted.manifest["learned"]["examples_with_shown_negatives"] > 0
    settings = world.config_file.read_text()
    world.config_file.write_text(settings.replace("head_steps: 6", "head_steps: 5"))
    assert main(["train", "encoder", "-c", config, "--fitted", str(out)]) == 2
    assert "head_steps 6 (now 5)" in capsys.readouterr().err


def test_a_drop_of_quality_makes_it_due(world, monkeypatch):
    first = world.refresh()
    world.day(7)
    monkeypatch.setattr(encoder_age, "degraded", lambda first, now: "its nDCG fell")
    second = world.refresh()
    assert second.stage.key != first.stage.key
    assert world.heard("due after all, its nDCG fell")


def test_what_a_killed_fit_left_does_not_stop_the_next_night(world, monkeypatch):
    from recsys.training.finetune.loop import Trainer

    step = Trainer.step

    def dying(self, number, done, *, encode):
        if number == 1:
            raise KeyboardInterrupt
        return step(self, number, done, encode=encode)

    monkeypatch.setattr(Trainer, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        world.refresh()
    monkeypatch.setattr(Trainer, "step", step)
    night = world.night()
    left = list(night.workspace.encoder_checkpoints.iterdir())
    assert sorted(f.name for f in left[0].iterdir()) == ["last", "tokens-allowed.json"]
    world.day(7)  # new data: another fit
    fitted = world.refresh()
    assert fitted.folder.exists()
    assert not left[0].exists()


def test_the_report_says_what_tuning_gave_and_how_it_ages(world):
    world.refresh()
    world.day(7)
    world.day(8)
    night = world.night()
    night.encoded = refresh_encoder.refresh(night)
    facts = report_parts.encoder_facts(night)
    assert facts["texts longer than it reads"] == "0 of 64"
    assert facts["vectors tonight"].startswith("2 texts encoded, 64 from")
    assert " in " in facts["validation nDCG, cold start, tuned"]
    assert facts["does tuning help"].endswith(("tuned text serves", "frozen text serves"))
    assert "steps of the language model's layers" in facts
    assert "user tower, fitted again tonight" in facts
    assert len([name for name in facts if name.startswith("nDCG on new behaviour")]) >= 1


def test_a_night_says_that_the_frozen_text_serves_and_starts_afresh_next_time(
    world, champion, monkeypatch
):
    from recsys.training.finetune import fit
    from recsys.training.finetune.verdict import HeldOutGain

    monkeypatch.setattr(fit, "judge", lambda *_: HeldOutGain(0.3, 0.301, 0.01, 90))
    night = world.night()
    encoded = refresh_encoder.refresh(night)
    assert EncoderManifest.read(encoded.folder).learned["serves"] == "frozen"
    assert world.heard("no more than chance: the frozen text serves")
    champion(encoded.folder)
    assert tune_encoder._champions(world.night(), night.data.windows.encoder_until) is None


def test_the_report_names_the_text_columns_that_the_ranker_uses():
    families = {"text.score": "text", "text.short": "text", "bm25.score": "text", "als.score": "x"}
    gain = {"text.score": 2.0, "bm25.score": 6.0, "als.score": 12.0}
    effect = {"text.score": 0.3, "text.short": 0.0, "bm25.score": 0.1, "als.score": 0.6}
    assert report_parts.text_columns(families, gain, effect) == (
        "bm25.score: 30.0% of the gain, 10.0% of the effect; "
        "text.score: 10.0% of the gain, 30.0% of the effect; 1 more do nothing"
    )
    assert report_parts.text_columns(families, {}, {"als.score": 1.0}) == "nothing"


def test_foreign_text_is_in_the_reports_warnings(world):
    world.texts = ["世界 人民 和平"] * 40 + world.texts[40:]
    night = world.night()
    refresh_encoder.refresh(night)
    assert [line for line in night.reporter.warnings if "40 of 64 texts are in a language" in line]


def test_too_little_behaviour_leaves_the_encoder_as_it_came(world):
    world.rows, world.kinds = world.rows[:60], world.kinds[:60]
    encoded = world.refresh()
    assert world.heard("the encoder is used as it came")
    assert EncoderManifest.read(encoded.folder).learned == {"fine_tuned": False}


def test_without_tuning_the_night_goes_on(world):
    text = world.config_file.read_text().replace("last_n: 1,", "fine_tune: false,")
    world.config_file.write_text(text)
    world.refresh()
    world.day(7, kind="click")
    encoded = world.refresh()
    assert not world.heard("user tower")
    assert EncoderManifest.read(encoded.folder).kinds == ["purchase", "click"]


def test_curves_go_to_tensorboard_where_it_is_installed(tmp_path, monkeypatch):
    config = SimpleNamespace(encoder=EncoderConfig(tensorboard=True))
    night = SimpleNamespace(
        config=config,
        reporter=Reporter(quiet=True),
        workspace=SimpleNamespace(tensorboard=tmp_path),
    )
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(UsageError, match="TensorBoard is not installed"),
        tune_encoder._watched(night),
    ):
        pass
    seen = []
    board = SimpleNamespace(add_scalar=lambda *a: seen.append(a), close=lambda: seen.append("end"))
    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=lambda folder: board)
    )
    with tune_encoder._watched(night) as (on_metrics, progress):
        progress("encode", 3, 10)
        on_metrics({"encoder_loss": 0.5, "encoder_valid_ndcg": 0.2}, 7)
    assert seen == [("encoder_loss", 0.5, 7), ("encoder_valid_ndcg", 0.2, 7), "end"]


def windows(scheme, end, until=0):
    return SimpleNamespace(
        windows=SimpleNamespace(scheme=scheme, end=end, encoder_until=until), n_items=3
    )


@pytest.mark.parametrize(
    ("scheme", "days", "events", "due"),
    [
        ("time", 0, 1000, False),
        ("time", 6.9, 9000, False),
        ("time", 7, 1000, True),
        ("time", -1, 1000, True),
        ("ordinal", 0, 1099, False),
        ("ordinal", 0, 1100, True),
        ("ordinal", 6, 1000, False),
    ],
)
def test_cadence(tmp_path, scheme, days, events, due):
    config = SimpleNamespace(encoder=EncoderConfig())
    kept = {"encoder": {}, "until": 0, "end": 100 * DAY, "events": 1000}
    pointer = tmp_path / "encoder.json"
    pointer.write_text(json.dumps(kept))
    new = kept | {"events": events}
    night = SimpleNamespace(
        config=config,
        workspace=SimpleNamespace(encoder=pointer),
        data=windows(scheme, int((100 + days) * DAY)),
    )
    found, why = refresh_encoder._kept_identity(night, new)
    assert (found is None) == due, why
    assert ("not due" in why) != due


@pytest.mark.parametrize(
    ("now", "why"),
    [
        ({"ndcg": 0.19, "high": 0.21, "new_items": 0.1}, None),
        ({"ndcg": 0.15, "high": 0.17, "new_items": 0.1}, "fell from 0.2000 to 0.1500"),
        ({"ndcg": 0.20, "high": 0.21, "new_items": 0.4}, "40% of the events"),
        ({"ndcg": 0.01, "high": 0.02, "new_items": 0.9, "moments": 20}, None),
    ],
)
def test_what_counts_as_worn(now, why):
    first = {"moments": 500, "ndcg": 0.2, "high": 0.22, "new_items": 0.1}
    found = encoder_age.degraded(first, first | now)
    assert found is None if why is None else why in found
