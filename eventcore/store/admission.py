"""Refuses a list of operations before it writes anything: what it names must be there, its epochs the newest.

Both stores ask here first, so that a list that is admitted takes effect as a whole, and no store needs to undo a part
of one. A list may rely on what its own earlier operations define.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from eventcore.errors import FencedOut, ProgrammingError
from eventcore.ports import keys
from eventcore.ports import store as port
from eventcore.ports.store import BODY_BYTES_MAX, Operation, QueueSettings, StreamSettings
from eventcore.store.fifo_rules import check_fifo, wrong_type
from eventcore.store.resharding import Shards, merge_shards, split_shard

#: A checkpoint that nobody took yet: epoch and position.
NEVER_TAKEN = (0, -1)


class Known(Protocol):
    """What a store holds now."""

    def queue_settings(self, queue: str) -> QueueSettings | None:
        """Return a queue's settings; None when it is not defined."""
        ...

    def stream_settings(self, stream: str) -> StreamSettings | None:
        """Return a stream's settings; None when it is not defined."""
        ...

    def shards(self, name: str) -> Shards:
        """Return what a stream's shards are; none when it is not defined."""
        ...

    def progress(self, mapping: str, shard: str) -> tuple[int, int]:
        """Return a checkpoint's epoch and position; `NEVER_TAKEN` without one."""
        ...


class Admission:
    """Checks one list at a time against what a store holds and what the list itself has defined so far."""

    def __init__(self, known: Known, owns: Callable[[port.DeleteMessages], bool]) -> None:
        """Check against ``known``; ``owns`` tells whether every receipt of a deletion owns its message now."""
        self._known = known
        self._owns = owns
        self._queues: dict[str, QueueSettings] = {}
        self._streams: dict[str, StreamSettings] = {}
        self._progress: dict[tuple[str, str], tuple[int, int]] = {}
        self._resharded: set[str] = set()
        self._checks: dict[type[Operation], Callable[[Any], object]] = {
            port.DefineQueue: self._define_queue,
            port.SendMessages: self._send,
            port.ReceiveMessages: self._receive,
            port.DeleteMessages: self._delete,
            port.ChangeVisibility: self._name_queue,
            port.PurgeQueue: self._name_queue,
            port.DropMessages: self._name_queue,
            port.MoveMessages: self._move,
            port.DefineStream: self._define_stream,
            port.AppendRecords: self._append,
            port.TrimStream: self._name_stream,
            port.SplitShard: self._split,
            port.MergeShards: self._merge,
            port.TakeShard: self._take,
            port.SaveCheckpoint: self._save,
            port.SeekCheckpoint: self._seek,
        }
        self._unchecked = frozenset(
            {
                port.PutOutbox,
                port.MarkSent,
                port.PostponeOutbox,
                port.KeepFailure,
                port.SealFailures,
                port.DropFailures,
                port.TrimFailures,
                port.PutNote,
                keys.ClaimKeys,
                keys.CompleteKeys,
                keys.ReleaseKeys,
                keys.SweepKeys,
            }
        )

    def admit(self, operations: Sequence[Operation]) -> None:
        """Return if every operation of the list can be carried out.

        Raises:
            FencedOut: a checkpoint has a newer epoch, or would go back; a message has another owner.
            KeyError, ValueError: an operation names what is not there, or holds what is too large.
            ProgrammingError: something in the list is no operation of the port.
        """
        try:
            for operation in operations:
                check = self._checks.get(type(operation))
                if check is not None:
                    check(operation)
                elif type(operation) not in self._unchecked:
                    raise ProgrammingError(f"{type(operation).__name__} is not an operation of the store")
        finally:
            # Usually there is nothing; every send passes here.
            if self._queues or self._streams or self._progress or self._resharded:
                self._queues.clear()
                self._streams.clear()
                self._progress.clear()
                self._resharded.clear()

    def refuse_sends(self, operations: Sequence[port.SendMessages]) -> dict[int, Exception]:
        """Return why sends can't be carried out, each a list of its own, by their place; empty when all can."""
        refusals: dict[int, Exception] = {}
        for place, operation in enumerate(operations):
            try:
                self._send(operation)
            except (KeyError, ValueError) as error:
                refusals[place] = error
        return refusals

    def _queue(self, name: str) -> QueueSettings:
        settings = self._queues.get(name) or self._known.queue_settings(name)
        if settings is None:
            raise KeyError(f"there is no queue {name}")
        return settings

    def _stream(self, name: str) -> StreamSettings:
        settings = self._streams.get(name) or self._known.stream_settings(name)
        if settings is None:
            raise KeyError(f"there is no stream {name}")
        return settings

    def _define_queue(self, operation: port.DefineQueue) -> None:
        settings = operation.settings
        if bool(settings.dead_letter_queue) != (settings.max_receive_count > 0):
            raise ValueError(
                f"the redrive policy of queue {operation.queue} needs both dead_letter_queue and max_receive_count"
            )
        if settings.dead_letter_queue == operation.queue:
            raise ValueError(f"queue {operation.queue} can't be its own dead-letter queue")
        known = self._queues.get(operation.queue) or self._known.queue_settings(operation.queue)
        if known is not None and known.fifo_queue is not settings.fifo_queue:
            kind = "a FIFO queue" if known.fifo_queue else "a standard queue"
            raise ValueError(f"queue {operation.queue} was made as {kind}, and stays one: take another name")
        self._queues[operation.queue] = settings

    def _name_queue(
        self,
        operation: port.DeleteMessages | port.ChangeVisibility | port.PurgeQueue | port.DropMessages,
    ) -> None:
        self._queue(operation.queue)

    def _delete(self, operation: port.DeleteMessages) -> None:
        self._queue(operation.queue)
        # One that is only now defined has given nobody a receipt.
        is_stored = self._known.queue_settings(operation.queue) is not None
        if operation.is_required and not (is_stored and self._owns(operation)):
            raise FencedOut(f"a message of queue {operation.queue} was received again, or is gone")

    def _send(self, operation: port.SendMessages) -> None:
        settings, size_bytes_max = self._queue(operation.queue), BODY_BYTES_MAX
        if operation.is_bounded and settings.maximum_message_size < size_bytes_max:
            size_bytes_max = settings.maximum_message_size
        if settings.fifo_queue:
            check_fifo(operation.messages, settings)
        for message in operation.messages:
            if message.deduplication_id and not settings.fifo_queue:
                raise ValueError(wrong_type("MessageDeduplicationId", message.deduplication_id))
            size_bytes = len(message.body)
            if operation.is_bounded and message.headers:
                size_bytes += _size_bytes(message.headers)
            if size_bytes <= size_bytes_max:
                continue
            if operation.is_bounded:
                raise ValueError(f"Message must be shorter than {size_bytes_max} bytes.")
            raise ValueError(f"message {message.id} is {size_bytes} bytes long; at most {BODY_BYTES_MAX}")

    def _receive(self, operation: port.ReceiveMessages) -> None:
        settings = self._queue(operation.queue)
        if settings.dead_letter_queue:
            _check_alike(operation.queue, settings, settings.dead_letter_queue, self._queue(settings.dead_letter_queue))

    def _move(self, operation: port.MoveMessages) -> None:
        source, target = self._queue(operation.source), self._queue(operation.target)
        _check_alike(operation.source, source, operation.target, target)

    def _define_stream(self, operation: port.DefineStream) -> None:
        name, settings = operation.stream, operation.settings
        if settings.shards < 1:
            raise ValueError(f"stream {name} needs at least one shard")
        known = self._streams.get(name) or self._known.stream_settings(name)
        if known is not None and known.shards != settings.shards:
            raise ValueError(f"stream {name} was made with {known.shards} shards; it can't have {settings.shards}")
        is_resharded = known is not None and known.is_resharded
        self._streams[name] = msgspec.structs.replace(settings, is_resharded=is_resharded)

    def _name_stream(self, operation: port.TrimStream) -> None:
        self._stream(operation.stream)

    def _append(self, operation: port.AppendRecords) -> None:
        settings = self._stream(operation.stream)
        shards = settings.shards
        if settings.is_resharded:
            shards = self._check_shards(operation)
        for record in operation.records:
            if not 0 <= record.shard < shards:
                raise ValueError(f"stream {operation.stream} has no shard {record.shard}, only 0-{shards - 1}")
            if len(record.body) > BODY_BYTES_MAX:
                raise ValueError(f"a record is {len(record.body)} bytes long; at most {BODY_BYTES_MAX}")

    def _check_shards(self, operation: port.AppendRecords) -> int:
        """Refuse records for closed shards where that is asked for; return how many shards there are."""
        known = self._known.shards(operation.stream)
        if operation.is_strict:
            for shard in {record.shard for record in operation.records}:
                if 0 <= shard < len(known.lineages) and known.is_closed(shard):
                    raise FencedOut(f"shard {shard} of stream {operation.stream} was split or merged", epoch=0)
        return len(known.lineages)

    def _split(self, operation: port.SplitShard) -> None:
        self._stream(operation.stream)
        self._reshard(operation.stream)
        split_shard(self._known.shards(operation.stream), operation)

    def _merge(self, operation: port.MergeShards) -> None:
        self._stream(operation.stream)
        self._reshard(operation.stream)
        merge_shards(self._known.shards(operation.stream), operation)

    def _reshard(self, stream: str) -> None:
        """Refuse a second change of a stream's shards in one list: it would have to know of the first."""
        if stream in self._resharded:
            raise ValueError(f"stream {stream} is split or merged twice at a time")
        self._resharded.add(stream)

    def _checkpoint(self, mapping: str, shard: str) -> tuple[int, int]:
        return self._progress.get((mapping, shard)) or self._known.progress(mapping, shard)

    def _take(self, operation: port.TakeShard) -> None:
        epoch, position = self._checkpoint(operation.mapping, operation.shard)
        self._progress[operation.mapping, operation.shard] = (epoch + 1, position)

    def _save(self, operation: port.SaveCheckpoint) -> None:
        mapping, shard = operation.mapping, operation.shard
        epoch, position = self._checkpoint(mapping, shard)
        if operation.epoch != epoch or (epoch, position) == NEVER_TAKEN:
            raise FencedOut(
                f"shard {shard} of {mapping} has another owner: epoch {epoch}, not {operation.epoch}", epoch=epoch
            )
        if operation.position < position:
            raise FencedOut(
                f"the checkpoint of shard {shard} of {mapping} stands at {position}; {operation.position} is before it",
                epoch=epoch,
            )
        self._progress[mapping, shard] = (epoch, operation.position)

    def _seek(self, operation: port.SeekCheckpoint) -> None:
        epoch, _ = self._checkpoint(operation.mapping, operation.shard)
        self._progress[operation.mapping, operation.shard] = (epoch + 1, operation.position)


def _check_alike(source: str, settings: QueueSettings, target: str, of_target: QueueSettings) -> None:
    """Refuse to move messages between queues of two types (Lambda semantics §3.2 "DLQ")."""
    if settings.fifo_queue is not of_target.fifo_queue:
        fifo, standard = (source, target) if settings.fifo_queue else (target, source)
        raise ValueError(f"{fifo} is a FIFO queue, and {standard} is not: messages move between queues of one type")


def _size_bytes(headers: tuple[tuple[str, bytes], ...]) -> int:
    """Return what headers count: attributes, with name and value (SQS developer guide, "Message quotas")."""
    return sum([len(name.encode()) + len(value) for name, value in headers])
