"""A pipeline in virtual time, driven by an ordinary test function: no `async`, no waiting, no server.

```python
with open_pipeline("eventcore.toml") as pipeline:
    pipeline.send("stream:orders", [{"id": "1", "quantity": -1}], key="ada")
    pipeline.run_until_idle()
    assert pipeline.discards[0].reason == "RetryAttemptsExhausted"
```

The engine is the real one, on the memory store; functions run inline; time stands still between two calls.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from eventcore.clock import LoopClock
from eventcore.config.load import LoadedConfig
from eventcore.config.pipeline import Pipeline
from eventcore.config.reference import parse_reference
from eventcore.embedded.sharding import shard_name
from eventcore.engine.status import EngineStatus, ParkedRedriven
from eventcore.errors import ProgrammingError
from eventcore.ids import SeededIds
from eventcore.model import Outcome
from eventcore.ports.connectors import ConnectorContext
from eventcore.ports.store import Failure
from eventcore.store.memory import MemoryStore
from eventcore.testing.cast import read_cast
from eventcore.testing.faults import Faults, Fence, FencedStore, SkewedClock
from eventcore.testing.harness import open_harness
from eventcore.testing.recording import Delivered, Discarded, Invoked, Recording, Retried, Settled
from eventcore.testing.simulated import SimulatedConnector
from eventcore.testing.simulated_system import SimulatedSystem
from eventcore.testing.virtual_loop import VirtualTimeLoop

T = TypeVar("T")

#: Messages, records and failures that one look returns.
LOOK_MAX = 10_000
#: Bytes of the records that one look returns.
LOOK_BYTES_MAX = 256 * 1024 * 1024
#: Turns of the loop that cancelled tasks of a crashed engine get to end.
CLEAN_UP_TURNS_MAX = 1_000


class VirtualPipeline:
    """A running pipeline, and what has happened in it. Made by `open_pipeline`, or by the fixture `eventcore_pipeline`.

    Times are seconds of virtual time since it was opened. Everything that happened is a list of plain structs, oldest
    first.
    """

    def __init__(
        self,
        pipeline: Pipeline | LoadedConfig | str | os.PathLike[str],
        *,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        shards: Mapping[str, int] | None = None,
        seed: int = 0,
        faults: Faults | None = None,
    ) -> None:
        """Start a pipeline; see `open_pipeline`."""
        self._faults = faults or Faults()
        self._clock = SkewedClock(self._faults)
        self._cast = read_cast(pipeline, functions or {})
        self.seed = seed  #: of this run: the same gives the same
        self._ids = SeededIds(seed)
        self._store = MemoryStore()
        self._recording = Recording()
        context = ConnectorContext(
            clock=self._clock,
            ids=self._ids,
            region=self._cast.loaded.config.settings.region,
            account_id=self._cast.loaded.config.settings.account_id,
        )
        self._systems = {
            kind: SimulatedSystem(kind, shards=shards or {}, context=context, faults=self._faults)
            for kind in ("kafka", "http", "stdout", "bucket")
        }
        self._is_closed = False
        self._start(0.0)

    # -- doing ---------------------------------------------------------------------------------------------------------

    def send(
        self,
        reference: str,
        bodies: Sequence[Any],
        *,
        key: str | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        delay_s: int | None = None,
        deduplication_id: str = "",
    ) -> list[Any]:
        """Send records; return message ids of a queue, else where each went, as (shard, position).

        Args:
            reference: `queue:NAME`, `stream:NAME` or `kafka:CONNECTION/TOPIC`.
            bodies: bytes and text as they are, anything else as JSON.
            key: partition key of all of them; for a queue their message group, of a standard one the tenant.
            headers: of all of them.
            delay_s: queues only: seconds before they show.
            deduplication_id: FIFO queues only: of all of them; empty for that of their content.
        """
        send = self._harness.send(
            reference, bodies, key=key, headers=headers, delay_s=delay_s, deduplication_id=deduplication_id
        )
        return self.run(send)

    def invoke(self, function: str, event: Any) -> Outcome:
        """Run a function once with an event, as `eventcore invoke` does.

        Raises:
            Throttled: all of its environments are busy.
        """
        return self.run(self._harness.engine.invoke(function, event))

    def invoke_async(self, function: str, event: Any = None) -> str:
        """Let an event wait for a function, as `eventcore invoke --async` does; return its request id.

        Args:
            function: its name.
            event: bytes as they are, anything else as JSON; `{}` for None.
        """
        return self.run(self._harness.invoke_async(function, event))

    def split(self, stream: str, shard: str, *, at: int | None = None) -> tuple[str, str]:
        """Split a shard of an embedded stream; return the names of its children, the lower one first.

        Args:
            stream: its name.
            shard: its name.
            at: first hash key of the upper child; None for the middle.
        """
        return self.run(self._harness.split(stream, shard, at=at))

    def merge(self, stream: str, shard: str, other: str) -> str:
        """Merge two shards of an embedded stream whose hash keys adjoin; return the name of their child."""
        return self.run(self._harness.merge(stream, shard, other))

    def redrive(self, mapping: str, *, within_s: float = 86_400.0) -> list[ParkedRedriven]:
        """Give what is parked of a mapping with lanes back to its function, as `eventcore mapping redrive` does.

        Returns what became of it, by shard that had something parked: how many records succeeded, which keys failed
        again and stay parked.

        Raises:
            CommandError: there is no such mapping, it does not run, or it has no lanes.
            SourceError, StoreError: progress could not be written; what ran may run again.
            TimeoutError: it goes on after ``within_s``.
        """
        return self.run(self._harness.redrive(mapping, within_s=within_s))

    def advance(self, seconds: float) -> None:
        """Let virtual time pass, and what is due in it happen."""
        self.run(anyio.sleep(seconds))

    def run_until_idle(self, *, within_s: float = 86_400.0) -> None:
        """Let virtual time pass until every record is settled or given up, and every destination has its own.

        An open tumbling window is not waited for: its records are settled.

        Raises:
            TimeoutError: something is still going on after ``within_s``; the message says what.
        """
        self.run(self._harness.run_until_idle(within_s=within_s))

    def take_down(self, reference: str, *, seconds: float) -> None:
        """Let a system outside refuse everything for a while.

        Args:
            reference: `http:NAME`, `bucket:NAME`, `kafka:CONNECTION/TOPIC` or `stdout`.
            seconds: of virtual time.
        """
        system = self._systems.get(parse_reference(reference).kind)
        if system is None:
            raise ProgrammingError(f"`{reference}` is no system outside: what the store has can't be away")

        async def take_down() -> None:
            system.take_down(reference, seconds)

        self.run(take_down())

    def rebalance(self, mapping: str, *, is_lost: bool = False) -> None:
        """Take a mapping's Kafka partitions away and give them back; ``is_lost``: without letting it finish."""
        source = next(
            (each for each in self._systems["kafka"].sources if each.mapping == mapping and not each.is_stale), None
        )
        if source is None:
            raise ProgrammingError(f"the mapping `{mapping}` reads no simulated topic now")

        async def rebalance() -> None:
            await (source.lose() if is_lost else source.revoke())
            if source in self._systems["kafka"].sources:
                await source.take()

        self.run(rebalance())

    def restart(
        self,
        pipeline: Pipeline | LoadedConfig | str | os.PathLike[str] | None = None,
        *,
        functions: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        """Drain the engine and start another one on the same state: a deployment.

        Args:
            pipeline: a changed one; None for the same, with the functions that it had.
            functions: callables that run in place of the changed pipeline's own.

        Raises:
            ConfigError: the changed pipeline has mistakes; the engine before goes on.
        """
        cast = self._cast if pipeline is None else read_cast(pipeline, functions or {})
        at_s = self._stop()
        self._cast = cast
        self._start(at_s)

    def crash(self) -> None:
        """Kill the engine where it is, as SIGKILL would, and start another one on the same state.

        Nothing of what ran reaches the store, a source or a destination any more.
        """
        self._fence.is_cut = True
        at_s = self._loop.time()
        self._end_loop()
        self._start(at_s)

    def take_over(self, *, seconds: float) -> None:
        """Start another engine on the same state while this one goes on: others took a pause of it for its death.

        Args:
            seconds: how long the one before goes on, until it is killed.
        """
        before, fence = self._host, self._fence
        fence.is_stale = True
        self._begin()
        self.run(anyio.sleep(seconds))
        fence.is_cut = True
        before.cancel()
        self.run(_ended(before))

    def close(self) -> None:
        """Drain the engine and stop. Idempotent.

        Raises:
            Exception: what ended the engine, unless an earlier call has raised it.
        """
        if not self._is_closed:
            self._is_closed = True
            try:
                self._stop()
            finally:
                self._store.close()

    def abandon(self) -> None:
        """Stop at once, without a drain: for a test that has failed already. Idempotent."""
        self._is_closed = True
        self._fence.is_cut = True
        if not self._loop.is_closed():
            self._end_loop()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the pipeline's loop to its end, for what has no method here.

        Raises:
            Deadlock: it waits for what can't happen.
        """
        if self._loop.is_closed():
            coroutine.close()
            raise ProgrammingError("the pipeline is closed")
        task = self._loop.create_task(coroutine)
        self._loop.run_until_complete(asyncio.wait({task, self._host}, return_when=asyncio.FIRST_COMPLETED))
        if task.done():
            return task.result()
        error = self._host.exception()
        self._end_loop()
        raise error if error is not None else ProgrammingError("the engine has stopped")

    # -- looking -------------------------------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        """How much virtual time has passed, seconds."""
        return self._loop.time()

    @property
    def invocations(self) -> list[Invoked]:
        """Every invocation, in the order they began."""
        return self._recording.invocations

    @property
    def settlements(self) -> list[Settled]:
        """Every run of records that was processed."""
        return self._recording.settlements

    @property
    def retries(self) -> list[Retried]:
        """Every batch that failed and was put back."""
        return self._recording.retries

    @property
    def discards(self) -> list[Discarded]:
        """Every run of records that was given up, by the engine or by its source."""
        return self._recording.discards

    @property
    def logs(self) -> list[str]:
        """What functions logged."""
        return [line.text for line in self._recording.logs]

    @property
    def failures(self) -> list[Failure]:
        """The failures that are kept now, oldest first."""
        return self.run(self._harness.failures())[::-1]

    @property
    def status(self) -> EngineStatus:
        """The engine's snapshot, as `eventcore status` shows it."""
        return self.run(self._harness.status())

    def delivered_to(self, reference: str) -> list[Delivered]:
        """Return what a destination has: a queue's messages as they wait, a stream's or topic's records, what was sent.

        Args:
            reference: of any queue, stream, topic or destination of the pipeline.
        """
        target = parse_reference(reference)
        if target.kind == "queue":
            return self.run(self._messages(target.name))
        if target.kind == "stream":
            return self.run(self._records(target.name))
        if target.kind == "kafka":
            shards = self._systems["kafka"].logs(target)
            return [
                Delivered(
                    body=record.body or b"",
                    key=(record.key or b"").decode(errors="replace"),
                    headers=_read_headers(record.headers),
                    at_s=(record.arrived_ms - LoopClock.START_MS) / 1000,
                )
                for _, log in sorted(shards.items())
                for record in log
            ]
        if target.kind in self._systems:
            return list(self._systems[target.kind].delivered.get(reference, ()))
        raise ProgrammingError(f"look at `pipeline.invocations` for what `{reference}` was given")

    def timeline(self) -> str:
        """Return what happened, a line each, for people."""
        return self._recording.timeline()

    async def _messages(self, queue: str) -> list[Delivered]:
        return [
            Delivered(
                body=message.body,
                key=message.group,
                headers=_read_headers(message.headers),
                at_s=(message.sent_ms - LoopClock.START_MS) / 1000,
            )
            for message in await self._harness.messages(queue)
        ]

    async def _records(self, stream: str) -> list[Delivered]:
        found = []
        for extent in await self._store.extents(stream):
            records = await self._store.read(
                stream, extent.shard, extent.first, count_max=LOOK_MAX, size_bytes_max=LOOK_BYTES_MAX
            )
            found += [
                Delivered(
                    body=record.body,
                    key=(record.key or b"").decode(errors="replace"),
                    headers=_read_headers(record.headers) | {"shard": shard_name(extent.shard)},
                    at_s=(record.arrived_ms - LoopClock.START_MS) / 1000,
                )
                for record in records
            ]
        return found

    # -- life ----------------------------------------------------------------------------------------------------------

    def _start(self, at_s: float) -> None:
        self._loop = VirtualTimeLoop(self.seed, at_s)
        self._begin()

    def _begin(self) -> None:
        """Start an engine in the loop, beside any that is there."""
        self._fence = Fence()
        self._stopping = asyncio.Event()
        started = asyncio.Event()
        # A task of its own, not of a group: between two calls of the test nobody waits for it; `run` and `_stop` do.
        self._host = self._loop.create_task(self._serve(started))
        self.run(_wait(started))

    async def _serve(self, started: asyncio.Event) -> None:
        fence = self._fence
        async with open_harness(
            self._cast,
            store=FencedStore(self._store, self._faults, fence),
            connectors={kind: SimulatedConnector(system, fence) for kind, system in self._systems.items()},
            ids=self._ids,
            recording=self._recording,
            is_cut=lambda: fence.is_cut,
            clock=self._clock,
        ) as self._harness:
            started.set()
            await self._stopping.wait()

    def _stop(self) -> float:
        """Drain the engine; return when that was."""
        if self._loop.is_closed():
            return self._loop.time()
        self._stopping.set()
        try:
            self._loop.run_until_complete(self._host)
        finally:
            at_s = self._loop.time()
            self._end_loop()
        return at_s

    def _end_loop(self) -> None:
        """End what is left in the loop, and the loop."""
        for _ in range(CLEAN_UP_TURNS_MAX):
            # A task that is cancelled before its first step leaves a coroutine that nobody has awaited.
            self._loop.run_until_complete(anyio.lowlevel.checkpoint())
            tasks = asyncio.all_tasks(self._loop)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            ended, _ = self._loop.run_until_complete(asyncio.wait(tasks))
            for task in ended:
                # Asked for, so that nobody is told of an error that comes after the end.
                task.cancelled() or task.exception()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


async def _ended(host: asyncio.Task[None]) -> None:
    await asyncio.wait({host})
    # Asked for, so that nobody is told of an error of an engine that was killed.
    host.cancelled() or host.exception()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def _read_headers(headers: Sequence[tuple[str, bytes]]) -> dict[str, str]:
    return {name: value.decode(errors="replace") for name, value in headers}


@contextmanager
def open_pipeline(
    pipeline: Pipeline | LoadedConfig | str | os.PathLike[str],
    *,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    shards: Mapping[str, int] | None = None,
    seed: int = 0,
    faults: Faults | None = None,
) -> Iterator[VirtualPipeline]:
    """Run a pipeline in virtual time until the block ends; then it is drained.

    Args:
        pipeline: an `eventcore.App`, a pipeline file, or the folder that holds an `eventcore.toml`.
        functions: callables that run in place of the pipeline's own, by the function's name: any form of a handler, or
            a `Scripted`. All functions run inline, whatever their `runtime`.
        shards: partitions of simulated topics, by reference; one where nothing is said.
        seed: of identifiers, jitter and the order of what happens at the same instant. Equal seeds, equal runs.
        faults: what goes wrong outside of the engine; nothing when None.

    Raises:
        ConfigError: the pipeline has mistakes.
        ProgrammingError: ``functions`` names one that the pipeline does not have.
    """
    running = VirtualPipeline(pipeline, functions=functions, shards=shards, seed=seed, faults=faults)
    try:
        yield running
    except BaseException:
        running.abandon()
        raise
    running.close()
