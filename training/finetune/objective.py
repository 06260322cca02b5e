"""Losses over a step's items.

Shapes: B examples, C candidate items of the step, d dimensions.

- Sampled softmax with logQ correction: Bengio & Senécal, *Adaptive Importance Sampling to
  Accelerate Training of a Neural Probabilistic Language Model*, 2008; in-batch form with item
  frequencies: Yi et al., *Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
  Recommendations*, RecSys 2019.
- Binary cross-entropy over the same candidates, each example's negatives weighing as much
  together as its positive.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def candidate_logits(
    users: Tensor, candidates: Tensor, scale: Tensor, log_q: Tensor, strength: float
) -> Tensor:
    """users [B, d], candidates [C, d], log_q [C] → corrected logits [B, C].

    `strength` 1 makes the model estimate P(item | user), 0 leaves popularity out of it (pointwise
    mutual information); what helps items without events lies between.
    """
    return users @ candidates.T * scale.exp() - strength * log_q


def sampled_softmax(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean cross-entropy of target [B] among logits [B, C]; masked ones are -inf."""
    return (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()


def binary(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Balanced binary cross-entropy: target [B] acted on, the other C - 1 candidates not."""
    hit = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, target[:, None], True)
    valid = torch.isfinite(logits)
    safe = torch.where(valid, logits, torch.zeros_like(logits))
    each = F.binary_cross_entropy_with_logits(safe, hit.to(logits.dtype), reduction="none")
    others = (each * (valid & ~hit)).sum(1) / (valid & ~hit).sum(1).clamp(min=1)
    positive = (each * hit).sum(1)
    return ((positive + others) * weight).sum() / weight.sum()
