"""Which version answers whom, and lists that mix versions or explore, each with what was chosen.

Assignment is by a hash of the user, so it is sticky without being stored.
"""

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def user_share(user_id: str, salt: str) -> float:
    """A user's place in [0, 1), always the same for the same salt."""
    digest = hashlib.blake2b(f"{salt}\x1f{user_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def team_draft(
    first: Sequence[str], second: Sequence[str], length: int, rng: random.Random
) -> list[tuple[str, int]]:
    """Interleave two lists (Radlinski, Kurup and Joachims 2008): (item, team 0 or 1).

    In each round a coin says which team picks first; each picks its best item not yet taken.
    """
    lists, places = (first, second), [0, 0]
    taken: set[str] = set()
    result: list[tuple[str, int]] = []
    while len(result) < length:
        before = len(result)
        for team in (0, 1) if rng.random() < 0.5 else (1, 0):
            while places[team] < len(lists[team]) and lists[team][places[team]] in taken:
                places[team] += 1
            if places[team] < len(lists[team]) and len(result) < length:
                item = lists[team][places[team]]
                taken.add(item)
                result.append((item, team))
        if len(result) == before:
            break
    return result


def explore(order: list[T], share: float, rng: random.Random) -> tuple[list[T], list[float]]:
    """Swap one neighbouring pair in a `share` of lists.

    Gives the list as shown and, for each place, the probability that this item was shown there:
    an item that stayed moves with the pairs it is part of, a swapped one had share/(pairs).
    """
    n = len(order)
    if share <= 0.0 or n < 2:
        return order, [1.0] * n
    one_pair = share / (n - 1)
    propensities = [1.0 - one_pair * (2 if 0 < place < n - 1 else 1) for place in range(n)]
    if rng.random() >= share:
        return order, propensities
    place = rng.randrange(n - 1)
    shown = order.copy()
    shown[place], shown[place + 1] = shown[place + 1], shown[place]
    propensities[place] = propensities[place + 1] = one_pair
    return shown, propensities
