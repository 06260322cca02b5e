"""A small evaluation with a known best system, shared by the report's tests."""

import numpy as np
import pytest

from recsys.evaluation import plots
from recsys.evaluation.lists import RankedLists, Truth

USERS, ITEMS, LENGTH = 60, 200, 30


def lists_with_hits(name: str, truth: Truth, chance: float, seed: int) -> RankedLists:
    """Each relevant item is put near the top with `chance`; the rest is random."""
    rng = np.random.default_rng(seed)
    rows = np.empty((truth.n_groups, LENGTH), np.int32)
    for g in range(truth.n_groups):
        relevant = truth.items[truth.offsets[g] : truth.offsets[g + 1]]
        noise = rng.random(ITEMS)
        noise[relevant] += (rng.random(len(relevant)) < chance) * 0.9
        rows[g] = np.argsort(-noise)[:LENGTH]
    return RankedLists(
        name, rows, np.tile(np.linspace(3, -3, LENGTH, dtype=np.float32), (len(rows), 1))
    )


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without drawing their plots, for tests that look at the rest."""

    def figure(title: str, alt: str, draw: object, *, height: float = 0.0) -> plots.Plot:
        return plots.Plot(title, "<svg></svg>", alt)

    monkeypatch.setattr(plots, "_figure", figure)


@pytest.fixture(scope="session")
def truth() -> Truth:
    """Two groups per user over twelve days, three relevant items each."""
    rng = np.random.default_rng(11)
    groups = 2 * USERS
    items = np.concatenate([rng.choice(ITEMS, 3, False) for _ in range(groups)])
    day = 86_400_000_000
    time = 1_600_000_000_000_000 + np.arange(groups) % 12 * day
    return Truth.of(
        np.repeat(np.arange(groups), 3),
        items,
        rng.integers(1, 4, 3 * groups),
        np.arange(groups) // 2,
        time,
    )


@pytest.fixture(scope="session")
def systems(truth: Truth) -> list[RankedLists]:
    return [
        lists_with_hits("good", truth, 0.8, 1),
        lists_with_hits("fair", truth, 0.3, 2),
        lists_with_hits("chance", truth, 0.0, 3),
    ]


@pytest.fixture(scope="session")
def popularity() -> np.ndarray:
    return np.random.default_rng(12).poisson(2.0, ITEMS)
