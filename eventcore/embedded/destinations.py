"""Embedded queues and streams as destinations: written in the transaction that settles the batch.

A queue's `maximum_message_size` binds its senders, not what mappings give up: a row that was refused here would block
its shard without end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eventcore.clock import Clock
from eventcore.delivery.hash_keys import share_of
from eventcore.ids import IdFactory
from eventcore.ports.destinations import Dispatch
from eventcore.ports.store import AppendRecords, NewMessage, NewRecord, Operation, SendMessages


class QueueDestination:
    """An embedded queue that takes results: one message each, its attributes as headers."""

    def __init__(self, queue: str, *, clock: Clock, ids: IdFactory) -> None:
        self.reference = f"queue:{queue}"
        self._queue = queue
        self._clock = clock
        self._ids = ids

    def operations(self, dispatch: Dispatch) -> Sequence[Operation]:
        """Return the write that sends the message; repeated with the same key it changes nothing."""
        message = NewMessage(
            id=self._ids.new_id(),
            body=dispatch.payload,
            headers=_headers(dispatch.attributes),
            idempotency_token=dispatch.key,
        )
        return (SendMessages(queue=self._queue, messages=(message,), now_ms=self._clock.now_ms()),)


class StreamDestination:
    """An embedded stream that takes results: one record each, in the shard of its key, or of its lane without one."""

    def __init__(self, stream: str, *, shards: int, clock: Clock) -> None:
        self.reference = f"stream:{stream}"
        self._stream = stream
        self._shards = shards
        self._clock = clock

    def operations(self, dispatch: Dispatch) -> Sequence[Operation]:
        """Return the write that appends the record; repeated with the same key it changes nothing."""
        key = dispatch.record_key
        record = NewRecord(
            # A lane keeps its order: what it gives up without a key goes to one shard.
            shard=share_of(dispatch.lane.encode() if key is None else key, self._shards),
            body=dispatch.payload,
            key=key,
            headers=_headers(dispatch.attributes),
            idempotency_token=dispatch.key,
        )
        return (AppendRecords(stream=self._stream, records=(record,), now_ms=self._clock.now_ms()),)


def _headers(attributes: Mapping[str, str]) -> tuple[tuple[str, bytes], ...]:
    return tuple([(name, value.encode()) for name, value in attributes.items()])
