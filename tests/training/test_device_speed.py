"""What is measured of a device, on the one there is."""

import doctest

import pytest
import torch

from recsys.training import device_speed
from recsys.training.device_speed import (
    device_facts,
    flops_of,
    peak_of,
    seconds_of_step,
    speed_line,
)

CPU = torch.device("cpu")


def test_steps_are_counted_after_a_warm_up():
    done = []
    seconds = seconds_of_step(lambda: done.append(1), CPU, warm_up=3, timed=7)
    assert len(done) == 10
    assert seconds >= 0


def test_a_step_beyond_the_memory_has_no_time():
    def step():
        raise torch.OutOfMemoryError("no room")

    assert seconds_of_step(step, CPU) is None


def test_operations_of_a_product_forward_and_backward():
    x = torch.ones(8, 16)
    w = torch.ones(16, 4, requires_grad=True)
    assert flops_of(lambda: x @ w) == 2 * 8 * 16 * 4
    assert flops_of(lambda: (x @ w).sum().backward()) == 2 * (2 * 8 * 16 * 4)


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H200", 989e12), ("NVIDIA A10G", 125e12), ("NVIDIA L40", 181e12), ("TPU", None)],
)
def test_peaks_by_name(name, peak):
    assert peak_of(name) == peak


def test_an_unknown_device_is_said_to_be_so():
    assert "unknown" in speed_line("train", "TPU", 10.0, 1e12, 1.0)


def test_the_processor_has_a_name_and_memory():
    facts = device_facts(CPU)
    assert not facts.gpu
    assert facts.memory_bytes > 0
    assert facts.name in facts.text


def test_the_examples_hold():
    assert doctest.testmod(device_speed).failed == 0
