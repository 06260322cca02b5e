"""Hand-made sources whose lists are known."""

import numpy as np
import pytest

from features.interactions import EMPTY_HISTORY
from features.protocols import Recalled


class Fixed:
    """Proposes given items with given scores, whoever asks."""

    columns = ("score",)
    fit_until = 0

    def __init__(self, name, items, scores):
        self.name = name
        self.items = np.array(items, np.int32)
        self.scores = np.array(scores, np.float32)

    def score(self, history, items, now):
        known = dict(zip(self.items.tolist(), self.scores.tolist(), strict=True))
        return np.array([[known.get(int(i), np.nan)] for i in items], np.float32).reshape(-1, 1)

    def recall(self, history, limit, now, blocked):
        keep = blocked[self.items] == 0
        return Recalled(self.items[keep][:limit], self.scores[keep][:limit])

    def save(self, folder):
        raise NotImplementedError

    @classmethod
    def load(cls, folder):
        raise NotImplementedError


@pytest.fixture
def fixed():
    return Fixed


@pytest.fixture
def nobody():
    return EMPTY_HISTORY
