"""Which shard of an embedded stream a record goes to, and what shards are called.

Source: Kinesis Data Streams, "PutRecord": the MD5 of the partition key, as a 128-bit number, falls into the hash key
range of one shard; here the ranges are equal and never split.
"""

from __future__ import annotations

import hashlib

#: Kinesis writes a shard's number with twelve digits.
SHARD_DIGITS = 12
_PREFIX = "shardId-"


def shard_name(index: int) -> str:
    """Return the name of a shard: `shardId-000000000003`."""
    return f"{_PREFIX}{index:0{SHARD_DIGITS}d}"


def shard_index(name: str) -> int:
    """Return the number of a shard from its name.

    Raises:
        ValueError: it is not a name that `shard_name` gives.
    """
    digits = name.removeprefix(_PREFIX)
    if len(digits) + len(_PREFIX) != len(name) or len(digits) != SHARD_DIGITS or not digits.isdecimal():
        raise ValueError(f"`{name}` is not a shard: write {shard_name(0)}")
    return int(digits)


def shard_of_key(key: bytes, shards: int) -> int:
    """Return the number of the shard, below ``shards``, whose hash key range holds the key."""
    digest = hashlib.md5(key, usedforsecurity=False).digest()
    return int.from_bytes(digest, "big") * shards >> 128
