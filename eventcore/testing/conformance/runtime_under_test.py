"""A runtime under test: functions to run, invocations in one line, and what was logged; what the kit's parts share."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar

import anyio
import msgspec
import pytest

from eventcore.model import Batch, Fault, Invocation, Outcome, OutcomeKind, Record
from eventcore.ports.runtime import FunctionSpec, LogLine, LogSink, Runtime, RuntimeCapabilities

#: Whatever a test waits for has happened by then, seconds.
HAPPENS_WITHIN_S = 30.0
#: The least timeout there is, seconds; for invocations that are to run into it.
TIMEOUT_S = 1
#: For invocations that a test ends by other means, seconds.
LONG_S = 600

FUNCTIONS = Path(__file__).parent / "functions"
ARN = "arn:aws:lambda:eu-west-1:123456789012:function:"


class RuntimeUnderTest:
    """One runtime, opened for one test, and what it logged."""

    def __init__(self, runtime: Runtime, lines: list[LogLine]) -> None:
        self.runtime = runtime
        self.lines = lines
        self._ids = (f"00000000-0000-4000-8000-{number:012}" for number in range(1, 1_000_000))

    def function(self, handler: str, **settings: Any) -> FunctionSpec:
        """Return the function with a handler of the kit's."""
        module, _, attribute = handler.rpartition(".")
        full = {"code": FUNCTIONS, "arn": ARN + attribute, "timeout_s": LONG_S, **settings}
        return FunctionSpec(name=attribute, handler=f"{module or 'conformance_handlers'}.{attribute}", **full)

    def new_id(self) -> str:
        """Return a request id."""
        return next(self._ids)

    async def call(self, function: FunctionSpec | str, event: Any = None, request_id: str = "") -> Outcome:
        """Invoke a function with an event."""
        spec = self.function(function) if isinstance(function, str) else function
        request_id = request_id or self.new_id()
        with anyio.fail_after(HAPPENS_WITHIN_S):
            return await self.runtime.invoke(spec, Invocation(request_id=request_id, build_event=lambda: event))

    async def result(self, function: FunctionSpec | str, event: Any = None) -> Any:
        """Invoke a function that succeeds, and return its result."""
        outcome = await self.call(function, event)
        assert outcome.kind is OutcomeKind.SUCCESS, outcome
        assert outcome.fault is None
        return msgspec.json.decode(outcome.response)

    async def fault(self, function: FunctionSpec | str, event: Any = None, request_id: str = "") -> Fault:
        """Invoke a function that fails, and return its fault."""
        outcome = await self.call(function, event, request_id)
        assert outcome.kind is OutcomeKind.FAILURE, outcome
        assert outcome.fault is not None
        return outcome.fault

    async def send(
        self, handler: str, bodies: Iterable[bytes | None], *, shard: str = "", timeout_s: int = LONG_S
    ) -> Outcome:
        """Invoke a native or typed handler with records; a stream's with a shard, else a queue's."""
        records = [Record(position=10 + index, body=body) for index, body in enumerate(bodies)]
        return await self.send_records(handler, records, shard, timeout_s)

    async def send_records(
        self, handler: str, records: Sequence[Record], shard: str = "", timeout_s: int = LONG_S
    ) -> Outcome:
        """Invoke a native or typed handler with records as they are."""
        request_id = self.new_id()
        batch = Batch(
            source="queue:orders",
            shard=shard,
            records=records,
            mapping="orders",
            attempt=2,
            request_id=request_id,
        )

        def build_event() -> Any:
            raise AssertionError("a handler that takes records needs no event")

        invocation = Invocation(request_id=request_id, build_event=build_event, batch=batch)
        with anyio.fail_after(HAPPENS_WITHIN_S):
            return await self.runtime.invoke(self.function(handler, timeout_s=timeout_s), invocation)

    async def traced(self, function: FunctionSpec, trace_header: str) -> Any:
        """Invoke a function within a trace, and return its result."""
        invocation = Invocation(
            request_id=self.new_id(), build_event=lambda: None, build_trace_header=lambda: trace_header
        )
        return msgspec.json.decode((await self.runtime.invoke(function, invocation)).response)

    def logged(self, request_id: str, *streams: str) -> list[str]:
        """Return the text of an invocation's lines, of all or some streams, in order."""
        return [
            line.text
            for line in self.lines
            if line.request_id == request_id and (not streams or line.stream in streams)
        ]

    @contextlib.asynccontextmanager
    async def running(self, function: FunctionSpec | str, event: Any = None) -> AsyncIterator[Running]:
        """Begin an invocation and go on beside it; afterwards its outcome is there."""
        spec = self.function(function) if isinstance(function, str) else function
        running = Running(self.new_id())
        with anyio.fail_after(HAPPENS_WITHIN_S):
            async with anyio.create_task_group() as tasks:

                async def run() -> None:
                    with running.scope:
                        invocation = Invocation(request_id=running.request_id, build_event=lambda: event)
                        running.outcome = await self.runtime.invoke(spec, invocation)

                tasks.start_soon(run)
                await until(lambda: self.logged(running.request_id, "platform"))
                yield running


class Running:
    """An invocation that goes on beside the test."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.scope = anyio.CancelScope()
        self.outcome: Outcome | None = None  #: stays None when the invocation is cancelled


async def until(happened: Callable[[], object]) -> None:
    """Wait until something is true."""
    with anyio.fail_after(HAPPENS_WITHIN_S):
        while not happened():  # noqa: ASYNC110 - what is waited for has no event to wait on
            await anyio.sleep(0.01)


Scenario = Callable[[RuntimeUnderTest], Awaitable[None]]


class RuntimeKit:
    """What the parts of the kit share: a runtime for each test, and what it claims."""

    #: What the runtime claims; compared with its own.
    capabilities: ClassVar[RuntimeCapabilities]

    def open_runtime(self, log_sink: LogSink) -> AbstractAsyncContextManager[Runtime]:
        """Open the runtime; override."""
        raise NotImplementedError

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        """Run a coroutine to its end; override for another kind of loop."""
        anyio.run(body)

    def check(self, scenario: Scenario) -> None:
        """Run a scenario on a new runtime."""

        async def body() -> None:
            lines: list[LogLine] = []
            async with self.open_runtime(lines.extend) as runtime:
                await scenario(RuntimeUnderTest(runtime, lines))

        self.run(body)

    def require(self, capability: str) -> None:
        """Skip what the runtime does not claim, by the capability's name."""
        if not getattr(self.capabilities, capability):
            pytest.skip(f"the runtime does not claim {capability}")


def line_of(file: str, text: str) -> int:
    """Return the number of a source line."""
    lines = [line.strip() for line in Path(file).read_text().splitlines()]
    return lines.index(text) + 1


def is_running(pid: int) -> bool:
    """Tell whether a process is there and has not ended; one that only waits to be reaped has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}
