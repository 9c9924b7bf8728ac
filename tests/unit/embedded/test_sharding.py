"""Keys fall into shards as Kinesis's hash key ranges, and shard names have one form."""

import hashlib

import pytest

from eventcore.delivery.hash_keys import share_of
from eventcore.embedded.sharding import shard_index, shard_name


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 1000])
def test_a_key_falls_into_the_shard_whose_range_holds_its_hash(shards: int) -> None:
    """Shard i of n holds the MD5 hashes from i/n up to (i+1)/n of 2^128: compared with a search through the ranges."""
    begins = [-(-(index << 128) // shards) for index in range(shards)]
    for number in range(300):
        key = b"customer-%d" % number
        digest = int(hashlib.md5(key).hexdigest(), 16)
        expected = max(index for index, begin in enumerate(begins) if begin <= digest)
        assert share_of(key, shards) == expected


def test_keys_spread_over_all_shards() -> None:
    """A thousand keys leave none of 16 shards without a fair share."""
    counts = [0] * 16
    for number in range(1000):
        counts[share_of(b"%d" % number, 16)] += 1
    assert min(counts) > 1000 / 16 / 2


def test_names_are_those_of_kinesis() -> None:
    assert shard_name(0) == "shardId-000000000000"
    assert shard_name(12) == "shardId-000000000012"


@pytest.mark.parametrize("index", [0, 1, 999_999_999_999])
def test_a_name_gives_its_number_back(index: int) -> None:
    assert shard_index(shard_name(index)) == index


@pytest.mark.parametrize(
    "name", ["", "0", "shardId-", "shardId-1", "shardId-00000000000x", "000000000000", "shardId-0000000000000"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a shard"):
        shard_index(name)
