"""Embedded queues and streams under test: on the memory store in virtual time, on SQLite in real time."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import anyio

from eventcore.clock import Clock, LoopClock, SystemClock
from eventcore.delivery.ordering import EMPTY, ShardState
from eventcore.embedded.queue import EmbeddedQueue
from eventcore.embedded.ranges import EmbeddedRange
from eventcore.embedded.sharding import shard_index, shard_name
from eventcore.embedded.stream import EmbeddedStream, checkpoint_shard
from eventcore.ids import SeededIds
from eventcore.ports.connectors import StartingPosition
from eventcore.ports.ranges import RangeSource
from eventcore.ports.sources import StreamSource
from eventcore.ports.store import (
    AppendRecords,
    DefineQueue,
    DefineStream,
    NewMessage,
    NewRecord,
    QueueSettings,
    SendMessages,
    Store,
    StreamSettings,
    TrimStream,
)
from eventcore.testing.conformance.queue import QueueRequest

TRIM_HORIZON = StartingPosition("TRIM_HORIZON")
ARN = {"region": "us-east-1", "account_id": "000000000000"}
OpenStore = Callable[[], AbstractAsyncContextManager[Store]]


class AdjustableClock:
    """The system's clock, that a test can set forward."""

    def __init__(self) -> None:
        self._system = SystemClock()
        self._ahead_ms = 0

    def now_ms(self) -> int:
        return self._system.now_ms() + self._ahead_ms

    async def pass_time(self, seconds: float) -> None:
        self._ahead_ms += int(seconds * 1000)


class VirtualClock(LoopClock):
    """The wall clock of a loop in virtual time."""

    async def pass_time(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class Surroundings:
    """A store that can be restarted, and its clock."""

    def __init__(self, open_store: OpenStore, clock: AdjustableClock | VirtualClock) -> None:
        self.clock: Clock = clock
        self.pass_time: Callable[[float], Awaitable[None]] = clock.pass_time
        self.ids = SeededIds(1)
        self.store: Store
        self._open_store = open_store
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        self.store = await self._stack.enter_async_context(self._open_store())

    async def aclose(self) -> None:
        await self._stack.aclose()

    async def restart(self) -> None:
        await self.aclose()
        await self.open()


class EmbeddedQueueUnderTest:
    """One queue of a store."""

    def __init__(self, surroundings: Surroundings, *, is_fifo: bool) -> None:
        self._around = surroundings
        self._is_fifo = is_fifo
        self.pass_time = surroundings.pass_time
        self.source = self._source()

    def _source(self) -> EmbeddedQueue:
        around = self._around
        return EmbeddedQueue("tested", store=around.store, clock=around.clock, is_fifo=self._is_fifo, **ARN)

    async def send(
        self,
        bodies: Sequence[bytes],
        *,
        delay_s: int | None = None,
        headers: tuple[tuple[str, bytes], ...] = (),
        group: str = "",
    ) -> Sequence[str]:
        messages = tuple(
            NewMessage(id=self._around.ids.new_id(), body=body, headers=headers, group=group, delay_s=delay_s)
            for body in bodies
        )
        now_ms = self._around.clock.now_ms()
        (ids,) = await self._around.store.commit([SendMessages(queue="tested", messages=messages, now_ms=now_ms)])
        return ids

    async def dead_letters(self) -> Sequence[str]:
        return [message.id for message in await self._around.store.peek("dead", count_max=100)]

    async def restart(self) -> None:
        await self.source.aclose()
        await self._around.restart()
        self.source = self._source()


@asynccontextmanager
async def open_queue(
    open_store: OpenStore, clock: AdjustableClock | VirtualClock, request: QueueRequest
) -> AsyncIterator[EmbeddedQueueUnderTest]:
    around = Surroundings(open_store, clock)
    await around.open()
    try:
        settings = QueueSettings(
            visibility_timeout=request.visibility_timeout_s,
            message_retention_period=request.message_retention_period_s,
            dead_letter_queue="dead" if request.max_receive_count else "",
            max_receive_count=request.max_receive_count,
            fifo_queue=request.is_fifo,
            content_based_deduplication=request.is_fifo,
        )
        dead = QueueSettings(fifo_queue=request.is_fifo)
        await around.store.commit(
            [DefineQueue(queue="dead", settings=dead), DefineQueue(queue="tested", settings=settings)]
        )
        yield EmbeddedQueueUnderTest(around, is_fifo=request.is_fifo)
    finally:
        await around.aclose()


class EmbeddedStreamUnderTest:
    """One stream of a store."""

    shards = [shard_name(index) for index in range(3)]

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings

    def source(self, *, mapping: str = "first", starting_position: StartingPosition = TRIM_HORIZON) -> StreamSource:
        return self._stream("tested", mapping, starting_position)

    def missing_source(self) -> tuple[StreamSource, Sequence[str]]:
        return self._stream("missing", "first", TRIM_HORIZON), ["missing"]

    def _stream(self, name: str, mapping: str, starting_position: StartingPosition) -> EmbeddedStream:
        return EmbeddedStream(
            name,
            store=self._around.store,
            mapping=mapping,
            starting_position=starting_position,
            **ARN,
        )

    def range_source(self) -> RangeSource:
        return EmbeddedRange("tested", store=self._around.store, **ARN)

    def missing_range(self) -> tuple[RangeSource, Sequence[str]]:
        return EmbeddedRange("missing", store=self._around.store, **ARN), ["missing"]

    async def send(
        self,
        shard: str,
        bodies: Sequence[bytes],
        *,
        key: bytes | None = None,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> Sequence[int]:
        records = tuple(NewRecord(shard=shard_index(shard), body=body, key=key, headers=headers) for body in bodies)
        now_ms = self._around.clock.now_ms()
        (positions,) = await self._around.store.commit([AppendRecords(stream="tested", records=records, now_ms=now_ms)])
        return positions

    async def checkpoint(self, shard: str, *, mapping: str = "first") -> tuple[int, ShardState]:
        for checkpoint in await self._around.store.checkpoints(mapping):
            if checkpoint.shard == checkpoint_shard("tested", shard):
                return checkpoint.position, checkpoint.state
        return -1, EMPTY

    async def pass_time(self, ms: int) -> None:
        await self._around.pass_time(ms / 1000)

    async def trim(self, shard: str, before: int) -> None:
        # What the test wants gone is made old: retention takes records by their age.
        kept = await self._around.store.read("tested", shard_index(shard), 0, count_max=1000, size_bytes_max=10**9)
        count = sum(1 for record in kept if record.position < before)
        before_ms = self._around.clock.now_ms() + 1
        await self._around.store.commit([TrimStream(stream="tested", before_ms=before_ms, count_max=count)])

    async def restart(self) -> None:
        await self._around.restart()


@asynccontextmanager
async def open_stream(
    open_store: OpenStore, clock: AdjustableClock | VirtualClock
) -> AsyncIterator[EmbeddedStreamUnderTest]:
    around = Surroundings(open_store, clock)
    await around.open()
    try:
        settings = StreamSettings(shards=len(EmbeddedStreamUnderTest.shards))
        await around.store.commit([DefineStream(stream="tested", settings=settings)])
        yield EmbeddedStreamUnderTest(around)
    finally:
        await around.aclose()
