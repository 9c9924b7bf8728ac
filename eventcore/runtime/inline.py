"""The inline runtime: trusted handlers in the engine's own loop, for functions whose every call must cost nothing.

``async def`` handlers run beside the engine's tasks; a ``def`` handler is allowed, runs on the loop itself, and so must
be short. Nothing is isolated: a handler that blocks the loop blocks the engine (`stall` names it), one that ends the
process ends the engine, and what it prints goes where the engine prints. Needs no thread, process, socket or real
time, and so runs under a virtual clock.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio
import msgspec

from eventcore.clock import Clock
from eventcore.ids import IdFactory
from eventcore.loop import loop_clock, open_scope
from eventcore.model import Fault, Invocation, Outcome, OutcomeKind, Usage
from eventcore.ports.runtime import FunctionSpec, HandlerForm, LogSink, RuntimeCapabilities, RuntimeStatistics
from eventcore.runtime import fault as faults
from eventcore.runtime.context import LambdaContext, Serving
from eventcore.runtime.handler import Call, Loaded, answer, as_direct, load, native_batch, prepare, search_first
from eventcore.runtime.identity import code_folder, is_same_configuration, name_environment
from eventcore.runtime.report import Reporter
from eventcore.runtime.stall import StallWatch

#: What goes through the border: our own cancellation, Ctrl-C, and a handler's attempt to end the process.
_PASSES = (asyncio.CancelledError, KeyboardInterrupt, SystemExit)
_RELEASED = Outcome(kind=OutcomeKind.RELEASED)


class _Kept(msgspec.Struct, frozen=True):
    """A function whose handler is imported."""

    function: FunctionSpec
    loaded: Loaded
    serving: Serving


class _Limit:
    """What ends one invocation: its deadline, or a kill. A ``with`` block around all calls of its handler."""

    __slots__ = ("_deadline", "_scope", "is_released")

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self.is_released = False
        self._scope: anyio.CancelScope | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return None if self._scope is None else self._scope.__exit__(kind, error, trace)

    def finish(self, awaitable: Awaitable[Any]) -> Awaitable[Any]:
        """Return what a handler returned, as it is waited for: with it, the limit holds, from the first one on.

        Once the invocation has been ended it is never begun: a handler that swallows its cancellation, or fails of it,
        is not let into its next record.
        """
        scope = self._scope
        if scope is None:
            # Made only where a handler waits: nothing can end one that does not, and this costs it a tenth of a batch.
            scope = self._scope = open_scope(self._deadline)
            scope.__enter__()
            if self.is_released:
                scope.cancel()
        if scope.cancel_called and isinstance(awaitable, Coroutine):
            awaitable.close()
            return anyio.sleep_forever()  # as long as it takes to be cancelled once more
        return awaitable

    def release(self) -> None:
        """End it."""
        self.is_released = True
        if self._scope is not None:
            self._scope.cancel()


class InlineRuntime:
    """Runs handlers in the loop that it was opened in. Made by `open_inline_runtime`."""

    capabilities = RuntimeCapabilities(
        is_isolated=False, has_hard_deadline=False, has_memory_limit=False, captures_output=False
    )

    def __init__(self, clock: Clock, ids: IdFactory, log_sink: LogSink, stall_s: float | None) -> None:
        self._ids = ids
        self._now = loop_clock()
        self._reporter = Reporter(clock, log_sink)
        self.watch = None if stall_s is None else StallWatch(stall_s, self._handlers, self._is_busy, self._reporter)
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._serving: dict[str, _Limit] = {}
        self._started = 0
        self._killed = 0

    async def prepare(self, function: FunctionSpec) -> HandlerForm:
        """Import the handler and return its form."""
        kept = self._find(function)
        if isinstance(kept, Fault):
            raise faults.as_error(kept, function.name)
        return kept.loaded.form.kind

    async def invoke(self, function: FunctionSpec, invocation: Invocation) -> Outcome:
        """Run the handler once, in this loop."""
        request_id = invocation.request_id
        began = self._now()
        is_cold = (function.name, function.version) not in self._kept
        kept = self._find(function)
        init_ms = (self._now() - began) * 1000 if is_cold and isinstance(kept, _Kept) else None
        began = self._now()
        self._reporter.start(function, request_id)
        outcome = _RELEASED
        try:
            if isinstance(kept, Fault):
                outcome = Outcome(kind=OutcomeKind.FAILURE, fault=kept)
            else:
                outcome = await self._serve(kept, function, invocation, began)
        finally:
            usage = Usage(duration_ms=(self._now() - began) * 1000, init_ms=init_ms)
            self._reporter.finish(function, request_id, outcome, usage)
        return msgspec.structs.replace(outcome, usage=usage)

    async def retire(self, function: str) -> None:
        """Forget a function's handler; the next invocation takes the module as Python has it imported."""
        for key in [key for key in self._kept if key[0] == function]:
            del self._kept[key]

    def kill(self, request_id: str) -> bool:
        """Cancel an invocation; its outcome becomes RELEASED. False when there is none."""
        limit = self._serving.get(request_id)
        if limit is None or limit.is_released:
            return False
        self._killed += 1
        limit.release()
        return True

    def is_alive(self, request_id: str) -> bool:
        """Tell whether an invocation runs."""
        limit = self._serving.get(request_id)
        return limit is not None and not limit.is_released

    def statistics(self) -> RuntimeStatistics:
        """Return a snapshot; an imported handler counts as an environment."""
        return RuntimeStatistics(
            environments=len(self._kept), busy=len(self._serving), started=self._started, killed=self._killed
        )

    # -- one invocation ------------------------------------------------------------------------------------------------

    async def _serve(self, kept: _Kept, function: FunctionSpec, invocation: Invocation, began: float) -> Outcome:
        request_id = invocation.request_id
        deadline = began + function.timeout_s
        context = LambdaContext(kept.serving, request_id=request_id, arn=function.arn, deadline=deadline, now=self._now)
        call = _call_for(kept.loaded, invocation, context)
        limit = self._serving[request_id] = _Limit(deadline)
        if self.watch is not None:
            self.watch.arm()
        try:
            outcome = await _answer(kept.loaded, call, limit)
        finally:
            # Not another's: an event whose lease has ended is tried beside itself, with one request id.
            if self._serving.get(request_id) is limit:
                del self._serving[request_id]
        if limit.is_released:
            return _RELEASED
        if outcome is None or self._now() >= deadline:
            # Also when it came back all the same: late is late, in either runtime.
            self._killed += 1
            return Outcome(kind=OutcomeKind.FAILURE, fault=faults.timeout_fault(request_id, function.timeout_s))
        return outcome if invocation.batch is not None else as_direct(outcome)

    # -- handlers ------------------------------------------------------------------------------------------------------

    def _is_busy(self) -> bool:
        return bool(self._serving)

    def _handlers(self) -> Iterator[tuple[FunctionSpec, Loaded]]:
        for kept in self._kept.values():
            yield kept.function, kept.loaded

    def _find(self, function: FunctionSpec) -> _Kept | Fault:
        key = (function.name, function.version)
        kept = self._kept.get(key)
        if kept is not None and is_same_configuration(kept.function, function):
            return kept
        loaded = _load(function)
        if isinstance(loaded, Fault):
            return loaded
        self._started += 1
        serving = name_environment(function, self._reporter.clock, self._ids)
        kept = self._kept[key] = _Kept(function, loaded, serving)
        return kept


@asynccontextmanager
async def open_inline_runtime(
    clock: Clock, ids: IdFactory, log_sink: LogSink, stall_s: float | None = None
) -> AsyncIterator[InlineRuntime]:
    """Open the inline runtime in the running loop.

    Args:
        clock: for the times of log lines.
        ids: for the names of log streams.
        log_sink: takes every line, in the loop.
        stall_s: name what blocks the loop for longer than this; None, and always under a virtual clock, not to watch.
    """
    runtime = InlineRuntime(clock, ids, log_sink, stall_s)
    if runtime.watch is None:
        yield runtime
        return
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runtime.watch.run)
            try:
                yield runtime
            finally:
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # What the caller's block raises leaves it as it is, with the watch as without it.
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None


def _call_for(loaded: Loaded, invocation: Invocation, context: LambdaContext) -> Call:
    if loaded.form.kind is HandlerForm.EVENT:
        return Call(context, event=invocation.build_event())
    batch = invocation.batch or native_batch(invocation.build_event())
    return Call(context, batch=batch, wants_results=invocation.wants_results)


async def _answer(loaded: Loaded, call: Call, limit: _Limit) -> Outcome | None:
    """Run the handler until it returns; None when its limit has ended it."""
    request_id = call.context.aws_request_id
    error: BaseException
    try:
        with limit:
            return await answer(loaded, call, limit.finish, *_PASSES)
    except SystemExit as end:
        return Outcome(kind=OutcomeKind.FAILURE, fault=faults.exit_fault(request_id, faults.exit_code_of(end)))
    except asyncio.CancelledError as cancelled:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody cancelled this task: the handler raised it, or awaited something that was cancelled elsewhere.
        error = cancelled
    except RuntimeError as left_open:
        # Of the limit's scope, which can not be left before one that the handler has entered, and has not left.
        error = left_open
    else:
        return None
    return Outcome(kind=OutcomeKind.FAILURE, fault=faults.handler_fault(error, request_id, loaded.code))


def _load(function: FunctionSpec) -> Loaded | Fault:
    code = code_folder(function)
    if function.environment or function.preload:
        setting = "environment" if function.environment else "preload"
        message = f'{setting} needs a process of the function\'s own: take it out, or write runtime = "process"'
        return faults.setup_fault("Runtime.BadSettings", message)
    if function.target is not None:
        return prepare(function.target, code)
    search_first(code)
    importlib.invalidate_caches()
    try:
        return load(function.handler, code, *_PASSES)
    except SystemExit as end:
        return faults.exit_fault("", faults.exit_code_of(end))
