"""A score a person can read: Platt's sigmoid over the tower's cosines.

J. Platt, *Probabilistic Outputs for Support Vector Machines*, 1999; fitted by Newton's method on
validation examples, whose items the fit has not seen.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from recsys.training.finetune.loop import Trainer

NEGATIVES = 20
"""Items drawn by popularity against each positive; together they weigh as much as it."""


def calibrate(trainer: "Trainer") -> tuple[float, float]:
    """(slope, offset): probability = sigmoid(slope · score + offset) that, of the item acted on
    and one drawn by popularity, this is the one acted on."""
    positive, negative = trainer.score_validation(NEGATIVES)
    score = np.concatenate([positive, negative.ravel()]).astype(np.float64)
    label = np.concatenate([np.ones(len(positive)), np.zeros(negative.size)])
    weight = np.concatenate(
        [np.full(len(positive), 0.5 / len(positive)), np.full(negative.size, 0.5 / negative.size)]
    )
    return platt(score, label, weight)


def platt(
    score: npt.NDArray[np.float64], label: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]
) -> tuple[float, float]:
    """Weighted logistic regression of label on one score, slightly held back towards a flat one."""
    design = np.stack([score, np.ones_like(score)], 1)
    theta = np.zeros(2)
    ridge = np.diag([1e-4, 1e-6])
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-np.clip(design @ theta, -30, 30)))
        gradient = design.T @ (weight * (p - label)) + ridge @ theta
        hessian = (design * (weight * p * (1 - p))[:, None]).T @ design + ridge
        change = np.linalg.solve(hessian, gradient)
        theta = theta - change
        if np.abs(change).max() < 1e-8:
            break
    # A falling probability would contradict the ranking: no slope then.
    slope = max(float(theta[0]), 0.0)
    return slope, float(theta[1]) if slope > 0 else 0.0
