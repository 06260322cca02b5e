"""Which of a service's workers keeps whose history: a rule that a router computes as well.

    shard = ((crc32(user_id in UTF-8) >> 16) & 0x7fff) mod N

It is what nginx's `hash` does with a key over N servers of equal weight; every language has CRC-32.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self
from zlib import crc32

from recsys.data_schemas.errors import UsageError

MOST: Final = 1024
"""Shards at most (assumed; the hash has 32,768 values)."""
SHARD_HEADER: Final = "x-recsys-shard"
"""By which a caller tells a router the shard."""
WRONG_SHARD: Final = "wrong_shard"
"""In `degraded`: the worker that answered does not keep the person's history."""
SESSION_ELSEWHERE: Final = "session_elsewhere"
"""In `degraded`: nor that of the visit beside the person."""


def shard_of(user_id: str, shards: int) -> int:
    """The shard of a user, 0 to `shards` - 1; a visit is the user `session:<session_id>`.

    >>> shard_of("ann", 16), shard_of("bob", 16), shard_of("session:7f3a", 16)
    (0, 11, 15)
    """
    return ((crc32(user_id.encode("utf-8", "surrogatepass")) >> 16) & 0x7FFF) % shards


@dataclass(frozen=True)
class Shards:
    """The shards that a worker keeps."""

    mine: frozenset[int]
    of: int
    """How many there are."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """`3/16`, or several: `3,7/16`.

        Raises:
            UsageError: it is not that.
        """
        mine, _, of = text.partition("/")
        try:
            found = cls(frozenset(int(n) for n in mine.split(",")), int(of))
            if 1 <= found.of <= MOST and all(0 <= n < found.of for n in found.mine):
                return found
        except ValueError:
            pass
        raise UsageError(
            "the shards are not understood",
            where="--shards",
            found=text,
            expected=f"3/16, or several as 3,7/16: numbers from 0, of at most {MOST}",
        )

    def holds(self, user_id: str) -> bool:
        """Whether a user's history is kept here; that of nobody ("") is empty everywhere."""
        return not user_id or shard_of(user_id, self.of) in self.mine

    def among(self, published: int) -> list[int]:
        """Which of the published shards these are, in order.

        Where they are a multiple of `of`, each of these is several of those.

        >>> Shards(frozenset({1}), 4).among(8)
        [1, 5]

        Raises:
            UsageError: they are no multiple.
        """
        if published % self.of:
            raise UsageError(
                "the shards asked for are not made of the published ones",
                where="--shards",
                found=f"{self.of}",
                expected=f"a divisor of {published}, as `serving.shards` of the nights says",
            )
        return [n for n in range(published) if n % self.of in self.mine]

    def __str__(self) -> str:
        return f"{_listed(self.mine)}/{self.of}"


def _listed(numbers: Iterable[int]) -> str:
    return ",".join(map(str, sorted(numbers)))
