"""Runs a pipeline in this process: engine, control socket, signals. What `run`, `dev` and the demo share."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, redirect_stdout
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread

from eventcore.app import RunOptions, run_pipeline, tune_collector
from eventcore.cli.output import GuardedWriter, Output, show_count
from eventcore.cli.place import ReadPipeline
from eventcore.cli.reach import LOCK_LOOKS, LOCK_PAUSE_S
from eventcore.engine.engine import Engine
from eventcore.errors import StateInUse
from eventcore.http.client import ControlClient
from eventcore.http.code import StartedCode
from eventcore.http.control import Control, serve_control
from eventcore.http.functions import FunctionRunner, OneTimeRunner
from eventcore.http.operations import Operations
from eventcore.http.refusals import ExitCode
from eventcore.telemetry.events import BatchBisected, BatchRetried, EngineEvent, EngineEvents, RecordsDiscarded
from eventcore.telemetry.logs import FunctionLogs

LOGS_FOLDER = "logs"
#: Between two readings of the code of functions that fail, seconds: it takes up to a tenth of one.
LOOK_AT_CODE_EVERY_S = 2.0


@asynccontextmanager
async def open_running(
    pipeline: ReadPipeline, state: Path, events: EngineEvents, logs: FunctionLogs
) -> AsyncIterator[tuple[Engine, Control, StartedCode]]:
    """Give an engine that is ready to run, its control server, and what its functions' code was when it started.

    Args:
        pipeline: read and checked.
        state: the state folder.
        events: hears what happens.
        logs: takes what functions write.

    Raises:
        StateInUse: another engine runs on the state folder.
        StoreError: the state can't be used; nothing was changed.
        ConfigError, ConnectorUnavailable: the pipeline can't be assembled.
        CommandError: no control socket can be made.
    """
    async with AsyncExitStack() as stack:
        engine = await _open_engine(stack, pipeline, state, events, logs)
        clock, ids = engine.clock, engine.ids
        runner = FunctionRunner(engine.registry, logs.subscribe)
        # A file that changes while this reads is found changed later: better a note too many.
        started_code = StartedCode({entry.spec.name: entry.spec.code for entry in engine.registry})
        operations = Operations(
            pipeline.loaded,
            engine.store,
            clock=clock,
            ids=ids,
            runner=runner,
            retry_runner=OneTimeRunner(pipeline.loaded, pipeline.targets, clock=clock, ids=ids, inline=runner),
            engine=engine,
            started_code=started_code,
        )
        async with serve_control(operations, state) as control:
            yield engine, control, started_code


async def _open_engine(
    stack: AsyncExitStack, pipeline: ReadPipeline, state: Path, events: EngineEvents, logs: FunctionLogs
) -> Engine:
    """Open the engine; a command that holds the state for a moment is waited for, an engine is not."""
    options = RunOptions(state=state, targets=pipeline.targets, log_sink=logs)
    for look in range(LOCK_LOOKS):
        try:
            return await stack.enter_async_context(run_pipeline(pipeline.loaded, options, events=events))
        except StateInUse:
            if look == LOCK_LOOKS - 1 or ControlClient(state).is_reachable:
                raise
        await anyio.sleep(LOCK_PAUSE_S)
    raise AssertionError("the last look returns or raises")


class CodeWatch:
    """Says once for each function that its code was changed since the engine started, when something of it fails."""

    def __init__(self, output: Output, code: StartedCode, pipeline: ReadPipeline) -> None:
        # A reader of standard error that went away is no reason to end the engine.
        self._tell = GuardedWriter(output.note, lambda: None)
        self._code = code
        self._functions = {name: mapping.function for name, mapping in pipeline.loaded.config.mappings.items()}
        self._failed: set[str] = set()
        self._told: set[str] = set()
        self._has_failed = anyio.Event()

    async def run(self, events: EngineEvents) -> None:
        """Listen until cancelled."""
        unsubscribe = events.subscribe(self._on_event)
        try:
            while True:
                await self._has_failed.wait()
                self._has_failed = anyio.Event()
                failed, self._failed = self._failed - self._told, set()
                for function in sorted(failed):
                    if await anyio.to_thread.run_sync(self._code.has_changed, function):
                        self._told.add(function)
                        self._tell(f"code of {function} has changed: restart to use it")
                await anyio.sleep(LOOK_AT_CODE_EVERY_S)
        finally:
            unsubscribe()

    def _on_event(self, event: EngineEvent) -> None:
        if isinstance(event, BatchRetried | BatchBisected | RecordsDiscarded) and event.mapping in self._functions:
            function = self._functions[event.mapping]
            if function not in self._told:
                self._failed.add(function)
                self._has_failed.set()


class SignalledEngine:
    """Runs an engine until a signal: the first drains it, the second one aborts it."""

    def __init__(self, output: Output, *, drain_timeout_s: float) -> None:
        self._output = output
        self._drain_timeout_s = drain_timeout_s
        self._engine: Engine | None = None
        #: Around what an early signal ends at once, and what the second one does; made in the loop.
        self._starting: anyio.CancelScope
        self._finishing: anyio.CancelScope
        self._drain_until: float | None = None
        self.exit_code = ExitCode.OK

    async def run(self, pipeline: ReadPipeline, state: Path, events: EngineEvents, logs: FunctionLogs) -> None:
        """Run until drained or aborted; `exit_code` then says which it was."""
        self._starting, self._finishing = anyio.CancelScope(), anyio.CancelScope()
        # A function that runs inline prints where this process prints; standard output is for data.
        with redirect_stdout(sys.stderr):
            async with anyio.create_task_group() as tasks:
                await tasks.start(self._watch_signals)
                with self._starting:
                    async with open_running(pipeline, state, events, logs) as (self._engine, control, code):
                        tune_collector()
                        self._tell_started(pipeline, state)
                        tasks.start_soon(CodeWatch(self._output, code, pipeline).run, events)
                        await self._engine.run()
                        await self._finish(self._engine, control)
                tasks.cancel_scope.cancel()

    def drain(self) -> None:
        """Take nothing new, and end when what runs is settled; called again, nothing changes."""
        if self._drain_until is None and self._engine is not None:
            self._drain_until = anyio.current_time() + self._drain_timeout_s
            self._engine.drain()

    async def _finish(self, engine: Engine, control: Control) -> None:
        """Let what people asked for finish too, in what is left of the drain's time."""
        if not engine.is_aborted:
            self._finishing.deadline = self._drain_until or 0
            with self._finishing:
                await control.wait_idle()
        is_cut_off = engine.is_aborted or self._finishing.cancelled_caught
        if is_cut_off and self.exit_code is ExitCode.OK:
            self.exit_code = ExitCode.TIMED_OUT

    async def _watch_signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                if self._engine is None:
                    self.exit_code = ExitCode.INTERRUPTED
                    self._starting.cancel()
                elif self._drain_until is None:
                    self._output.note(
                        f"draining: running invocations have {self._drain_timeout_s:g} s; once more aborts them"
                    )
                    self.drain()
                else:
                    self._output.note("aborting: what runs goes back to its source")
                    self.exit_code = ExitCode.INTERRUPTED
                    self._engine.abort()
                    self._finishing.cancel()

    def _tell_started(self, pipeline: ReadPipeline, state: Path) -> None:
        count = len(pipeline.loaded.config.mappings)
        self._output.note(f"running {show_count(count, 'mapping')}, state in {state}; Ctrl-C drains")
