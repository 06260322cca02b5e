"""One choice of a device for a whole run."""

import pytest
import torch

from recsys.data_schemas.config import parse_config
from recsys.data_schemas.errors import UsageError
from recsys.encoder import device
from recsys.encoder.device import best_device, computes_in_half, is_gpu, on_device

DATA = {"data": {"items": "i", "events": "e"}}


@pytest.mark.parametrize(
    ("there", "expected"),
    [((), "cpu"), (("mps",), "mps"), (("cuda",), "cuda"), (("cuda", "mps"), "cuda")],
)
def test_the_first_that_there_is(monkeypatch, there, expected):
    monkeypatch.setattr(device, "_is_there", lambda kind: kind in there)
    assert best_device() == torch.device(expected)
    assert is_gpu(best_device()) == (expected != "cpu")


def test_a_choice_holds_while_it_lasts(monkeypatch):
    monkeypatch.setattr(device, "_is_there", lambda kind: True)
    with on_device("cpu"):
        assert best_device() == torch.device("cpu")
        with on_device("auto"):
            assert best_device() == torch.device("cuda")
        assert best_device() == torch.device("cpu")
    assert best_device() == torch.device("cuda")
    with pytest.raises(ZeroDivisionError), on_device("cpu"):
        _ = 1 / 0
    assert best_device() == torch.device("cuda")


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with on_device("cuda:1"):
        assert best_device() == torch.device("cuda", 1)
    with pytest.raises(UsageError) as refused, on_device("cuda:2"):
        pass
    assert "cuda:2" in str(refused.value)
    assert "cuda:0, cuda:1, cpu" in str(refused.value).replace("mps, ", "")


def test_a_processor_computes_in_float32():
    assert not computes_in_half(torch.device("cpu"))


@pytest.mark.parametrize("name", ["auto", "cpu", "mps", "cuda", "cuda:1"])
def test_the_setting_takes_devices(tmp_path, name):
    assert parse_config({**DATA, "device": name}, tmp_path).device == name


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda1", "cuda:x"])
def test_the_setting_takes_nothing_else(tmp_path, name):
    with pytest.raises(UsageError, match="device"):
        parse_config({**DATA, "device": name}, tmp_path)
