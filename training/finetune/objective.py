"""Losses over a step's items.

Shapes: B examples, C candidate items of the step, d dimensions.

- Sampled softmax with logQ correction: Bengio & Senécal, *Adaptive Importance Sampling to
  Accelerate Training of a Neural Probabilistic Language Model*, 2008; in-batch form with item
  frequencies: Yi et al., *Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
  Recommendations*, RecSys 2019.
- Softmax over an example's own negatives (shown beside the target and not acted on, or ranked high
  by recall): the conditional logit of D. McFadden, *Conditional Logit Analysis of Qualitative Choice
  Behavior*, 1974. The list is given, not sampled, so there is nothing to correct.
- Binary cross-entropy over the same candidates, each example's negatives weighing as much
  together as its positive.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def candidate_logits(
    users: Tensor, candidates: Tensor, scale: Tensor, log_q: Tensor, strength: float
) -> Tensor:
    """Logits [B, C] of every candidate for every user, corrected for how often each is drawn.

    Args:
        users: [B, d] unit vectors.
        candidates: [C, d] unit vectors.
        scale: [], logarithm of the factor of the cosines.
        log_q: [C], logarithm of the chance with which each was drawn.
        strength: of the correction: 1 makes the model estimate P(item | user), 0 leaves popularity
            out of it (pointwise mutual information); what helps items without events lies between.
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


def own_softmax(
    users: Tensor,
    vectors: Tensor,
    target: Tensor,
    own: Tensor,
    there: Tensor,
    scale: Tensor,
    weight: Tensor,
) -> Tensor:
    """Weighted mean cross-entropy of each target against its own negatives.

    Examples without negatives take no part.

    Args:
        users: [B, d] unit vectors.
        vectors: [n, d] unit vectors of items.
        target: [B], row of the target in `vectors`.
        own: [B, K], rows of the negatives.
        there: [B, K] bool, which negatives exist.
        scale: [], logarithm of the factor of the cosines.
        weight: [B], weight of each example.
    """
    rows = torch.cat([target[:, None], own.masked_fill(~there, 0)], 1)
    logits = torch.einsum("bd,bkd->bk", users, vectors[rows]) * scale.exp()
    blank = torch.zeros_like(target[:, None], dtype=torch.bool)
    logits = logits.masked_fill(torch.cat([blank, ~there], 1), -torch.inf)
    weight = weight * there.any(1)
    each = F.cross_entropy(logits, torch.zeros_like(target), reduction="none")
    return (each * weight).sum() / weight.sum().clamp(min=1e-9)
