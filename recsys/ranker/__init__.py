"""The ranker: a regularised conditional logit, LightGBM lambdarank trees on top of it, and a share of
the fusion."""

from recsys.ranker.model import Blend, Ranker

__all__ = ["Blend", "Ranker"]
