"""A whole pipeline in virtual time: hours of retries in milliseconds, the same on every run of a seed.

The engine is the real one, on the memory store; functions are real callables that run inline. What happened is there
as plain data. Use it with the virtual loop:

```python
def test_a_poison_order_is_isolated() -> None:
    async def scenario() -> None:
        app = eventcore.App()
        app.stream("orders", shards=1)
        app.mapping("orders", source="stream:orders", function="enrich", starting_position="TRIM_HORIZON", ...)
        app.function("enrich", runtime="inline")(enrich)
        async with open_harness(app) as harness:
            await harness.send("stream:orders", [b'{"id": 1}'], key="a")
            await harness.run_until_idle()
            assert harness.discarded[0].reason == "RetryAttemptsExhausted"

    run_virtual(scenario)
```
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import msgspec

from eventcore.app import open_engine
from eventcore.clock import Clock, LoopClock
from eventcore.config.pipeline import Pipeline
from eventcore.config.reference import parse_reference
from eventcore.config.structs import PipelineConfig
from eventcore.embedded.appending import append_records
from eventcore.embedded.events import event_queue
from eventcore.embedded.resharding import merge_shards, split_shard
from eventcore.embedded.sending import send_messages
from eventcore.engine.engine import Engine
from eventcore.engine.status import REDRIVE_RECORDS_MAX, EngineStatus, MappingState, ParkedRedriven
from eventcore.errors import ProgrammingError
from eventcore.ids import SeededIds
from eventcore.ports.connectors import Connector, OutgoingRecord
from eventcore.ports.runtime import LogLine, Runtime
from eventcore.ports.store import Failure, Store, StoredMessage
from eventcore.runtime.inline import open_inline_runtime
from eventcore.store.memory import open_memory_store
from eventcore.telemetry.events import (
    BatchInvoked,
    BatchRetried,
    BatchSettled,
    EngineEvent,
    EngineEvents,
    RecordsDiscarded,
    RecordsLost,
)
from eventcore.testing.cast import Cast, read_cast
from eventcore.testing.recording import Recording, RecordingRuntime

#: Events that a harness remembers: a scenario that makes more is a benchmark.
EVENTS_MAX = 1_000_000
#: How soon `run_until_idle` looks for the first time, and how rarely at last, seconds of virtual time: a day of
#: retries must not cost a million looks.
LOOK_FIRST_S = 0.05
LOOK_MAX_S = 5.0
#: And how rarely while nothing happens, as in a pause before a retry.
LOOK_QUIET_S = 60.0


class Happened(msgspec.Struct, frozen=True):
    """An event, and when it happened: seconds of virtual time since the harness was opened."""

    at_s: float
    event: EngineEvent


class Harness:
    """A running pipeline in virtual time, and what has happened in it."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        clock: Clock,
        ids: SeededIds,
        config: PipelineConfig,
        connectors: Mapping[str, Connector],
    ) -> None:
        self.engine = engine
        self.store = store
        self.clock = clock
        self.happened: list[Happened] = []
        self.logs: list[LogLine] = []
        self._ids = ids
        self._connectors = connectors
        self._queues = {
            mapping.source.partition(":")[2]
            for mapping in config.mappings.values()
            if mapping.source.startswith("queue:")
        }
        self._queues |= {event_queue(function) for function in config.functions}
        self._start_s = anyio.current_time()
        self._hears = anyio.Event()

    # -- doing ---------------------------------------------------------------------------------------------------------

    async def send(
        self,
        reference: str,
        bodies: Sequence[bytes | str | Any],
        *,
        key: str | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        delay_s: int | None = None,
        deduplication_id: str = "",
    ) -> list[Any]:
        """Send records to a queue, stream or simulated topic; return message ids, or (shard, position) pairs.

        Args:
            reference: `queue:NAME`, `stream:NAME`, or one whose kind has a connector that was given.
            bodies: bytes and text as they are, anything else as JSON.
            key: partition key or message group of all of them.
            headers: of all of them.
            delay_s: queues only: seconds before they show.
            deduplication_id: FIFO queues only: of all of them; empty for that of their content.
        """
        target = parse_reference(reference)
        records = [
            OutgoingRecord(
                body=_body(body),
                key=key.encode() if key is not None else None,
                headers=tuple((name, _body(value)) for name, value in (headers or {}).items()),
            )
            for body in bodies
        ]
        if target.kind == "queue":
            sent = await send_messages(
                self.store,
                target.name,
                records,
                clock=self.clock,
                ids=self._ids,
                delay_s=delay_s,
                deduplication_id=deduplication_id,
            )
            return list(sent)
        if target.kind == "stream":
            return list(await append_records(self.store, target.name, records, clock=self.clock, ids=self._ids))
        if target.kind in self._connectors:
            return list(await self._connectors[target.kind].send(target, None, records))
        raise ProgrammingError(f"the harness sends to queues and streams of the store, not to `{reference}`")

    async def invoke_async(self, function: str, event: Any = None) -> str:
        """Let an event wait for a function, as `eventcore invoke --async` does; return its request id.

        Args:
            function: its name.
            event: bytes as they are, anything else as JSON; `{}` for None.
        """
        value = {} if event is None else event
        return await self.engine.invoke_async(
            function, value if isinstance(value, bytes) else msgspec.json.encode(value)
        )

    async def split(self, stream: str, shard: str, *, at: int | None = None) -> tuple[str, str]:
        """Split a shard of an embedded stream; return the names of its children, the lower one first.

        Args:
            stream: its name.
            shard: its name.
            at: first hash key of the upper child; None for the middle.
        """
        return await split_shard(self.store, stream, shard, at=at)

    async def merge(self, stream: str, shard: str, other: str) -> str:
        """Merge two shards of an embedded stream whose hash keys adjoin; return the name of their child."""
        return await merge_shards(self.store, stream, shard, other)

    async def redrive(self, mapping: str, *, within_s: float = 86_400.0) -> list[ParkedRedriven]:
        """Give what is parked of a mapping with lanes back to its function, as `eventcore mapping redrive` does.

        Returns what became of it, by shard that had something parked.

        Raises:
            CommandError: there is no such mapping, it does not run, or it has no lanes.
            SourceError, StoreError: progress could not be written; what ran may run again.
            TimeoutError: it goes on after ``within_s``.
        """
        status = await self.engine.mapping(mapping).status()
        with anyio.fail_after(within_s):
            return [await self._redrive(mapping, shard.shard) for shard in status.shards if shard.parked]

    async def _redrive(self, mapping: str, shard: str) -> ParkedRedriven:
        total = step = await self.engine.redrive(mapping, shard, count_max=REDRIVE_RECORDS_MAX)
        while not step.is_last:
            step = await self.engine.redrive(mapping, shard, count_max=REDRIVE_RECORDS_MAX, besides=total.besides)
            total = total.plus(step)
        return total

    async def advance(self, seconds: float) -> None:
        """Let virtual time pass."""
        await anyio.sleep(seconds)

    async def run_until_idle(self, *, within_s: float = 86_400.0) -> None:
        """Let virtual time pass until every record is settled or given up, and every result handed over.

        An open tumbling window is not waited for: its records are settled.

        Raises:
            TimeoutError: something is still going on after ``within_s``.
        """
        waits_for = "nothing was looked at"
        with anyio.move_on_after(within_s):
            pause_s, is_quiet = LOOK_FIRST_S, False
            while waits_for := await self._find_work():
                count = len(self.happened)
                if is_quiet and not await self._hands_over():
                    await self._wait_until_something_happens(LOOK_QUIET_S - pause_s)
                await anyio.sleep(pause_s)
                is_quiet = len(self.happened) == count
                pause_s = min(pause_s * 1.5, LOOK_MAX_S)
        if waits_for:
            raise TimeoutError(f"not idle after {within_s:g} s: {waits_for}")

    async def _hands_over(self) -> bool:
        """Whether rows wait for a destination: no event tells when it has taken them."""
        return any(destination.rows for destination in (await self.engine.status()).destinations)

    async def _wait_until_something_happens(self, within_s: float) -> None:
        self._hears = anyio.Event()
        with anyio.move_on_after(within_s):
            await self._hears.wait()

    async def _find_work(self) -> str:
        """Return what is still going on, for people; empty when nothing is."""
        status = await self.engine.status()
        for mapping in status.mappings:
            counters, name = mapping.counters, f"mapping {mapping.mapping}"
            if mapping.state in {MappingState.DISABLED, MappingState.STOPPED}:
                continue
            if mapping.state is not MappingState.ENABLED:
                return f"{name} is in state {mapping.state}: {mapping.reason or 'it begins'}"
            if mapping.running:
                return f"{name} runs {mapping.running} batches"
            if counters is not None and (counters.in_flight or counters.retrying):
                return f"{name} has {counters.in_flight} records in flight and {counters.retrying} to be tried again"
            for shard in mapping.shards:
                if shard.lag > 0:
                    return f"{name} is {shard.lag} records behind in {shard.shard}"
                if shard.blocked is not None:
                    return f"{name} is held up in {shard.shard}: {shard.blocked.error_type}"
        for destination in status.destinations:
            if destination.rows:
                return f"{destination.rows} rows wait for {destination.destination}: {destination.last_error}"
        for depth in await self.store.queue_depths():
            if depth.queue in self._queues and (depth.visible or depth.hidden or depth.delayed):
                return (
                    f"queue {depth.queue} holds {depth.visible} visible, {depth.hidden} hidden and {depth.delayed} "
                    f"delayed messages"
                )
        return ""

    # -- looking -------------------------------------------------------------------------------------------------------

    def events(self, kind: type[EngineEvent]) -> list[Any]:
        """Return what happened of one kind, in order."""
        return [entry.event for entry in self.happened if isinstance(entry.event, kind)]

    def times(self, kind: type[EngineEvent]) -> list[float]:
        """Return when it happened, seconds of virtual time since the harness was opened."""
        return [entry.at_s for entry in self.happened if isinstance(entry.event, kind)]

    @property
    def invocations(self) -> list[BatchInvoked]:
        """Every invocation with a batch, in the order they began."""
        return self.events(BatchInvoked)

    @property
    def settled(self) -> list[BatchSettled]:
        """Every run of records that was settled."""
        return self.events(BatchSettled)

    @property
    def retried(self) -> list[BatchRetried]:
        """Every batch that was put back."""
        return self.events(BatchRetried)

    @property
    def discarded(self) -> list[RecordsDiscarded]:
        """Every run of records that was given up."""
        return self.events(RecordsDiscarded)

    @property
    def lost(self) -> list[RecordsLost]:
        """What sources gave up by themselves: retention, redrive policies."""
        return self.events(RecordsLost)

    async def status(self) -> EngineStatus:
        """Return the engine's snapshot."""
        return await self.engine.status()

    async def messages(self, queue: str) -> list[StoredMessage]:
        """Return a queue's messages in the order they were sent, without receiving them."""
        return list(await self.store.peek(queue, count_max=10_000, now_ms=self.clock.now_ms()))

    async def failures(self) -> list[Failure]:
        """Return kept failures, newest first."""
        return list(await self.store.failures(count_max=10_000))

    def _hear(self, event: EngineEvent) -> None:
        if len(self.happened) >= EVENTS_MAX:
            raise ProgrammingError(f"more than {EVENTS_MAX} events in one scenario")
        self.happened.append(Happened(anyio.current_time() - self._start_s, event))
        self._hears.set()


def _body(body: bytes | str | Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else msgspec.json.encode(body)


@asynccontextmanager
async def open_harness(
    pipeline: Pipeline | Cast | str | os.PathLike[str],
    *,
    seed: int = 0,
    store: Store | None = None,
    connectors: Mapping[str, Connector] | None = None,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    ids: SeededIds | None = None,
    recording: Recording | None = None,
    is_cut: Callable[[], bool] = lambda: False,
    clock: Clock | None = None,
) -> AsyncIterator[Harness]:
    """Run a pipeline in the current loop until the block ends; then it is drained.

    Args:
        pipeline: an `eventcore.App`, a pipeline file or its folder; all of its functions run inline.
        seed: for identifiers and jitter.
        store: keeps the state of an earlier harness, for tests of a restart; None for a new one.
        connectors: simulated systems by kind.
        functions: callables that run in place of the pipeline's own, by the function's name.
        ids: those of an earlier harness on the same store, so that none comes twice; None for new ones of the seed.
        recording: notes what happens, beside the harness itself.
        is_cut: whether a simulated crash has ended this engine; asked by `VirtualPipeline`.
        clock: wall time; that of the loop when None.

    Raises:
        ConfigError: the pipeline has mistakes.
        ProgrammingError: ``functions`` names one that the pipeline does not have; two functions want other values of
            one environment variable.
    """
    cast = pipeline if isinstance(pipeline, Cast) else read_cast(pipeline, functions or {})
    ids = ids if ids is not None else SeededIds(seed)
    try:
        async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:
            stack.enter_context(cast.environment())
            if store is None:
                store = await stack.enter_async_context(open_memory_store())
            run = _run(tasks, cast, ids, store, connectors or {}, recording, is_cut, clock or LoopClock())
            yield await stack.enter_async_context(run)
    except BaseExceptionGroup as group:
        # A test's own assertion must look like one, not like a group that a task group made of it.
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None


@asynccontextmanager
async def _run(
    tasks: anyio.abc.TaskGroup,
    cast: Cast,
    ids: SeededIds,
    store: Store,
    connectors: Mapping[str, Connector],
    recording: Recording | None,
    is_cut: Callable[[], bool],
    clock: Clock,
) -> AsyncIterator[Harness]:
    events = EngineEvents()
    logs: list[LogLine] = recording.logs if recording is not None else []
    async with AsyncExitStack() as stack:
        inline: Runtime = await stack.enter_async_context(open_inline_runtime(clock, ids, logs.extend))
        if recording is not None:
            inline = RecordingRuntime(inline, recording, is_cut)
        engine = await stack.enter_async_context(
            open_engine(
                cast.loaded,
                store=store,
                runtimes={"inline": inline},
                clock=clock,
                ids=ids,
                events=events,
                targets=cast.targets,
                connectors=connectors,
            )
        )
        harness = Harness(engine, store, clock, ids, cast.loaded.config, connectors)
        harness.logs = logs
        events.subscribe(harness._hear)  # noqa: SLF001 - the harness made here is its own friend
        if recording is not None:
            events.subscribe(lambda event: None if is_cut() else recording.hear(event))
        ended = anyio.Event()

        async def run() -> None:
            await engine.run()
            ended.set()

        tasks.start_soon(run)
        yield harness
        engine.drain()
        await ended.wait()
