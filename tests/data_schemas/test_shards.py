"""The rule that workers and routers share."""

import pytest

from recsys.data_schemas.errors import UsageError
from recsys.data_schemas.shards import Shards, shard_of


def test_the_rule_is_that_of_nginx():
    """`hash $key` over N servers of weight 1: ((crc32 >> 16) & 0x7fff) mod N; values of crc32 from RFC 3720's
    neighbour, the check value of CRC-32 ("123456789" → cbf43926)."""
    assert shard_of("123456789", 1 << 15) == 0xCBF4 & 0x7FFF
    assert shard_of("123456789", 16) == (0xCBF4 & 0x7FFF) % 16


def test_shards_are_read_and_written():
    some = Shards.parse("7,3/16")
    assert (some.mine, some.of, str(some)) == ({3, 7}, 16, "3,7/16")
    everybody = [f"user {n}" for n in range(2000)]
    held = [user for user in everybody if some.holds(user)]
    assert held == [user for user in everybody if shard_of(user, 16) in (3, 7)]
    assert 150 < len(held) < 350
    assert some.holds("")


@pytest.mark.parametrize("wrong", ["", "3", "16/16", "-1/4", "a/b", "1/0", "1/2/3", "0/5000"])
def test_what_is_no_shard_is_refused(wrong):
    with pytest.raises(UsageError, match="not understood"):
        Shards.parse(wrong)


def test_a_coarser_shard_is_several_of_the_published_ones():
    coarse = Shards.parse("1/4")
    assert coarse.among(16) == [1, 5, 9, 13]
    for user in map(str, range(500)):
        assert coarse.holds(user) == (shard_of(user, 16) in (1, 5, 9, 13))
    with pytest.raises(UsageError, match="not made of"):
        coarse.among(6)
