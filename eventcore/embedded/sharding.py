"""What the shards of an embedded stream are called; which one a record goes to is `eventcore.delivery.hash_keys`.

The ranges of a new stream are equal; what becomes of them is `eventcore.store.resharding`.
"""

from __future__ import annotations

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
