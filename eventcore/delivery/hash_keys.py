"""Hash keys: which part of a stream a partition key belongs to.

Source: Kinesis Data Streams, "PutRecord": the MD5 of the partition key, as a 128-bit number, falls into the hash key
range of one shard.
"""

from __future__ import annotations

import hashlib

#: How many hash keys there are; the highest is one less.
HASH_KEYS = 1 << 128


def hash_key(key: bytes) -> int:
    """Return a partition key's hash key."""
    return int.from_bytes(hashlib.md5(key, usedforsecurity=False).digest(), "big")


def share_of(key: bytes, count: int) -> int:
    """Return which of ``count`` equal ranges holds a partition key's hash key, from 0."""
    # Not by `hash_key`: every record that is sent comes here.
    return int.from_bytes(hashlib.md5(key, usedforsecurity=False).digest(), "big") * count >> 128


def equal_range(index: int, count: int) -> tuple[int, int]:
    """Return the first and the last hash key of one of ``count`` equal ranges; see `share_of`."""
    first, behind = (-(-part * HASH_KEYS // count) for part in (index, index + 1))
    return first, behind - 1
