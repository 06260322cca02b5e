"""Where models are trained and run with PyTorch: one choice for a whole run.

A night says it once (`on_device`), and everything that makes a tensor asks here. Without a choice it is
CUDA, Apple's MPS or the CPU, whichever is there first. PyTorch is imported only when somebody asks.
"""

# mypy: disable-error-code="no-any-return"
# PyTorch is checked as Any: its functions carry no types here.

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from recsys.data_schemas.errors import UsageError

if TYPE_CHECKING:
    import torch

AUTO: Final = "auto"
_chosen = AUTO


@contextmanager
def on_device(name: str) -> Iterator[None]:
    """Work on a device while it lasts: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        UsageError: this machine, or the PyTorch of this installation, has no such device.
    """
    global _chosen
    if name not in (AUTO, "cpu"):
        _require(name)
    before, _chosen = _chosen, name
    try:
        yield
    finally:
        _chosen = before


def best_device() -> "torch.device":
    """The device that was chosen; else CUDA, Apple's MPS or the CPU, whichever is there first."""
    import torch

    if _chosen != AUTO:
        return torch.device(_chosen)
    return torch.device(next((kind for kind in ("cuda", "mps") if _is_there(kind)), "cpu"))


def is_gpu(device: "torch.device") -> bool:
    """Whether it is anything but the processor, so that plans measure what it affords."""
    return bool(device.type != "cpu")


def computes_in_half(device: "torch.device") -> bool:
    """Whether products in bfloat16 are faster there and as good: on CUDA from Ampere on."""
    import torch

    return bool(device.type == "cuda" and torch.cuda.is_bf16_supported())


def _is_there(kind: str) -> bool:
    import torch

    if kind == "mps":
        return bool(torch.backends.mps.is_available())
    return bool(torch.cuda.is_available())


def _require(name: str) -> None:
    import torch

    kind, _, number = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else int(_is_there(kind))
    if int(number or 0) < count:
        return
    there = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    there += ["mps"] * _is_there("mps") + ["cpu"]
    raise UsageError(
        "there is no such device",
        where="device",
        found=name,
        expected=f"auto, or one of this machine's: {', '.join(there)} (PyTorch {torch.__version__})",
        fix="set `device: auto`, or install a PyTorch that is built for the device",
    )
