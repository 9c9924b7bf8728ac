"""The store in memory: for tests, simulations and `dev`. Works in virtual time: no threads, no clock, no waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio.lowlevel

from eventcore.errors import ProgrammingError
from eventcore.ports import keys as key_port
from eventcore.ports import store as port
from eventcore.ports.store import (
    OPERATIONS_MAX,
    Checkpoint,
    Failure,
    Operation,
    OutboxDepth,
    OutboxRow,
    QueueDepth,
    QueueSettings,
    ShardExtent,
    StoreCapabilities,
    StoredMessage,
    StoredRecord,
    StoreStatistics,
    StreamSettings,
    Watch,
)
from eventcore.store.admission import Admission
from eventcore.store.memory.checkpoints import MemoryCheckpoints
from eventcore.store.memory.failures import MemoryFailures
from eventcore.store.memory.keys import MemoryKeys
from eventcore.store.memory.outbox import MemoryOutbox
from eventcore.store.memory.queues import MemoryQueues
from eventcore.store.memory.streams import MemoryStreams
from eventcore.store.memory.tokens import Tokens
from eventcore.store.resharding import Shards
from eventcore.store.watches import Watches


class MemoryStore:
    """A `Store` that forgets everything when it is closed. A commit happens between two turns of the loop."""

    capabilities = StoreCapabilities(is_durable=False)

    def __init__(self) -> None:
        self._watches = Watches()
        self._woken: dict[str, None] = {}
        tokens = Tokens()
        self._queues = MemoryQueues(tokens, self._wake)
        self._streams = MemoryStreams(tokens, self._wake)
        self._checkpoints = MemoryCheckpoints()
        self._outbox = MemoryOutbox(tokens, self._wake)
        self._failures = MemoryFailures()
        self._keys = MemoryKeys()
        self._notes: dict[str, bytes] = {}
        self._admission = Admission(self, self._queues.owns)
        self._handlers = self._operations()
        self._commits = 0
        self._operation_count = 0
        self._is_closed = False

    def _operations(self) -> Mapping[type[Operation], Callable[[Any], Any]]:
        return {
            port.DefineQueue: self._queues.define,
            port.SendMessages: self._queues.send,
            port.ReceiveMessages: self._queues.receive,
            port.DeleteMessages: self._queues.delete,
            port.ChangeVisibility: self._queues.change_visibility,
            port.PurgeQueue: self._queues.purge,
            port.MoveMessages: self._queues.move,
            port.DropMessages: self._queues.drop,
            port.DefineStream: self._streams.define,
            port.AppendRecords: self._streams.append,
            port.TrimStream: self._streams.trim,
            port.SplitShard: self._streams.split,
            port.MergeShards: self._streams.merge,
            port.TakeShard: self._checkpoints.take,
            port.SaveCheckpoint: self._checkpoints.save,
            port.SeekCheckpoint: self._checkpoints.seek,
            port.PutOutbox: self._outbox.put,
            port.MarkSent: self._outbox.mark_sent,
            port.PostponeOutbox: self._outbox.postpone,
            port.KeepFailure: self._failures.keep,
            port.SealFailures: self._failures.seal,
            port.DropFailures: self._failures.drop,
            port.TrimFailures: self._failures.trim,
            port.PutNote: self._put_note,
            key_port.ClaimKeys: self._keys.claim,
            key_port.CompleteKeys: self._keys.complete,
            key_port.ReleaseKeys: self._keys.release,
            key_port.SweepKeys: self._keys.sweep,
        }

    async def commit(self, operations: Sequence[Operation]) -> list[Any]:
        """Carry out operations in order, all or none; see `Store.commit`. Cancelled, nothing is written."""
        if len(operations) > OPERATIONS_MAX:
            raise ValueError(f"a commit holds at most {OPERATIONS_MAX} operations, not {len(operations)}")
        await self._turn()
        self._admission.admit(operations)
        results = [self._handlers[type(operation)](operation) for operation in operations]
        self._commits += 1
        self._operation_count += len(operations)
        self._watches.wake(self._woken)
        self._woken.clear()
        return results

    async def _turn(self) -> None:
        """Let others run first, as any store that really waits would; here a call is cancelled, or not at all."""
        if self._is_closed:
            raise ProgrammingError("the store is closed")
        await anyio.lowlevel.checkpoint()

    def _wake(self, topic: str) -> None:
        self._woken[topic] = None

    def _put_note(self, operation: port.PutNote) -> None:
        self._notes[operation.name] = operation.value

    def close(self) -> None:
        """Refuse everything from here on."""
        self._is_closed = True

    # -- what admission asks -------------------------------------------------------------------------------------------

    def queue_settings(self, queue: str) -> QueueSettings | None:
        """Return a queue's settings; None when it is not defined."""
        return self._queues.settings(queue)

    def stream_settings(self, stream: str) -> StreamSettings | None:
        """Return a stream's settings; None when it is not defined."""
        return self._streams.settings(stream)

    def shards(self, name: str) -> Shards:
        """Return what a stream's shards are; none when it is not defined."""
        return self._streams.shards(name)

    def progress(self, mapping: str, shard: str) -> tuple[int, int]:
        """Return a checkpoint's epoch and position."""
        return self._checkpoints.progress(mapping, shard)

    # -- reads: see `Store` --------------------------------------------------------------------------------------------

    def watch(self, topic: str) -> AbstractAsyncContextManager[Watch]:
        """Watch a topic for commits that may give a reader something to do."""
        return self._watches.open(topic)

    async def queue_depths(self) -> Sequence[QueueDepth]:
        """Return all queues by name."""
        await self._turn()
        return self._queues.depths()

    async def peek(
        self, queue: str, *, count_max: int, after_number: int = 0, now_ms: int = 0
    ) -> Sequence[StoredMessage]:
        """Return messages in the order they were sent, without receiving them."""
        await self._turn()
        return self._queues.peek(queue, count_max=count_max, after_number=after_number, now_ms=now_ms)

    async def streams(self) -> Mapping[str, StreamSettings]:
        """Return all streams by name."""
        await self._turn()
        return self._streams.all_settings()

    async def extents(self, stream: str) -> Sequence[ShardExtent]:
        """Return where each shard begins and ends."""
        await self._turn()
        return self._streams.extents(stream)

    async def read(
        self, stream: str, shard: int, position: int, *, count_max: int, size_bytes_max: int
    ) -> Sequence[StoredRecord]:
        """Return records from a position on, in order, at least one if there is one."""
        await self._turn()
        return self._streams.read(stream, shard, position, count_max=count_max, size_bytes_max=size_bytes_max)

    async def find_position(self, stream: str, shard: int, at_ms: int) -> int:
        """Return the position of the first record that arrived at or after a time."""
        await self._turn()
        return self._streams.find_position(stream, shard, at_ms)

    async def checkpoints(self, mapping: str | None = None) -> Sequence[Checkpoint]:
        """Return checkpoints, of one mapping or of all."""
        await self._turn()
        return self._checkpoints.all(mapping)

    async def due_outbox(self, destination: str, *, now_ms: int, count_max: int) -> Sequence[OutboxRow]:
        """Return a destination's rows that may be handed over now, in order of their number."""
        await self._turn()
        return self._outbox.due(destination, now_ms=now_ms, count_max=count_max)

    async def next_outbox_ms(self, destination: str) -> int:
        """Return when the destination's next row becomes due; 0 when none waits."""
        await self._turn()
        return self._outbox.next_ms(destination)

    async def outbox_depths(self) -> Sequence[OutboxDepth]:
        """Return what waits, by destination."""
        await self._turn()
        return self._outbox.depths()

    async def failures(
        self, *, mapping: str | None = None, count_max: int = 100, before_id: str = ""
    ) -> Sequence[Failure]:
        """Return failures, newest first, without their event and records."""
        await self._turn()
        return self._failures.newest(mapping=mapping, count_max=count_max, before_id=before_id)

    async def failure(self, failure_id: str) -> Failure | None:
        """Return one whole failure by its id or a unique prefix of it."""
        await self._turn()
        return self._failures.find(failure_id)

    async def note(self, name: str) -> bytes | None:
        """Return a small named value."""
        await self._turn()
        return self._notes.get(name)

    def statistics(self) -> StoreStatistics:
        """Return a snapshot."""
        return StoreStatistics(commits=self._commits, operations=self._operation_count, waiting=0)


@asynccontextmanager
async def open_memory_store() -> AsyncIterator[MemoryStore]:
    """Open an empty store in memory; what it holds is gone when the context ends."""
    store = MemoryStore()
    try:
        yield store
    finally:
        store.close()
