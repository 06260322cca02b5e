"""The ranker: a regularised conditional logit, and LightGBM lambdarank trees on top of it."""

from recsys.ranker.model import Ranker

__all__ = ["Ranker"]
