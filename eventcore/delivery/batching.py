"""When a batch is full: by count, by bytes, by the window, whichever comes first.

Source: Lambda semantics §3.1 and §4.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import msgspec

from eventcore.model import PAYLOAD_BYTES_MAX, Record

#: Records whose sizes are summed before they are compared with what is left: walking record by record cost 0.2 µs a
#: record, this costs 0.03. A block that does not fit is walked, and so at most this many records twice.
BLOCK_RECORDS = 256
#: Body, key and a header may each end in up to two bytes of padding, and the quotes around them.
_BASE64_PADDING_BYTES = 12


class BatchPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one batch."""

    batch_size: int  #: records, 1-10,000
    window_s: float = 0.0  #: how long the first record may wait for others, seconds, 0-300
    size_bytes_max: int = PAYLOAD_BYTES_MAX  #: of the event
    #: Bytes of JSON that a record adds beside its data: keys, quotes, numbers.
    record_overhead_bytes: int = 400
    #: The data is written in base64, three bytes as four; else it counts as it is.
    is_base64: bool = True


def cut(records: Sequence[Record], policy: BatchPolicy, size_bytes: int | None = None) -> tuple[int, bool]:
    """Return how many of the waiting records the next batch takes, and whether it is full.

    The count is at least 1 for a non-empty sequence: a record that alone exceeds the limit makes a batch of its own,
    which is given up with `DiscardReason.MAXIMUM_PAYLOAD_SIZE_EXCEEDED`.

    Args:
        records: what waits; read from the front alone, so that a deque will do.
        policy: the batch's limits.
        size_bytes: of all that waits together, where it is known: if that fits, no record is looked at.
    """
    count_max = min(len(records), policy.batch_size)
    share, fixed = _thirds(policy)
    room = policy.size_bytes_max * 3
    if size_bytes is not None and size_bytes * share + count_max * fixed <= room:
        return count_max, count_max == policy.batch_size
    waiting = iter(records)
    for start in range(0, count_max, BLOCK_RECORDS):
        sizes = [record.size_bytes for record in islice(waiting, min(BLOCK_RECORDS, count_max - start))]
        size = sum(sizes) * share + len(sizes) * fixed
        if size > room:
            return max(start + _count_fitting(sizes, share, fixed, room), 1), True
        room -= size
    return count_max, count_max == policy.batch_size


def _count_fitting(sizes: Sequence[int], share: int, fixed: int, room: int) -> int:
    for index, size in enumerate(sizes):
        room -= size * share + fixed
        if room < 0:
            return index
    return len(sizes)


def _thirds(policy: BatchPolicy) -> tuple[int, int]:
    """Return what a record takes of an event in thirds of a byte: for each byte of its data, and in any case.

    Thirds, because base64 writes three bytes as four: so the sizes of many records are summed before they are
    converted, without a rounding that a single record would not have.
    """
    if policy.is_base64:
        return 4, (policy.record_overhead_bytes + _BASE64_PADDING_BYTES) * 3
    return 3, policy.record_overhead_bytes * 3
