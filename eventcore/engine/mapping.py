"""A mapping's life: made, enabled, restarted with back-off when it fails, stopped; it never takes others down.

| error | what happens |
|---|---|
| `SourceUnavailable`, `StoreError`, `InvocationError` | `Problem: why`, then again after a pause that doubles |
| `SourceClosed` | `Stopped`: the source was deleted |
| anything else | a bug of ours or of a connector: logged with its traceback, then as above |
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import anyio
import anyio.abc

from eventcore.delivery.retry import backoff_ms
from eventcore.engine.gate import ALL, Gate
from eventcore.engine.reporter import Reporter
from eventcore.engine.settler import Discarded
from eventcore.engine.status import MappingState, MappingStatus, ParkedRedriven, ShardStatus
from eventcore.engine.supervision import attempt, explain
from eventcore.errors import CommandError, SourceClosed, SourceUnavailable
from eventcore.ids import IdFactory
from eventcore.loop import loop_time

#: The first pause before a failed mapping starts anew, and the longest, seconds.
RESTART_FIRST_S = 1.0
RESTART_MAX_S = 60.0
#: A mapping that ran for so long has recovered: its next failure pauses from the start, seconds.
RECOVERED_S = 60.0


class RunningMapping(Protocol):
    """A stream or queue mapping, connected."""

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Read until drained, or until something fails."""
        ...

    def drain(self) -> None:
        """Take nothing new."""
        ...

    def abort(self) -> None:
        """Kill what runs."""
        ...

    async def shards(self) -> Sequence[ShardStatus]:
        """Return the owned shards; none for a queue."""
        ...

    async def redrive(
        self, shard: str, *, count_max: int, besides: Sequence[str] = (), gives_up_missing: bool = False
    ) -> ParkedRedriven:
        """Give parked records of a shard back to the function."""
        ...

    async def skip(self, shard: str, count: int) -> Sequence[Discarded]:
        """Give up what holds up a shard."""
        ...

    async def seek(self, shard: str, position: int) -> int:
        """Move a shard's position; return where it was."""
        ...

    waits_for: str  #: what has to appear outside before there is anything to read; empty when it is there

    @property
    def running(self) -> int:
        """How many batches are being worked on."""
        ...


class MappingSupervisor:
    """Runs one mapping for as long as the engine runs."""

    def __init__(
        self,
        build: Callable[[], Awaitable[RunningMapping]],
        reporter: Reporter,
        ids: IdFactory,
        gate: Gate,
        *,
        source: str,
        is_enabled: bool,
    ) -> None:
        self._build = build
        self._reporter = reporter
        self._ids = ids
        self.gate = gate
        self._source = source
        self._current: RunningMapping | None = None
        self._stopping = anyio.Event()
        self.state = MappingState.CREATING if is_enabled else MappingState.DISABLED
        self.reason = ""

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the mapping until `drain`; returns when what ran is settled."""
        if self.state is MappingState.DISABLED:
            return
        failures = 0
        while not self._stopping.is_set():
            began_s = loop_time()
            error = await attempt(self._run_once, f"mapping {self._reporter.mapping}")
            if isinstance(error, SourceClosed):
                self._enter(MappingState.STOPPED, str(error))
                return
            if error is not None:
                failures = 1 if loop_time() - began_s > RECOVERED_S else failures + 1
                await self._pause(error, failures)
        self._enter(MappingState.STOPPED)

    def drain(self) -> None:
        """Take nothing new, and end when what runs is settled."""
        self._stopping.set()
        if self._current is not None:
            self._current.drain()

    def abort(self) -> None:
        """Kill what runs, and end."""
        self._stopping.set()
        if self._current is not None:
            self._current.abort()

    async def _run_once(self) -> None:
        self._enter(MappingState.CREATING)
        mapping = await self._build()
        try:
            self._current = mapping
            async with anyio.create_task_group() as tasks:
                await tasks.start(mapping.run)
                self._enter(MappingState.ENABLED, mapping.waits_for)
                if self._stopping.is_set():
                    mapping.drain()
        finally:
            self._current = None

    async def _pause(self, error: Exception, failures: int) -> None:
        self._enter(MappingState.PROBLEM, explain(error))
        pause_s = backoff_ms(failures, self._ids.jitter(), first_s=RESTART_FIRST_S, max_s=RESTART_MAX_S) / 1000
        if isinstance(error, SourceUnavailable) and error.retry_after_s is not None:
            pause_s = max(error.retry_after_s, RESTART_FIRST_S)
        with anyio.move_on_after(pause_s):
            await self._stopping.wait()

    def _enter(self, state: MappingState, reason: str = "") -> None:
        if state is self.state and reason == self.reason:
            return
        # A mapping that is being made again after a failure still has its problem, until it runs.
        if state is MappingState.CREATING and self.state is MappingState.PROBLEM:
            return
        self.state, self.reason = state, reason
        self._reporter.state(state.value, reason)

    # -- what people ask of it -----------------------------------------------------------------------------------------

    async def redrive(
        self, shard: str, *, count_max: int, besides: Sequence[str] = (), gives_up_missing: bool = False
    ) -> ParkedRedriven:
        """Give parked records of a shard back to the function; one bounded step.

        Args:
            shard: its name.
            count_max: records at most.
            besides: names of keys to leave out.
            gives_up_missing: go on without parked records that are not found.

        Raises:
            CommandError: the mapping does not run, has no lanes, or has not the shard.
            SourceError, StoreError: progress could not be written; what ran may run again.
        """
        running = self._run_now()
        return await running.redrive(shard, count_max=count_max, besides=besides, gives_up_missing=gives_up_missing)

    async def skip(self, shard: str, count: int) -> Sequence[Discarded]:
        """Give up the first ``count`` records of the batch that holds up a shard, 0: all of it; return what was.

        Raises:
            CommandError: the mapping does not run, has not the shard, or nothing holds it up.
        """
        return await self._run_now().skip(shard, count)

    async def seek(self, shard: str, position: int) -> int:
        """Move a shard's position; return where it was, -1 when nothing was ever settled.

        Raises:
            CommandError: the mapping does not run, or has not the shard.
            SourceError, StoreError: it may or may not have been moved.
        """
        return await self._run_now().seek(shard, position)

    def _run_now(self) -> RunningMapping:
        if self._current is None or self.state is not MappingState.ENABLED:
            raise CommandError(f"the mapping `{self._reporter.mapping}` does not run: it is {self.state.value}")
        return self._current

    # -- snapshot ------------------------------------------------------------------------------------------------------

    async def status(self) -> MappingStatus:
        """Return a snapshot."""
        current = self._current
        return MappingStatus(
            mapping=self._reporter.mapping,
            source=self._source,
            function=self._reporter.function,
            state=self.state,
            reason=current.waits_for if current is not None and self.state is MappingState.ENABLED else self.reason,
            rate=self._reporter.rate,
            counters=self._reporter.counters.snapshot(),
            last_result=self._reporter.last_result,
            shards=await current.shards() if current is not None and self.state is MappingState.ENABLED else (),
            running=current.running if current is not None else 0,
            pause=self.gate.find(ALL),
            breaker=self.gate.breaker.status() if current is not None and self.gate.breaker is not None else None,
        )
