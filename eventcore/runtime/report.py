"""The platform's lines in a function's log. Source: Lambda semantics §7.1, §7.7 (new style)."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Iterator

from eventcore.clock import Clock
from eventcore.model import Fault, FaultCause, Outcome, Usage
from eventcore.ports.runtime import FunctionSpec, LogLine, LogSink


class Reporter:
    """Writes what the platform has to say about functions into their logs."""

    def __init__(self, clock: Clock, sink: LogSink) -> None:
        self.clock = clock
        self.sink = sink

    def say(self, function: str, request_id: str, text: str, stream: str = "platform") -> None:
        """Write one line."""
        now_ms = self.clock.now_ms()
        self.sink([LogLine(function=function, request_id=request_id, time_ms=now_ms, text=text, stream=stream)])

    def say_all(self, function: str, request_id: str, texts: Iterable[str], stream: str) -> None:
        """Write lines of one stream at once; none, if there are none."""
        lines = self._lines(function, request_id, texts, stream)
        if lines:
            self.sink(lines)

    def _lines(self, function: str, request_id: str, texts: Iterable[str], stream: str = "platform") -> list[LogLine]:
        now_ms = self.clock.now_ms()
        return [
            LogLine(function=function, request_id=request_id, time_ms=now_ms, text=text, stream=stream)
            for text in texts
        ]

    def init_start(self, function: FunctionSpec) -> None:
        """Say that an environment begins."""
        self.say(function.name, "", f"INIT_START Runtime Version: python:{platform.python_version()}")

    def init_failed(self, function: FunctionSpec, duration_ms: float, fault: Fault) -> None:
        """Say that an environment could not begin, and why."""
        status = "timeout" if fault.cause is FaultCause.TIMEOUT else f"error\tError Type: {fault.error_type}"
        self.say(function.name, "", f"INIT_REPORT Init Duration: {duration_ms:.2f} ms\tPhase: init\tStatus: {status}")

    def start(self, function: FunctionSpec, request_id: str) -> None:
        """Say that an invocation begins."""
        self.say(function.name, request_id, f"START RequestId: {request_id} Version: {function.version}")

    def finish(self, function: FunctionSpec, request_id: str, outcome: Outcome, usage: Usage) -> None:
        """Say that an invocation ended, how, and what it cost; an exception as Lambda's own runtime logs it."""
        fault = outcome.fault
        ending = (f"END RequestId: {request_id}", _report_line(function, request_id, fault, usage))
        lines = self._lines(function.name, request_id, ending)
        if fault is not None and fault.cause not in {FaultCause.TIMEOUT, FaultCause.EXIT}:
            lines = self._lines(function.name, request_id, _describe(fault), "log") + lines
        self.sink(lines)


def _describe(fault: Fault) -> Iterator[str]:
    yield from f"[ERROR] {fault.error_type}: {fault.message}".splitlines()
    if fault.stack_trace:
        yield "Traceback (most recent call last):"
    for frame in fault.stack_trace:
        yield from frame.splitlines()


def _report_line(function: FunctionSpec, request_id: str, fault: Fault | None, usage: Usage) -> str:
    text = (
        f"REPORT RequestId: {request_id}\tDuration: {usage.duration_ms:.2f} ms\t"
        f"Billed Duration: {math.ceil(usage.duration_ms + (usage.init_ms or 0.0))} ms\t"
        f"Memory Size: {function.memory_size_mb} MB\tMax Memory Used: {usage.memory_used_mb} MB"
    )
    if usage.init_ms is not None:
        text += f"\tInit Duration: {usage.init_ms:.2f} ms"
    if fault is not None and fault.cause is FaultCause.TIMEOUT:
        text += "\tStatus: timeout"
    if fault is not None and fault.cause is FaultCause.EXIT:
        text += f"\tStatus: error\tError Type: {fault.error_type}"
    return text
