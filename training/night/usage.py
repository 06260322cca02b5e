"""What a night takes of a machine, and what that costs at its owner's prices."""

import time
from dataclasses import dataclass
from typing import Final

from recsys.data_schemas.config import PricesConfig
from recsys.encoder.device import best_device
from recsys.storage.files import human_bytes
from recsys.storage.stages.cost import others_share, processor_seconds
from recsys.training.night.night_context import Night

ON_A_GPU: Final = ("encoder", "vectors", "recipe", "source-sequence")
"""Stages that use a GPU where there is one."""
HOUR: Final = 3600.0
MB, GB = 1e6, 1e9
NIGHTS_OF_A_MONTH: Final = 30.0


@dataclass(frozen=True)
class Usage:
    """What a run took until now."""

    seconds: float
    processor_seconds: float
    """Of all threads, and of child processes that have ended."""
    gpu_seconds: float
    """For which the stages that use a GPU held it; 0 without one."""
    written_bytes: int
    """By the stages that ran."""
    workspace_bytes: int
    """Of the whole workspace as it stands."""
    others_share: float = 0.0
    """Of the machine's processors that other programs used meanwhile."""


def used(night: Night) -> Usage:
    """What a night took from its beginning until now."""
    ran = [result for result in night.runner.outputs if not result.skipped]
    held = sum(result.seconds for result in ran if result.name in ON_A_GPU)
    return Usage(
        seconds=time.monotonic() - night.began,
        processor_seconds=processor_seconds() - night.processor_began,
        gpu_seconds=held if held and _has_gpu() else 0.0,
        written_bytes=sum(result.bytes for result in ran),
        workspace_bytes=night.workspace.usage()["total"],
        others_share=others(night),
    )


def others(night: Night) -> float:
    """Share of the machine's processors that other programs used since a night began."""
    return others_share(night.machine_began, processor_seconds() - night.processor_began)


def _has_gpu() -> bool:
    return bool(best_device().type == "cuda")


def system_metrics(usage: Usage) -> dict[str, float]:
    """The same under the names by which MLflow's pages know what a run took of its machine.

    >>> system_metrics(Usage(60.0, 90.0, 0.0, 2_000_000, 5_000_000))["system/disk_written_megabytes"]
    2.0
    """
    return {
        "system/wall_seconds": usage.seconds,
        "system/processor_seconds": usage.processor_seconds,
        "system/gpu_seconds": usage.gpu_seconds,
        "system/disk_written_megabytes": usage.written_bytes / MB,
        "system/workspace_megabytes": usage.workspace_bytes / MB,
    }


def usage_facts(usage: Usage, prices: PricesConfig) -> dict[str, object]:
    """What the report shows: hours, bytes and, with prices, money."""
    facts: dict[str, object] = {
        "processor hours": f"{usage.processor_seconds / HOUR:.2f}",
        "GPU hours": f"{usage.gpu_seconds / HOUR:.2f}",
        "processors used by other programs": f"{usage.others_share:.0%}",
        "written tonight": human_bytes(usage.written_bytes),
        "workspace": human_bytes(usage.workspace_bytes),
    }
    parts = {
        "processor": (prices.processor_hour, usage.processor_seconds / HOUR),
        "GPU": (prices.gpu_hour, usage.gpu_seconds / HOUR),
        "storage": (prices.gb_month, usage.workspace_bytes / GB / NIGHTS_OF_A_MONTH),
    }
    costs = {name: price * amount for name, (price, amount) in parts.items() if price is not None}
    if costs:
        shown = ", ".join(f"{name} {cost:.2f}" for name, cost in costs.items())
        facts["money"] = f"{sum(costs.values()):.2f} {prices.currency} a night ({shown})"
    return facts
