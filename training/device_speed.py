"""How fast a device is: seconds of a step after warm-up, its free memory, its peak, and what a step computes."""

# mypy: disable-error-code="no-any-return"
# PyTorch is checked as Any: its functions carry no types here.

import platform
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final

import psutil
import torch

from recsys.encoder.device import is_gpu
from recsys.training.device_plan import Device

WARM_UP, TIMED = 5, 20
"""Steps before the clock runs, and those that it counts."""
PEAKS: Final = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10": 125e12,
    "T4": 65e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Products in half precision with sums in float32, dense, a second, by a part of the device's name (the makers'
data sheets; the PCIe forms of the same chip have less)."""


def device_facts(device: torch.device) -> Device:
    """Name and free memory of a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return Device(torch.cuda.get_device_name(device), True, float(free))
    name = platform.processor() or platform.machine()
    kind = "Apple MPS" if device.type == "mps" else f"CPU ({name})"
    return Device(kind, is_gpu(device), float(psutil.virtual_memory().available))


def wait_for(device: torch.device) -> None:
    """Until all that was asked of a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds_of_step(
    step: Callable[[], Any], device: torch.device, *, warm_up: int = WARM_UP, timed: int = TIMED
) -> float | None:
    """Mean seconds of a step after warm-up; None where the device's memory does not hold it."""
    try:
        for _ in range(warm_up):
            step()
        wait_for(device)
        began = perf_counter()
        for _ in range(timed):
            step()
        wait_for(device)
    except torch.OutOfMemoryError:
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return None
    return (perf_counter() - began) / timed


def flops_of(step: Callable[[], Any]) -> float:
    """Floating-point operations of the products in a step, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def peak_of(name: str) -> float | None:
    """Floating-point operations a second that a device of this name is built for; None where unknown.

    >>> peak_of("NVIDIA A100-SXM4-80GB"), peak_of("NVIDIA L40S"), peak_of("CPU (x86_64)")
    (312000000000000.0, 362000000000000.0, None)
    """
    known = (part for part in sorted(PEAKS, key=len, reverse=True) if part in name)
    return next((PEAKS[part] for part in known), None)


def speed_line(what: str, name: str, tokens: float, flops: float, seconds: float) -> str:
    """Tokens a second, operations a second and their share of the peak, in one line.

    >>> speed_line("train", "NVIDIA A100", 1000.0, 31.2e12, 0.5)
    'train on NVIDIA A100: 2,000 tokens/s, 62.4 TFLOP/s, 20.0 % of the peak of 312 TFLOP/s'
    >>> speed_line("train", "CPU (x86_64)", 1000.0, 1e9, 0.5)
    'train on CPU (x86_64): 2,000 tokens/s, 0.002 TFLOP/s, share of the peak unknown (the device is not in the table)'
    """
    rate, peak = flops / seconds, peak_of(name)
    done = f"{what} on {name}: {tokens / seconds:,.0f} tokens/s, {rate / 1e12:.3g} TFLOP/s"
    if peak is None:
        return f"{done}, share of the peak unknown (the device is not in the table)"
    return f"{done}, {100 * rate / peak:.1f} % of the peak of {peak / 1e12:.0f} TFLOP/s"
