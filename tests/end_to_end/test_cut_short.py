"""A night whose fits time has ended says so: on the first screen, in the terminal's last lines, and again in the
night after, which uses the same outputs."""

import json

import pytest

from recsys.data_schemas.config import load_config
from recsys.operations.cli import night_commands
from recsys.training.finetune.loop import Trainer
from recsys.training.night import usage
from recsys.training.nightly import run_night
from recsys.training.sources import sequence

CONFIG = """
data: {{items: data/items.parquet, events: data/events.parquet}}
clock: end_of_data
budget_minutes: 2
windows: {{cuts: 1}}
encoder: {{model: {model}, head_steps: 6, max_steps: 400, epochs: 100, patience: 1000, max_tokens: 16}}
sources:
  use: [popular, item_item, sequence]
  tune: false
  depth: 60
  candidates: 40
  dials: {{sequence: {{width: 16, negatives: 64, epochs: 400}}}}
ranker: {{trees: 20, seeds: 1}}
evaluation: {{bootstrap: 50, examples: 1}}
"""


@pytest.fixture(scope="module")
def slow_night(slice_of_movies, tmp_path_factory, tiny_model):
    """The folder and what a night came to in which the encoder's steps and the sequence model were slow, on a
    machine that others use."""
    folder, _ = slice_of_movies(
        tmp_path_factory.mktemp("slow"), 150, CONFIG.format(model=tiny_model)
    )
    config = load_config(folder / "recsys.yaml")
    step = Trainer.step

    def slow(trainer, number, done, *, encode):
        if encode:
            import time

            time.sleep(0.5)
        return step(trainer, number, done, encode=encode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", slow)
        patch.setattr(sequence, "MOST_SECONDS", 0.3)
        patch.setattr(usage, "others_share", lambda since, own: 0.61)
        result = run_night(config)
    return config, result


def test_what_time_ended_is_said(slow_night, capsys):
    _, result = slow_night
    said = "\n".join(result.cut_short)
    assert "the encoder's cold start did" in said
    assert "steps of the layers" in said
    assert "the sequence model stopped after" in said
    assert "other programs took 61% of this machine's processors" in result.cut_short[-1]
    night_commands.say(result)
    last = capsys.readouterr().out.splitlines()[-len(result.cut_short) - 1 :]
    assert last[:-1] == [f"cut short: {text}" for text in result.cut_short]
    assert last[-1].startswith("report: ")


def test_the_first_screen_says_it(slow_night):
    _, result = slow_night
    page = result.report.read_text(encoding="utf-8")
    assert page.index("Cut short for lack of time") < page.index('<h2 id="results">')
    assert page.index("the sequence model stopped after") < page.index('<h2 id="results">')
    context = json.loads((result.report.parent / "report.json").read_text())["context"]
    assert context["cut_short"] == list(result.cut_short)
    assert context["device"]["sequence"].startswith("CPU")


def test_a_night_that_uses_the_same_outputs_says_it_again(slow_night):
    config, result = slow_night
    again = run_night(config)
    assert again.unchanged
    assert set(result.cut_short[:-1]) <= set(again.cut_short)
