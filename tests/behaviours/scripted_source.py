"""A system outside of the store, scripted: a stream whose shards come and go, and a store that is slow or away.

The engine is the real one. What a test scripts is what a broker, a service or a disk may do at any moment; what the
system keeps (checkpoints, failing work) outlives the sources that are opened on it, as a broker's does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel

import eventcore
from eventcore.config.reference import Reference
from eventcore.delivery.ordering import EMPTY, ShardState
from eventcore.embedded.shapes import KinesisShape
from eventcore.errors import ProgrammingError, ShardLost
from eventcore.model import Record
from eventcore.ports.connectors import ConnectorContext, OutgoingRecord, StreamRequest
from eventcore.ports.destinations import Destination
from eventcore.ports.ranges import RangeSource
from eventcore.ports.sources import (
    LostRange,
    ResultRecord,
    ShardLag,
    ShardListener,
    ShardRecords,
    StreamCapabilities,
    TakenShard,
)
from eventcore.ports.store import Operation, OutboxRow, Store
from eventcore.store.memory import open_memory_store
from eventcore.telemetry.counters import CountersSnapshot
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual

#: What a shard holds: records, and ranges that were dropped unread.
Log = list[Record | LostRange]


class Settled(NamedTuple):
    """One call of `StreamSource.settle`."""

    shard: str
    checkpoint: int
    state: ShardState


async def _nothing() -> None:
    """What a hook does unless a test scripts it."""


async def _take_it(settled: Settled) -> None:
    """Accept a checkpoint."""


def record(position: int, *, size_bytes: int = 10) -> Record:
    return Record(position=position, body=str(position).encode(), size_bytes=size_bytes)


class ScriptedStream:
    """A connector of kind `kafka`: its shards, what it keeps of them, and hooks that may wait or raise."""

    kind = "kafka"

    def __init__(
        self, shards: Mapping[str, Log], *, is_settle_durable: bool = False, receive_max: int = 10_000
    ) -> None:
        self.shards = dict(shards)
        self.is_settle_durable = is_settle_durable
        self.kept: dict[str, tuple[int, ShardState]] = {}  #: by shard: checkpoint and failing work
        self.receive_max = receive_max
        self.settled: list[Settled] = []  #: every call, also those that a hook refused
        self.opened_count = 0
        self.epoch = 0
        self.on_open: Callable[[], Awaitable[None]] = _nothing
        self.on_receive: Callable[[], Awaitable[None]] = _nothing
        self.on_lag: Callable[[], Awaitable[None]] = _nothing
        self.on_close: Callable[[], Awaitable[None]] = _nothing
        self.on_write_behind: Callable[[], Awaitable[None]] = anyio.sleep_forever
        self.is_written_behind = False  #: somebody runs `write_behind` now
        self.on_settle: Callable[[Settled], Awaitable[None]] = _take_it
        self.on_seek: Callable[[], Awaitable[None]] = _nothing
        self.source: ScriptedSource

    # -- what the group's coordinator does -----------------------------------------------------------------------------

    async def revoke(self) -> float:
        """Take every shard away in an orderly way; return how long the engine needed, seconds."""
        began_s = anyio.current_time()
        await self.source.listener.on_revoked(list(self.shards))
        self.source.owned.clear()
        return anyio.current_time() - began_s

    async def lose(self) -> None:
        """Take every shard away at once."""
        self.source.owned.clear()
        await self.source.listener.on_lost(list(self.shards))

    # -- the connector port --------------------------------------------------------------------------------------------

    def open_stream(self, request: StreamRequest) -> ScriptedSource:
        self.opened_count += 1
        self.source = ScriptedSource(self)
        return self.source

    def open_range(self, reference: Reference, connection: Any) -> RangeSource:
        raise ProgrammingError("a scripted stream is read by its mapping alone")

    def open_destination(self, reference: Reference, connection: Any, context: ConnectorContext) -> Destination:
        raise ProgrammingError("a scripted stream is no destination")

    async def send(
        self, reference: Reference, connection: Any, records: Sequence[OutgoingRecord]
    ) -> Sequence[tuple[str, int]]:
        raise ProgrammingError("a scripted stream is written by its test")

    async def check(self, reference: Reference, connection: Any) -> str:
        return "scripted"


class ScriptedSource:
    """One connection to a `ScriptedStream`."""

    def __init__(self, stream: ScriptedStream) -> None:
        self._stream = stream
        self.waits_for = ""
        self.capabilities = StreamCapabilities(
            is_settle_durable=stream.is_settle_durable, has_rebalance=True, takes_results=True
        )
        self.shape = KinesisShape("arn:aws:kinesis:us-east-1:000000000000:stream/scripted")
        self.listener: ShardListener
        self.owned: dict[str, int] = {}  #: by shard: index of what comes next in its log
        self.paused: set[str] = set()
        self._changed = anyio.Event()

    async def open(self, listener: ShardListener) -> None:
        self.listener = listener
        await self._stream.on_open()
        await self.take()

    async def take(self) -> None:
        """Become the owner of every shard, at its checkpoint."""
        self._stream.epoch += 1
        taken = []
        for shard, log in self._stream.shards.items():
            checkpoint, state = self._stream.kept.get(shard, (0, EMPTY))
            self.owned[shard] = sum(_end(entry) < checkpoint for entry in log)
            taken.append(TakenShard(shard=shard, epoch=self._stream.epoch, checkpoint=checkpoint, state=state))
        self.paused.clear()
        await self.listener.on_taken(taken)
        self.wake()

    def wake(self) -> None:
        """Let a waiting `receive` look again."""
        self._changed.set()

    async def receive(self, *, wait_s: float) -> Sequence[ShardRecords]:
        await anyio.lowlevel.checkpoint()
        await self._stream.on_receive()
        found = [entry for shard in self.owned if shard not in self.paused and (entry := self._next(shard))]
        if not found:
            self._changed = anyio.Event()
            with anyio.move_on_after(wait_s):
                await self._changed.wait()
        return found

    def _next(self, shard: str) -> ShardRecords | None:
        """Return what the shard holds up to the next lost range; a range comes with what is behind it."""
        log, records = self._stream.shards[shard], list[Record]()
        lost: LostRange | None = None
        for entry in log[self.owned[shard] :]:
            if len(records) >= self._stream.receive_max:
                break
            if isinstance(entry, Record):
                records.append(entry)
            elif records or lost is not None:
                break
            else:
                lost = entry
            self.owned[shard] += 1
        return ShardRecords(shard, records, lost) if records or lost is not None else None

    async def write_behind(self) -> None:
        """Note that it runs; what is settled is kept all the same."""
        if self.capabilities.is_settle_durable:
            return
        self._stream.is_written_behind = True
        try:
            await self._stream.on_write_behind()
        finally:
            self._stream.is_written_behind = False

    def pause(self, shard: str) -> None:
        self.paused.add(shard)

    def resume(self, shard: str) -> None:
        self.paused.discard(shard)
        self.wake()

    async def settle(self, shard: str, epoch: int, checkpoint: int, state: ShardState, *, is_urgent: bool) -> None:
        settled = Settled(shard, checkpoint, state)
        self._stream.settled.append(settled)
        await self._stream.on_settle(settled)
        self._stream.kept[shard] = (checkpoint, state)

    async def produce(self, shard: str, epoch: int, results: Sequence[ResultRecord]) -> None:
        """Take results, and drop them."""

    async def seek(self, shard: str, position: int, state: ShardState) -> TakenShard:
        epoch = self._stream.epoch
        await self._stream.on_seek()
        if shard not in self.owned or self._stream.epoch != epoch:
            raise ShardLost(source="scripted", shard=shard)
        self._stream.kept[shard] = (position, state)
        self.owned[shard] = sum(_end(entry) < position for entry in self._stream.shards[shard])
        self.paused.discard(shard)
        self.wake()
        return TakenShard(shard=shard, epoch=epoch, checkpoint=position, state=state)

    async def lag(self) -> Sequence[ShardLag]:
        await self._stream.on_lag()
        return []

    async def aclose(self) -> None:
        await self._stream.on_close()
        self.owned.clear()


def _end(entry: Record | LostRange) -> int:
    return entry.position if isinstance(entry, Record) else entry.last


class ScriptedDestination:
    """A connector of kind `http`, and its one destination: a test's function takes rows or raises."""

    kind = "http"

    def __init__(self, take: Callable[[Sequence[OutboxRow]], Awaitable[None]]) -> None:
        self.reference = "http:sink"
        self.calls: list[str] = []  #: the lane of each hand-over
        self._take = take

    def open_destination(self, reference: Any, connection: Any, context: Any) -> ScriptedDestination:
        return self

    async def open(self) -> None:
        return None

    async def deliver(self, rows: Sequence[OutboxRow]) -> None:
        self.calls.append(rows[0].lane)
        await self._take(rows)

    async def aclose(self) -> None:
        return None


class ScriptedStore:
    """A store whose commits pass through a function of the test's: it may wait before or after them, or raise."""

    def __init__(self, store: Store, commit: Callable[[Store, Sequence[Operation]], Awaitable[list[Any]]]) -> None:
        self._store = store
        self._commit = commit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, operations: Sequence[Operation]) -> list[Any]:
        return await self._commit(self._store, operations)


def scripted_app(
    handler: Callable[..., Any],
    *,
    timeout: int = 3,
    concurrency: int | None = None,
    sink: Callable[..., Any] | None = None,
    **mapping: Any,
) -> eventcore.App:
    """A mapping from a `ScriptedStream`; it discards into the function `sink` when there is one, else into a queue."""
    app = eventcore.App()
    app.kafka("local", bootstrap_servers="127.0.0.1:9")
    app.queue("failed")
    limit: dict[str, Any] = {} if concurrency is None else {"concurrency": concurrency}
    app.function("work", runtime="inline", timeout=timeout, **limit)(handler)
    if sink is not None:
        app.function("sink", runtime="inline")(sink)
    settings = {
        "starting_position": "TRIM_HORIZON",
        "on_failure": "queue:failed" if sink is None else "function:sink",
        "maximum_batching_window_in_seconds": 0,
        **mapping,
    }
    app.mapping("orders", source="kafka:local/orders", function="work", **settings)
    return app


def play_scripted(
    app: eventcore.App,
    scenario: Callable[[Harness], Awaitable[None]],
    *connectors: Any,
    commit: Callable[[Store, Sequence[Operation]], Awaitable[list[Any]]] | None = None,
) -> Harness:
    """Run a scenario in virtual time against scripted systems, and against a scripted store when there is one."""

    async def run() -> Harness:
        async with open_memory_store() as memory:
            store: Any = memory if commit is None else ScriptedStore(memory, commit)
            async with open_harness(app, store=store, connectors={made.kind: made for made in connectors}) as harness:
                await scenario(harness)
            return harness

    return run_virtual(run)


async def books(harness: Harness) -> CountersSnapshot:
    """The counters of the mapping, which must balance."""
    (mapping,) = (await harness.status()).mappings
    assert mapping.counters is not None
    assert mapping.counters.is_balanced, mapping.counters
    return mapping.counters
