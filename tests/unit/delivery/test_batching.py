"""When a batch is full (Lambda semantics §3.1, §4: by count, bytes or window, whichever comes first)."""

from __future__ import annotations

from base64 import b64encode
from collections import deque

import msgspec
import pytest

from eventcore.delivery.batching import BLOCK_RECORDS, BatchPolicy, cut
from eventcore.model import PAYLOAD_BYTES_MAX, Record
from tests.unit.delivery.naive_shard import make_records


def test_the_count_cuts() -> None:
    policy = BatchPolicy(batch_size=3)
    assert cut(make_records(2), policy) == (2, False)
    assert cut(make_records(3), policy) == (3, True)
    assert cut(make_records(7), policy) == (3, True)


def test_nothing_waits() -> None:
    assert cut([], BatchPolicy(batch_size=3)) == (0, False)


@pytest.mark.parametrize("is_base64", [True, False])
@pytest.mark.parametrize("waiting", [5, BLOCK_RECORDS, BLOCK_RECORDS + 1, 3 * BLOCK_RECORDS])
def test_the_bytes_cut_before_the_event_exceeds_its_limit(waiting: int, is_base64: bool) -> None:
    """§3.1: 6 MB with the metadata; base64 writes three bytes as four."""
    size_bytes_max = 100 * waiting
    policy = BatchPolicy(
        batch_size=10_000, size_bytes_max=size_bytes_max, record_overhead_bytes=20, is_base64=is_base64
    )
    bodies = [b"x" * (index % 7 * 50) for index in range(waiting * 2)]
    records = [Record(position=index, body=body, size_bytes=len(body)) for index, body in enumerate(bodies)]
    count, is_full = cut(records, policy)
    written = [
        len(msgspec.json.encode({"data": b64encode(body).decode() if is_base64 else body.decode()}))
        for body in bodies[:count]
    ]
    assert is_full
    assert sum(written) <= size_bytes_max
    # Near it, too: less than the two largest records are left over.
    assert sum(written) + count * 20 + 2 * 440 > size_bytes_max


def test_one_record_too_many_ends_the_batch_before_it() -> None:
    policy = BatchPolicy(batch_size=10, size_bytes_max=300, record_overhead_bytes=0, is_base64=False)
    assert cut(make_records(4, size_bytes=100), policy) == (3, True)
    assert cut(make_records(3, size_bytes=100), policy) == (3, False)


def test_a_record_that_alone_exceeds_the_limit_makes_a_batch_of_its_own() -> None:
    """§5.1: it is given up as `MaximumPayloadSizeExceeded`, by whoever is to invoke it."""
    policy = BatchPolicy(batch_size=10)
    huge = make_records(1, size_bytes=PAYLOAD_BYTES_MAX)
    assert cut([*huge, *make_records(2)], policy) == (1, True)
    assert cut([*make_records(2), *huge], policy) == (2, True)


def test_a_known_sum_gives_the_same_answer() -> None:
    """The short way, by the sum of all that waits, and the long way agree; what waits may be a deque."""
    policy = BatchPolicy(batch_size=400, size_bytes_max=400 * 200, record_overhead_bytes=50)
    for size_bytes in (1, 100, 110, 120, 1000):
        for waiting in (1, 399, 400, 401, 1000):
            records = deque(make_records(waiting, size_bytes=size_bytes))
            assert cut(records, policy, waiting * size_bytes) == cut(records, policy)
