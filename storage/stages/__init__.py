"""Stages with memory: what a night did is kept under what it was made from."""

from recsys.storage.stages.identity import code_version, difference
from recsys.storage.stages.runner import StageRunner, stage_and_key
from recsys.storage.stages.stage import Stage, StageResult, WouldRun, facts, folder

__all__ = [
    "Stage",
    "StageResult",
    "StageRunner",
    "WouldRun",
    "code_version",
    "difference",
    "facts",
    "folder",
    "stage_and_key",
]
