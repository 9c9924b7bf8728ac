"""When a batch is full: by count, by bytes, by the window, whichever comes first.

Source: Lambda semantics §3.1 and §4.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventcore.model import PAYLOAD_BYTES_MAX, Record


class BatchPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one batch."""

    batch_size: int  #: records, 1-10,000
    window_s: float = 0.0  #: how long the first record may wait for others, seconds, 0-300
    size_bytes_max: int = PAYLOAD_BYTES_MAX  #: of the event; what a record adds to it is `event_bytes`
    #: Bytes of JSON that a record adds beside its data: keys, quotes, numbers.
    record_overhead_bytes: int = 400
    #: Base64 writes three bytes as four; 0 for shapes that carry the body as text.
    is_base64: bool = True


def event_bytes(record: Record, policy: BatchPolicy) -> int:
    """Return about how many bytes of the event the record takes, never less than it does."""
    size = record.size_bytes
    return policy.record_overhead_bytes + (((size + 2) // 3) * 4 + 8 if policy.is_base64 else size)


def cut(records: Sequence[Record], policy: BatchPolicy) -> tuple[int, bool]:
    """Return how many of the waiting records the next batch takes, and whether it is full.

    The count is at least 1 for a non-empty sequence: a record that alone exceeds the limit makes a batch of its own,
    which the dispatcher refuses with `DiscardReason.MAXIMUM_PAYLOAD_SIZE_EXCEEDED`.
    """
    count_max = min(len(records), policy.batch_size)
    # The common case needs no walk: even at the limit's worst these records fit.
    size = 0
    limit = policy.size_bytes_max
    for index in range(count_max):
        size += event_bytes(records[index], policy)
        if size > limit:
            return max(index, 1), True
    return count_max, count_max == policy.batch_size
