"""Stages with memory: what a night did is kept under what it was made from."""

from recsys.stages.engine import StageResult, StageRunner
from recsys.stages.identity import code_version, difference

__all__ = ["StageResult", "StageRunner", "code_version", "difference"]
