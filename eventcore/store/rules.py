"""What every store decides alike: keys, receipts, ends of visibility, retention, trimming. Pure.

A *key* names one message or record of a store: the number of its queue or shard in the high bits, its own number or
position in the low ones. A receipt is the key with the receive it proves.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, takewhile
from typing import TypeVar

from eventcore.ports.store import (
    DEAD_LETTER_RECEIVES,
    DEAD_LETTER_SOURCE,
    IDEMPOTENCY_DAYS,
    Failure,
    OutboxRow,
    QueueSettings,
    ReceiveMessages,
    StoredRecord,
)

Row = TypeVar("Row")
Headers = tuple[tuple[str, bytes], ...]

#: A number of receives is shorter.
_DIGITS_MAX = 16
_OF_DEAD_LETTERS = frozenset({DEAD_LETTER_SOURCE, DEAD_LETTER_RECEIVES})
#: Bits for the number within a queue or shard: 10^12 messages; what is left of 63 bits numbers 4 million owners.
SEQUENCE_BITS = 40
SEQUENCE_MASK = (1 << SEQUENCE_BITS) - 1
#: How long a token is remembered, milliseconds.
TOKEN_KEPT_MS = IDEMPOTENCY_DAYS * 86_400_000
#: A token is kept until something says otherwise.
FOREVER_MS = 1 << 62
#: Messages that one receive makes visible because their time has come: about 2 ms of one transaction.
DUE_STEP_MAX = 1000
#: Messages that one receive looks at beyond those it returns (expired, redriven): about 5 ms of one transaction.
EXAMINED_MAX = 1000
#: Tokens that are forgotten at a time: more than one transaction usually adds, so that the table can't grow.
TOKENS_SWEPT_MAX = 10_000
#: The shortest prefix that stands for a failure's id, characters: 24 bits of a hash.
FAILURE_PREFIX_MIN = 6


def first_key(owner: int) -> int:
    """Return the lowest key of a queue or shard; that of the next one is the end."""
    return owner << SEQUENCE_BITS


#: What a receipt proves: a message's key, which receive of it this was, and when that ends. The receive count is the
#: nonce: keys are never used twice, and the count rises with each receive.
Lease = tuple[int, int, int]


def write_receipt(key: int, receive_count: int, visible_ms: int) -> str:
    """Return the receipt of a receive."""
    return f"{key}-{receive_count}-{visible_ms}"


def read_receipt(receipt: str, owner: int) -> Lease | None:
    """Return what a receipt of a queue says; None for a text that can't be one of its receipts."""
    for (receive_count, visible_ms), (key,) in read_receipts([receipt], owner).items():
        return key, receive_count, visible_ms
    return None


def read_receipts(receipts: Iterable[str], owner: int) -> dict[tuple[int, int], dict[int, str]]:
    """Return a queue's receipts by their receive (its count and its end), then by key; without what can be none."""
    by_ending: dict[str, dict[int, str]] = {}
    low, high = first_key(owner), first_key(owner + 1)
    for receipt in receipts:
        # Those of one receive end alike, nearly always all of them: the ending is read once.
        text, _, ending = receipt.partition("-")
        try:
            key = int(text)
        except ValueError:
            continue
        if low <= key < high:
            keys = by_ending.get(ending)
            if keys is None:
                keys = by_ending[ending] = {}
            keys[key] = receipt
    return {receive: keys for ending, keys in by_ending.items() if (receive := _read_ending(ending))}


def _read_ending(ending: str) -> tuple[int, int] | None:
    try:
        receive_count, visible_ms = map(int, ending.split("-"))
    except ValueError:
        return None
    return (receive_count, visible_ms) if receive_count else None


def expired_ms(settings: QueueSettings, now_ms: int) -> int:
    """Return the latest time at which a message was sent that is past the queue's retention (Lambda semantics §3.2)."""
    return now_ms - settings.message_retention_period * 1000


def is_expired(sent_ms: int, settings: QueueSettings, now_ms: int) -> bool:
    """Return whether a message is past its queue's retention."""
    return sent_ms <= expired_ms(settings, now_ms)


def shown_again_ms(receive: ReceiveMessages, settings: QueueSettings) -> int:
    """Return when what a receive takes shows again."""
    timeout_s = receive.visibility_timeout_s
    return receive.now_ms + (settings.visibility_timeout if timeout_s is None else timeout_s) * 1000


def is_sooner(visible_ms: int, earliest_ms: int) -> bool:
    """Return whether what shows at one time makes those wait less who wait for the next message; 0: none shows."""
    return visible_ms > 0 and (not earliest_ms or visible_ms < earliest_ms)


def is_exhausted(receive_count: int, headers: Headers, settings: QueueSettings) -> bool:
    """Return whether one more receive of a message would exceed the redrive policy's limit (trap 16).

    The receive count is that of all queues in which it was, the limit that of one (SQS's API reference,
    `ApproximateReceiveCount` and `maxReceiveCount`).
    """
    if not settings.dead_letter_queue or receive_count < settings.max_receive_count:
        return False
    before = next((value for name, value in headers if name == DEAD_LETTER_RECEIVES), b"")
    received_before = int(before) if before.isdigit() and len(before) < _DIGITS_MAX else 0
    # Anybody may have sent a header of this name: one that can't be true must not keep a message here for ever.
    if received_before > receive_count:
        return True
    return receive_count - received_before >= settings.max_receive_count


def as_dead_letter(headers: Headers, queue: str, receive_count: int) -> Headers:
    """Return the headers of a message that goes to the dead-letter queue of ``queue``."""
    own = ((DEAD_LETTER_SOURCE, queue.encode()), (DEAD_LETTER_RECEIVES, b"%d" % receive_count))
    return (*without_source(headers), *own)


def without_source(headers: Headers) -> Headers:
    """Return a message's headers without those of a dead letter."""
    return tuple([header for header in headers if header[0] not in _OF_DEAD_LETTERS]) if headers else headers


def trim_plan(
    shards: Mapping[int, Iterable[tuple[int, int]]], *, before_ms: int, excess_bytes: int, count_max: int
) -> dict[int, tuple[int, int]]:
    """Return what to drop from the front of each shard: how many records, and their bytes.

    Args:
        shards: per shard, arrival time and size of its records, oldest first.
        before_ms: records that arrived before go.
        excess_bytes: the oldest go until so many bytes are gone.
        count_max: at most so many records of all shards together.
    """

    def heads(shard: int, records: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
        return ((arrived_ms, shard, size_bytes) for arrived_ms, size_bytes in records)

    plan: dict[int, tuple[int, int]] = {}
    oldest = heapq.merge(*(heads(shard, records) for shard, records in shards.items()))
    for dropped, (arrived_ms, shard, size_bytes) in enumerate(oldest):
        if dropped == count_max or (arrived_ms >= before_ms and excess_bytes <= 0):
            break
        count, total_bytes = plan.get(shard, (0, 0))
        plan[shard] = (count + 1, total_bytes + size_bytes)
        excess_bytes -= size_bytes
    return plan


def due_rows(lanes: Iterable[Iterable[tuple[int, int, Row]]], *, now_ms: int, count_max: int) -> list[Row]:
    """Return what may be handed over now, in order of number: of each lane what stands before its first undue row.

    Args:
        lanes: number, due time and row of each lane's rows, in order.
        now_ms: rows that are due later are not due.
        count_max: at most so many of all lanes together.
    """
    heads = [takewhile(lambda entry: entry[1] <= now_ms, lane) for lane in lanes]
    return [row for _, _, row in islice(heapq.merge(*heads, key=lambda entry: entry[0]), count_max)]


def record_size_bytes(record: StoredRecord) -> int:
    """Return what a record of a stream counts toward the bytes of a read."""
    headers = sum([len(name) + len(value) for name, value in record.headers]) if record.headers else 0
    return len(record.body) + len(record.key or b"") + headers


def outbox_size_bytes(row: OutboxRow) -> int:
    """Return what a row counts toward its destination's bound."""
    attributes = sum(len(name) + len(value) for name, value in row.attributes.items())
    return len(row.payload) + len(row.record_key or b"") + attributes


def failure_size_bytes(failure: Failure) -> int:
    """Return what a failure counts toward the bound of all failures."""
    return len(failure.event) + len(failure.records) + len(failure.stack_trace) + len(failure.error_message)
