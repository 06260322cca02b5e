"""Stages with memory: what a night did is kept under what it was made from."""

from recsys.storage.stages.identity import code_version, difference
from recsys.storage.stages.runner import StageResult, StageRunner

__all__ = ["StageResult", "StageRunner", "code_version", "difference"]
