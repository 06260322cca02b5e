"""A world whose text tells what a user acts on next: eight colours, each with its own users."""

import numpy as np
import pytest

from recsys.data_schemas.config import EncoderConfig
from recsys.features.interactions import DAY, Interactions

KINDS = ["alpha", "beta", "gamma", "delta", "red", "blue", "green", "heavy"]
NOUNS = [
    "game",
    "pen",
    "paper",
    "glue",
    "tape",
    "robot",
    "car",
    "train",
    "boat",
    "star",
    "moon",
    "sun",
    "sea",
    "hill",
    "wood",
    "iron",
]


@pytest.fixture(scope="session")
def texts():
    """64 items; item i is of kind i % 8, which its first word tells."""
    return [f"{KINDS[i % 8]} {NOUNS[i % 15]} number {i % 30}" for i in range(64)]


@pytest.fixture(scope="session")
def behaviour():
    """120 users with six events each, all of one kind of item; user u is of kind u % 8."""
    rng = np.random.default_rng(4)
    user = np.repeat(np.arange(120), 6)
    item = np.concatenate([rng.permutation(np.arange(u % 8, 64, 8))[:6] for u in range(120)])
    time = np.tile(np.arange(1, 7), 120) * DAY + user * 1000
    order = np.argsort(time, kind="stable")
    n = len(order)
    return Interactions(
        user[order].astype(np.int32),
        item[order].astype(np.int32),
        np.zeros(n, np.int16),
        time[order].astype(np.int64),
        np.full(n, np.nan, np.float32),
        np.full(n, 5, np.float32),
        np.full(n, 3, np.int8),
        np.arange(n, dtype=np.int64),
        np.array([f"u{u}" for u in range(120)], object),
        ("purchase",),
        64,
    )


@pytest.fixture(scope="session")
def settings(tiny_model):
    """Quick settings; keywords replace them."""

    def make(**changes):
        base = {
            "model": str(tiny_model),
            "last_n": 1,
            "batch_size": 64,
            "step_tokens": 128,
            "negatives": 32,
            "head_steps": 6,
            "max_steps": 8,
            "validate_every": 3,
            "learning_rate": 2e-3,
            "head_learning_rate": 3e-3,
            "max_tokens": 16,
            "history_length": 5,
            "patience": 10,
        }
        return EncoderConfig(**(base | changes))

    return make
