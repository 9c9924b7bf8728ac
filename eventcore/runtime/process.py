"""The process runtime: handlers in processes of their own, forked from a zygote, one event at a time.

Follow one invocation: `invoke` takes a warm environment from the function's pool, or has a zygote fork one
(`launcher`, `zygote`); one frame goes out and one comes back (`remote`, `channel`, `environment`); what came back, or
that nothing did, becomes the outcome here. Beside it `watch` samples memory and disk. The engine never forks itself
and never imports a handler.
"""

from __future__ import annotations

import math
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from eventcore.clock import Clock
from eventcore.errors import EventcoreError, HandlerCrashed, HandlerError, HandlerTimeout
from eventcore.ids import IdFactory
from eventcore.loop import loop_clock
from eventcore.model import Fault, FaultCause, Invocation, Outcome, OutcomeKind, Usage
from eventcore.ports.runtime import FunctionSpec, HandlerForm, LogSink, RuntimeCapabilities, RuntimeStatistics
from eventcore.runtime import fault as faults
from eventcore.runtime import protocol
from eventcore.runtime.handler import as_direct, native_batch
from eventcore.runtime.identity import is_same_configuration
from eventcore.runtime.limits import raise_descriptor_limit
from eventcore.runtime.pool import Pool
from eventcore.runtime.remote import EndReason, RemoteEnvironment
from eventcore.runtime.report import Reporter
from eventcore.runtime.starter import Starter, fault_of_exit, kill

#: How long an import may take; past it, it is tried again by the first invocation. Source: Lambda semantics §7.1.
INIT_LIMIT_S = 10.0
#: Between SIGTERM and SIGKILL at a deadline. Source: Lambda semantics §7.1 "Shutdown".
TERM_GRACE_S = 0.5

_RELEASED = Outcome(kind=OutcomeKind.RELEASED)


class ProcessRuntime:
    """Runs handlers in environments. Made by `open_process_runtime`; closed, all its processes are gone."""

    capabilities = RuntimeCapabilities(
        is_isolated=True,
        has_hard_deadline=True,
        has_memory_limit=sys.platform == "linux",  # nowhere else can a process see what others hold
        captures_output=True,
    )

    def __init__(
        self, clock: Clock, ids: IdFactory, log_sink: LogSink, folder: Path, tasks: anyio.abc.TaskGroup
    ) -> None:
        self._reporter = Reporter(clock, log_sink)
        self._starter = Starter(clock, ids, self._reporter, folder, tasks)
        self._pools: dict[tuple[str, str], Pool] = {}
        self._now = loop_clock()

    # -- the port ------------------------------------------------------------------------------------------------------

    async def prepare(self, function: FunctionSpec) -> HandlerForm:
        """Start one environment, import the handler, and return its form."""
        pool = self._find_pool(function)
        environment = pool.take()
        if environment is None:
            started = await self._starter.start(pool, function, None, INIT_LIMIT_S)
            if started is None:
                raise HandlerCrashed("the environment was killed while it started", function=function.name)
            if isinstance(started, Fault):
                raise _error_of(started, function)
            environment = started
        pool.give_back(environment, self._now())
        self._starter.watch.wake()
        return environment.form

    async def invoke(self, function: FunctionSpec, invocation: Invocation) -> Outcome:
        """Run the handler once, in an environment that serves nobody else meanwhile."""
        pool = self._find_pool(function)
        environment = pool.take()
        init_ms = None
        began = self._now()
        limit_s: float = function.timeout_s
        self._starter.watch.wake()
        if environment is None:
            started, limit_s = await self._start_for_invocation(pool, function, invocation.request_id)
            if not isinstance(started, RemoteEnvironment):
                return self._end_unstarted(function, invocation.request_id, started, began)
            environment = started
            if not environment.replaces_lost:
                init_ms = (self._now() - began) * 1000
                began = self._now()
        return await self._serve(environment, pool, function, invocation, began, init_ms, limit_s)

    async def retire(self, function: str) -> None:
        """End a function's idle environments, and its busy ones after their invocation."""
        for pool in [pool for pool in self._pools.values() if pool.function.name == function]:
            self._retire(pool)

    def kill(self, request_id: str) -> bool:
        """Kill the environment that serves an invocation; its outcome becomes RELEASED. False when none does."""
        environment = self._starter.serving.get(request_id)
        if environment is None or not environment.is_alive or environment.ended_by is not None:
            return False
        environment.kill(EndReason.RELEASED)
        return True

    def is_alive(self, request_id: str) -> bool:
        """Tell whether the environment that serves an invocation is alive; False when there is none."""
        environment = self._starter.serving.get(request_id)
        return environment is not None and environment.is_alive

    def statistics(self) -> RuntimeStatistics:
        """Return a snapshot."""
        return RuntimeStatistics(
            environments=len(self._starter.environments),
            busy=sum(environment.request_id is not None for environment in self._starter.environments),
            started=self._starter.started_count,
            killed=self._starter.killed_count,
        )

    # -- one invocation ------------------------------------------------------------------------------------------------

    async def _serve(
        self,
        environment: RemoteEnvironment,
        pool: Pool,
        function: FunctionSpec,
        invocation: Invocation,
        began: float,
        init_ms: float | None,
        limit_s: float,
    ) -> Outcome:
        request_id = invocation.request_id
        environment.request_id = request_id
        self._starter.serving[request_id] = environment
        self._reporter.start(function, request_id)
        environment.output.begin(request_id)
        outcome = _RELEASED
        try:
            frame = _frame_for(environment.form, function, invocation, limit_s)
            deadline = self._now() + limit_s
            environment.send(frame)
            try:
                reply = await environment.receive(deadline)
            except TimeoutError:
                outcome = await self._stop_late(environment, function, request_id)
            else:
                outcome = await self._judge(environment, invocation, reply)
        finally:
            if outcome is _RELEASED:
                # Cancelled, or its reply was already on the way: nobody waits any more for what it does.
                await kill(environment, EndReason.RELEASED)
            # Not another's: an event whose lease has ended is tried beside itself, with one request id.
            if self._starter.serving.get(request_id) is environment:
                del self._starter.serving[request_id]
            environment.output.end()
            now = self._now()
            usage = Usage(
                duration_ms=(now - began) * 1000,
                init_ms=init_ms,
                memory_used_mb=math.ceil(environment.peak_kb / 1024),
            )
            self._reporter.finish(function, request_id, outcome, usage)
            pool.give_back(environment, now)
        return msgspec.structs.replace(outcome, usage=usage)

    async def _judge(
        self, environment: RemoteEnvironment, invocation: Invocation, reply: protocol.FromEnvironment | None
    ) -> Outcome:
        """Return the outcome of what came back: a reply, or nothing because the environment is gone."""
        if isinstance(reply, protocol.Reply) and _is_answer(reply, invocation) and environment.ended_by is None:
            environment.peak_kb = max(environment.peak_kb, reply.memory_kb)
            return reply.outcome if invocation.batch is not None else as_direct(reply.outcome)
        await kill(environment, EndReason.UNFIT)
        return _outcome_of(fault_of_exit(environment, invocation.request_id))

    async def _stop_late(self, environment: RemoteEnvironment, function: FunctionSpec, request_id: str) -> Outcome:
        """End an environment whose time is over: a warning, a grace, then the kill."""
        environment.ended_by = environment.ended_by or EndReason.TIMEOUT
        environment.signal(signal.SIGCONT)
        environment.signal(signal.SIGTERM)
        with anyio.move_on_after(TERM_GRACE_S):
            await environment.wait_exited()
        await kill(environment, EndReason.TIMEOUT)
        if environment.ended_by is EndReason.RELEASED:
            return _RELEASED
        return Outcome(kind=OutcomeKind.FAILURE, fault=faults.timeout_fault(request_id, function.timeout_s))

    async def _start_for_invocation(
        self, pool: Pool, function: FunctionSpec, request_id: str
    ) -> tuple[RemoteEnvironment | Fault | None, float]:
        """Start an environment; one whose import was too slow is given a second chance within the function's time.

        Source: Lambda semantics §7.1 "Init".

        Returns:
            What came of it, and how long the handler may run, seconds: what is left after a second chance.
        """
        started = await self._starter.start(pool, function, request_id, INIT_LIMIT_S)
        if not isinstance(started, Fault) or started.cause is not FaultCause.TIMEOUT:
            return started, function.timeout_s
        ends = self._now() + function.timeout_s
        started = await self._starter.start(pool, function, request_id, function.timeout_s)
        return started, max(0.0, ends - self._now())

    def _end_unstarted(self, function: FunctionSpec, request_id: str, fault: Fault | None, began: float) -> Outcome:
        """Return the outcome of an invocation that got no environment; its log looks as on Lambda."""
        usage = Usage(duration_ms=(self._now() - began) * 1000)
        outcome = _outcome_of(fault)
        self._reporter.start(function, request_id)
        self._reporter.finish(function, request_id, outcome, usage)
        return msgspec.structs.replace(outcome, usage=usage)

    async def close(self) -> None:
        """End everything; returns when all processes are gone."""
        await self._starter.close()

    # -- pools ---------------------------------------------------------------------------------------------------------

    def _find_pool(self, function: FunctionSpec) -> Pool:
        key = (function.name, function.version)
        pool = self._pools.get(key)
        if pool is not None:
            if is_same_configuration(pool.function, function):
                return pool
            self._retire(pool)
        pool = self._pools[key] = Pool(function)
        return pool

    def _retire(self, pool: Pool) -> None:
        del self._pools[pool.function.name, pool.function.version]
        pool.retire()
        self._starter.remove_folders(pool)


@asynccontextmanager
async def open_process_runtime(
    clock: Clock, ids: IdFactory, log_sink: LogSink, state_dir: Path | None = None
) -> AsyncIterator[ProcessRuntime]:
    """Open the process runtime; on leaving, all its processes are gone, whatever their handlers do.

    Args:
        clock: for the times of log lines.
        ids: for the names of log streams.
        log_sink: takes every line, in the loop.
        state_dir: where environments' folders lie, in `environments`, which is this runtime's alone; a folder of the
            system's without one.
    """
    if sys.platform == "win32":
        raise EventcoreError("function environments need Linux or macOS: on Windows, run eventcore in WSL")
    raise_descriptor_limit()
    folder = await anyio.to_thread.run_sync(_make_folder, state_dir)
    try:
        async with anyio.create_task_group() as tasks:
            runtime = ProcessRuntime(clock, ids, log_sink, folder, tasks)
            try:
                yield runtime
            finally:
                with anyio.CancelScope(shield=True):  # bounded by `launcher.CLOSE_WAIT_S` for each zygote
                    await runtime.close()
                    await anyio.to_thread.run_sync(partial(shutil.rmtree, folder, ignore_errors=True))
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # What the caller's block raises leaves it as it is: that there is a task group here is none of its business.
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None


def _make_folder(state_dir: Path | None) -> Path:
    if state_dir is None:
        return Path(tempfile.mkdtemp(prefix="eventcore-"))
    folder = state_dir.resolve() / "environments"
    shutil.rmtree(folder, ignore_errors=True)  # of an engine before this one, that was killed
    folder.mkdir(parents=True)
    return folder


def _frame_for(form: HandlerForm, function: FunctionSpec, invocation: Invocation, limit_s: float) -> protocol.Invoke:
    event, batch = None, invocation.batch
    if form is HandlerForm.EVENT:
        event, batch = msgspec.json.encode(invocation.build_event()), None
    elif batch is None:
        batch = native_batch(invocation.build_event())
    return protocol.Invoke(
        invocation.request_id,
        function.arn,
        limit_s,
        invocation.build_trace_header(),
        event,
        batch,
        invocation.wants_results,
    )


def _is_answer(reply: protocol.Reply, invocation: Invocation) -> bool:
    """Tell whether a reply is one that this invocation can have: a handler may have written it."""
    outcome = reply.outcome
    count = 1 if invocation.batch is None else len(invocation.batch)
    return (
        reply.request_id == invocation.request_id
        and (outcome.kind is OutcomeKind.SUCCESS or (outcome.kind is OutcomeKind.FAILURE and outcome.fault is not None))
        and (not outcome.failed or all(0 <= index < count for index in outcome.failed))
        and (not outcome.results or all(0 <= index < count for index, _ in outcome.results))
    )


def _outcome_of(fault: Fault | None) -> Outcome:
    """Return the outcome for a fault; without one, the environment was killed by its request id."""
    return _RELEASED if fault is None else Outcome(kind=OutcomeKind.FAILURE, fault=fault)


def _error_of(fault: Fault, function: FunctionSpec) -> HandlerError | HandlerTimeout | HandlerCrashed:
    """Return the exception that `prepare` raises for a fault."""
    if fault.cause is FaultCause.TIMEOUT:
        message = f"the import of {function.handler} took longer than {INIT_LIMIT_S:.0f} s"
        return HandlerTimeout(message, function=function.name)
    if fault.cause is FaultCause.EXIT:
        message = f"the process ended while it imported {function.handler}: exit code {fault.exit_code}"
        return HandlerCrashed(message, function=function.name, exit_code=fault.exit_code)
    return faults.as_error(fault, function.name)
