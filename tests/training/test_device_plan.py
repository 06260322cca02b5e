"""What a plan makes of measured speed, memory and minutes: fast and slow devices, small and large ones."""

from dataclasses import replace

import pytest

from recsys.training.device_plan import (
    LIMITS,
    SIZES,
    SMALLEST,
    Device,
    EncoderData,
    SequenceData,
    plan_encoder,
    plan_sequence,
    sequence_memory,
)

CPU = Device("CPU (x86_64)", False, 20e9)
GPU = Device("NVIDIA H200", True, 139e9)
SMALL_GPU = Device("T4", True, 4e9)
GAMES = SequenceData(items=16_859, positions=280_000, batch=1024, text=384, length=20)
MILLION = GAMES._replace(items=1_000_000)


def fast(size):
    """A step of a large GPU: launches cost more than what is computed."""
    return 0.004 + 1e-13 * size.width**2 * size.blocks * 1024 * 50


def slow(size):
    """A step that costs what it computes: the smallest size takes a tenth of a second."""
    return 0.1 * (size.width / SMALLEST.width) ** 2 * size.blocks


def sequence(device, seconds_of, *, seconds=700.0, data=GAMES):
    return plan_sequence(device, data, seconds, seconds_of, most_seconds=300.0)


def never(size):
    raise AssertionError("a step was timed")


def test_on_a_processor_nothing_is_timed_and_nothing_is_larger():
    plan = sequence(CPU, never)
    assert plan.settings() == []
    assert plan.size == SMALLEST
    assert "nothing is timed" in plan.note


def test_a_fast_and_large_device_gets_the_largest_size_and_members():
    plan = sequence(GPU, fast, seconds=3000.0)
    assert plan.size == SIZES[0]
    assert plan.size.negatives == 0
    first, second = plan.settings()
    assert first["width"] == 512.0
    assert first["epochs"] == plan.epochs > 20
    assert first["learning_rate"] == pytest.approx(0.0005)
    assert second == {"members": float(plan.members)}
    assert plan.members > 1
    assert "NVIDIA H200" in plan.note
    assert "a step takes" in plan.note


def test_a_slow_device_gets_what_it_has_time_for():
    plan = sequence(GPU, slow)
    assert plan.size == SMALLEST
    assert plan.members == 1
    steps = plan.epochs * GAMES.steps
    assert steps * slow(SMALLEST) <= 700.0 / 6 + slow(SMALLEST) * GAMES.steps
    assert sequence(GPU, slow, seconds=70_000.0).size.width > SMALLEST.width or (
        sequence(GPU, slow, seconds=70_000.0).epochs > plan.epochs
    )


def test_without_time_for_two_epochs_nothing_larger_is_tried():
    plan = sequence(GPU, slow, seconds=1.0)
    assert plan.settings() == []
    assert "no size" in plan.note


def test_a_softmax_over_all_items_needs_memory():
    whole = sequence(GPU, fast, data=MILLION)
    part = sequence(SMALL_GPU, fast, data=MILLION)
    assert whole.size.negatives == 0
    assert part.size.negatives > 0 or part.settings() == []
    for plan, device in ((whole, GPU), (part, SMALL_GPU)):
        assert sequence_memory(plan.size, MILLION) <= 0.7 * device.memory_bytes or (
            plan.settings() == []
        )


def test_a_size_that_runs_out_of_memory_is_passed_over():
    plan = sequence(GPU, lambda size: None if size.width > 128 else fast(size))
    assert plan.size.width == 128
    assert plan.size.negatives == 0


def test_more_minutes_never_buy_less():
    spent = []
    for seconds in (30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0):
        plan = sequence(GPU, slow, seconds=seconds)
        if plan.settings():
            spent.append(plan.epochs * plan.members * slow(plan.size))
    assert spent == sorted(spent)
    assert len(spent) >= 3


# ---------------------------------------------------------------------------- the encoder

GIVEN = {
    "max_tokens": 96,
    "freeze": "last_n",
    "batch_size": 1024,
    "negatives": 2048,
    "step_tokens": 8192,
}
SHORT = EncoderData([12] * 900 + [40] * 100, 20_000, 6, 384)
LONG = EncoderData([60] * 500 + [240] * 500, 20_000, 6, 384)


def encoder(device, data=SHORT, *, speed=300_000.0, seconds=450.0, free=frozenset(GIVEN)):
    return plan_encoder(device, data, GIVEN, free, seconds, lambda: speed)


def test_on_a_processor_the_encoder_is_as_set():
    plan = plan_encoder(CPU, SHORT, GIVEN, frozenset(GIVEN), 450.0, lambda: never(None))
    assert plan.settings == {}


def test_a_fast_device_tunes_all_layers_and_reads_longer_texts():
    plan = encoder(GPU, LONG)
    assert plan.settings["freeze"] == "full"
    assert plan.settings["max_tokens"] == 256
    assert plan.settings["step_tokens"] > 8192
    assert plan.settings["batch_size"] == 1024 * plan.settings["step_tokens"] // 8192
    assert plan.facts()["tokens_per_second"] == 300_000


def test_texts_that_are_read_whole_stay_as_they_are():
    assert "max_tokens" not in encoder(GPU, SHORT).settings


def test_a_slow_device_keeps_the_settings():
    assert encoder(GPU, LONG, speed=2_000.0).settings.keys() <= {
        "batch_size",
        "negatives",
        "step_tokens",
    }


def test_little_memory_keeps_the_batch():
    tight = Device("small", True, 1e9)
    assert "step_tokens" not in encoder(tight, LONG).settings


def test_few_texts_keep_the_batch():
    few = replace_texts(LONG, 500)
    assert "step_tokens" not in encoder(GPU, few).settings


def replace_texts(data, texts):
    return data._replace(texts=texts)


def test_what_its_owner_has_set_stays():
    plan = encoder(GPU, LONG, free=frozenset({"batch_size"}))
    assert plan.settings.keys() <= {"batch_size"}


def test_limits_rise():
    assert list(LIMITS) == sorted(LIMITS)


def test_a_plan_is_a_value():
    plan = encoder(GPU, LONG)
    assert replace(plan, note="") != plan
