"""A fit apart from the workspace: its inputs as a folder, one process and two, and the way back."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.encoder.encode import encode_items
from recsys.encoder.tower import TOWER
from recsys.features.impressions import Impressions
from recsys.features.interactions import DAY
from recsys.operations.cli.main import main
from recsys.training.finetune.fit_inputs import EVENT_COLUMNS, FitInputs, FittedEncoder

pytestmark = pytest.mark.filterwarnings("default")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.fixture
def inputs(behaviour, texts, settings):
    lists = Impressions.of(
        np.array([0, 2, 5]),
        np.array([0, 8, 16, -1, 24], np.int32),
        np.array([1 * DAY, 2 * DAY]),
        user=np.array([0, 1], np.int32),
    )
    return FitInputs(
        behaviour,
        tuple(texts),
        settings(dropout=0.0, head_steps=3, max_steps=5, learning_rate=1e-4),
        fit_until=int(behaviour.time.max()),
        seed=3,
        budget_seconds=None,
        shown=lists,
        previous=None,
        identity={"until": 7, "encoder": {"model": "x"}},
    )


def run(*arguments, expected=0):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert (done.returncode == 0) == (expected == 0), done.stderr[-3000:]
    return done


def test_what_is_written_is_read(inputs, tmp_path):
    inputs.write(tmp_path / "inputs")
    inputs.write(tmp_path / "inputs")  # its own folder is written anew
    found = FitInputs.read(tmp_path / "inputs")
    for name in EVENT_COLUMNS:
        kept, given = getattr(found.interactions, name), getattr(inputs.interactions, name)
        assert kept.dtype == given.dtype
        np.testing.assert_array_equal(kept, given)
    assert list(found.interactions.user_ids) == list(inputs.interactions.user_ids)
    assert found.interactions.kinds == inputs.interactions.kinds
    assert found.interactions.n_items == inputs.interactions.n_items
    assert list(found.texts) == list(inputs.texts)
    assert (found.config, found.fit_until) == (inputs.config, inputs.fit_until)
    assert (found.seed, found.budget_seconds, found.identity) == (3, None, inputs.identity)
    assert found.shown is not None
    for name in ("offsets", "items", "time", "user", "position"):
        np.testing.assert_array_equal(getattr(found.shown, name), getattr(inputs.shown, name))


def test_two_processes_of_the_command_give_the_single_process_encoder(inputs, tmp_path):
    folder, one, two = tmp_path / "inputs", tmp_path / "one", tmp_path / "two"
    inputs.write(folder)
    command = ("-m", "recsys", "fit-encoder", "--inputs", folder)
    run(*command, "--out", one)
    run(*TORCHRUN, *command, "--out", two)
    single, both = FittedEncoder.read(one), FittedEncoder.read(two)
    assert both.identity == inputs.identity
    assert sorted(f.name for f in two.iterdir()) == ["checkpoints", "encoder", "fit.json"]
    losses = [fit.manifest["learned"]["losses"] for fit in (single, both)]
    assert len(losses[0]) == 8
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    for file in ("model.safetensors", "2_Dense/model.safetensors", TOWER):
        kept, found = load_file(single.folder / file), load_file(both.folder / file)
        assert kept.keys() == found.keys()
        for name in kept:
            np.testing.assert_allclose(found[name], kept[name], rtol=1e-4, atol=1e-4, err_msg=name)
    vectors = [encode_items(fit.folder, list(inputs.texts), None)[0] for fit in (single, both)]
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-4)
    assert not np.array_equal(vectors[0][0], vectors[0][1])


def test_the_folder_gives_what_the_fit_in_place_gives(inputs, tmp_path):
    inputs.write(tmp_path / "inputs")
    FitInputs.read(tmp_path / "inputs").fit_into(tmp_path / "out")
    manifest = inputs.fit(tmp_path / "here")
    assert FittedEncoder.read(tmp_path / "out").manifest["version"] == manifest["version"]


def test_a_killed_fit_of_two_processes_goes_on_to_the_same_encoder(inputs, tmp_path):
    folder, whole, killed = tmp_path / "inputs", tmp_path / "whole", tmp_path / "killed"
    inputs.write(folder)
    run(*TORCHRUN, "-m", "recsys", "fit-encoder", "--inputs", folder, "--out", whole)
    script = tmp_path / "dying.py"
    script.write_text(
        "import os, sys\n"
        "from recsys.training.finetune.loop import Trainer\n"
        "step = Trainer.step\n"
        "def dying(self, number, done, *, encode):\n"
        "    if encode and number >= 6: os._exit(1)\n"
        "    return step(self, number, done, encode=encode)\n"
        "Trainer.step = dying\n"
        "from recsys.operations.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ("fit-encoder", "--inputs", folder, "--out", killed)
    run(*TORCHRUN, script, *arguments, expected=1)
    assert not (killed / "fit.json").exists()
    left = list(killed.glob("checkpoints/*/last/progress.json"))
    assert left
    assert json.loads(left[0].read_text())["step"] > 0
    run(*TORCHRUN, "-m", "recsys", *arguments)
    one, other = (FittedEncoder.read(out).manifest["learned"] for out in (whole, killed))
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-4)
    assert other["steps"] == one["steps"]


def test_other_commands_under_torchrun_say_what_to_do(tmp_path):
    done = run(*TORCHRUN, "-m", "recsys", "train", "encoder", "-c", tmp_path / "none", expected=1)
    assert "`recsys train` runs in one process" in done.stderr
    assert "recsys train encoder --inputs-only DIR" in done.stderr
    assert "exitcode  : 2" in done.stderr


def test_wrong_folders_are_one_message_each(inputs, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert main(["fit-encoder", "--inputs", str(tmp_path / "none"), *out]) == 2
    assert "there are no inputs of a fit here" in capsys.readouterr().err
    inputs.write(tmp_path / "inputs")
    (tmp_path / "inputs" / "texts.parquet").write_bytes(b"PAR1")
    assert main(["fit-encoder", "--inputs", str(tmp_path / "inputs"), *out]) == 1
    assert "the inputs of the fit are damaged" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="holds something else"):
        inputs.write(other)
    with pytest.raises(UsageError, match="holds something else"):
        inputs.fit_into(other)
    with pytest.raises(UsageError, match="no fit of the encoder has ended here"):
        FittedEncoder.read(other)
    inputs.fit_into(tmp_path / "out")
    (tmp_path / "out" / "encoder" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(RecsysError, match="not the one that was fitted here"):
        FittedEncoder.read(tmp_path / "out")
    assert main(["train", "ranker", "--fitted", str(tmp_path), "-c", "none.yaml"]) == 2
