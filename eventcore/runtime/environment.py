"""An environment: one process that serves one invocation at a time, from its fork to its end.

Its life: leave the zygote's group, take the descriptors, import the handler *here* (a connection opened outside the
handler belongs to this process alone), say ready, then one frame in and one frame out. It ends by being killed, by
the end of file, or by what the handler does to it; it owes nobody a clean exit (Lambda semantics §7.1 "Shutdown").

Imports the standard library and msgspec only, and no event loop unless the handler needs one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple, NoReturn, TypeVar

import msgspec

from eventcore.model import Fault, Outcome
from eventcore.runtime import protocol
from eventcore.runtime.context import LambdaContext
from eventcore.runtime.fault import exit_code_of
from eventcore.runtime.handler import Call, Loaded, answer, load, search_first
from eventcore.runtime.limits import limit_this_process
from eventcore.runtime.tree import adopt_orphans, die_with_parent
from eventcore.runtime.variables import WRAPPER, xray_header

#: Our descriptors are moved up to here: out of the way of ``select`` and of loops that close or reuse low numbers.
DESCRIPTOR_MIN = 1000
#: Exit status when our descriptors are gone: the handler closed them.
EXIT_CLOSED = 70
#: Exit status when what should be run is not there, as shells have it (Lambda semantics §7.2 "bad wrapper").
EXIT_NOT_FOUND = 127
#: ``ru_maxrss`` counts KB on Linux and bytes on macOS.
_MAXRSS_PER_KB = 1 if sys.platform == "linux" else 1024

Result = TypeVar("Result")


class Descriptors(NamedTuple):
    """What the zygote hands to an environment, in this order."""

    control: int
    stdout: int
    stderr: int
    log: int


# -- becoming an environment -------------------------------------------------------------------------------------------


def begin(descriptors: Descriptors, zygote_pid: int) -> NoReturn:
    """Turn the process just forked from the zygote into an environment, and serve until the end."""
    die_with_parent(signal.SIGKILL)
    if os.getppid() != zygote_pid:
        os._exit(0)  # the zygote ended before the kernel knew that we wanted to hear of it
    adopt_orphans()
    os.setpgid(0, 0)
    control, log = _take(descriptors)
    launch = protocol.TO_ENVIRONMENT.decode(_receive(partial(protocol.read_body, control)))
    assert isinstance(launch, protocol.Launch)
    if launch.start == "spawn":
        _exec(control, log, launch.variables)
    _set_variables(launch.variables)
    _serve(control, log)


def main() -> NoReturn:
    """Serve as the fresh interpreter that ``start = "spawn"`` execs."""
    control, log = (int(argument) for argument in sys.argv[1:3])
    for number in (control, log):
        os.set_inheritable(number, False)
    _serve(socket.socket(fileno=control), log)


def _exec(control: socket.socket, log: int, variables: dict[str, str]) -> NoReturn:
    """Become a fresh interpreter, begun by the function's wrapper if it has one (Lambda's AWS_LAMBDA_EXEC_WRAPPER)."""
    for number in (control.fileno(), log):
        os.set_inheritable(number, True)
    command = [sys.executable, "-P", "-m", __name__, str(control.fileno()), str(log)]
    if wrapper := variables.get(WRAPPER):
        command.insert(0, wrapper)
    try:
        os.execve(command[0], command, variables)  # noqa: S606 - no shell is wanted
    except OSError:
        os._exit(EXIT_NOT_FOUND)


def _set_variables(variables: dict[str, str]) -> None:
    # An interpreter reads PYTHONPATH when it starts, and this one has.
    path = variables.get("PYTHONPATH", "")
    if path != os.environ.get("PYTHONPATH", ""):
        sys.path[:0] = [entry for entry in path.split(os.pathsep) if entry]
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


def _take(descriptors: Descriptors) -> tuple[socket.socket, int]:
    """Put the descriptors where they belong: output on 1 and 2, ours high and closed on exec."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = min(DESCRIPTOR_MIN, soft - 16)
    control = fcntl.fcntl(descriptors.control, fcntl.F_DUPFD_CLOEXEC, lowest)
    log = fcntl.fcntl(descriptors.log, fcntl.F_DUPFD_CLOEXEC, lowest)
    null = os.open(os.devnull, os.O_RDWR)
    for source, target in ((null, 0), (descriptors.stdout, 1), (descriptors.stderr, 2)):
        os.dup2(source, target)
    for number in (null, *descriptors):
        os.close(number)
    return socket.socket(fileno=control), log


def _receive(read: Callable[[], bytes | None]) -> bytes:
    """Return the next frame's body; without one, this environment's time is over."""
    try:
        body = read()
    except OSError:
        os._exit(EXIT_CLOSED)
    if body is None:
        os._exit(0)
    return body


# -- serving -----------------------------------------------------------------------------------------------------------


def _serve(control: socket.socket, log: int) -> NoReturn:
    setup = protocol.TO_ENVIRONMENT.decode(_receive(partial(protocol.read_body, control)))
    assert isinstance(setup, protocol.Setup)
    time.tzset()
    os.chdir(setup.code)
    streams = _open_streams()
    request = _Request()
    logging.getLogger().addHandler(_LogHandler(log, request))
    limit_this_process(setup.serving.memory_size_mb)
    try:
        _serve_invocations(control, setup, request, streams)
    except SystemExit as end:
        # As the interpreter would, but for the threads of the handler's: it would wait for them.
        if end.code is not None and not isinstance(end.code, int):
            sys.stderr.write(f"{end.code}\n")
        _flush(streams)
        os._exit(exit_code_of(end))
    except OSError:  # of our own descriptor: whatever the handler's code raises stops at the border
        os._exit(EXIT_CLOSED)


def _serve_invocations(
    control: socket.socket, setup: protocol.Setup, request: _Request, streams: tuple[Any, ...]
) -> NoReturn:
    search_first(setup.code)
    loaded = load(setup.handler, setup.code, SystemExit)
    _flush(streams)
    if isinstance(loaded, Fault):
        control.sendall(protocol.encode(protocol.Unready(loaded)))
        os._exit(0)
    control.sendall(protocol.encode(protocol.Ready(loaded.form.kind)))
    reader, loop, trace = protocol.FrameReader(control), _Loop(), _Trace()
    while True:
        invoke = protocol.TO_ENVIRONMENT.decode(_receive(reader.read))
        assert isinstance(invoke, protocol.Invoke)
        request.id = invoke.request_id
        outcome = _invoke(loaded, setup, invoke, loop, trace)
        _flush(streams)
        memory_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // _MAXRSS_PER_KB
        control.sendall(protocol.encode(protocol.Reply(invoke.request_id, outcome, memory_kb)))


def _invoke(loaded: Loaded, setup: protocol.Setup, invoke: protocol.Invoke, loop: _Loop, trace: _Trace) -> Outcome:
    if invoke.trace_header != trace.header:
        trace.set(invoke.trace_header)
    context = LambdaContext(
        setup.serving,
        request_id=invoke.request_id,
        arn=invoke.arn,
        deadline=time.monotonic() + invoke.timeout_s,
        now=time.monotonic,
    )
    event = None if invoke.event is None else msgspec.json.decode(invoke.event)
    call = Call(context, event, invoke.batch, invoke.wants_results)
    if loaded.is_async:
        return loop.run(answer(loaded, call, _await, SystemExit))
    return _drive(answer(loaded, call, loop.finish, SystemExit))


class _Trace:
    """Tells the handler's own telemetry which trace it belongs to, in both forms that libraries read."""

    header = ""

    def set(self, traceparent: str) -> None:
        self.header = traceparent
        for name, value in (("TRACEPARENT", traceparent), ("_X_AMZN_TRACE_ID", xray_header(traceparent))):
            if value:
                os.environ[name] = value
            elif name in os.environ:
                del os.environ[name]


class _Loop:
    """The event loop of asynchronous handlers: made when first needed, kept as long as the environment.

    Tasks that a handler leaves behind go on at the next invocation, as on Lambda.
    """

    def __init__(self) -> None:
        self._runner: Any = None

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._runner is None:
            import asyncio

            self._runner = asyncio.Runner()
        result: Result = self._runner.run(work)
        return result

    async def finish(self, awaitable: Awaitable[Any]) -> Any:
        """Run to its end what a synchronous handler returned; suspends nobody."""
        return self.run(_await(awaitable))


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _drive(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that never suspends."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: Result = stop.value
        return result
    raise AssertionError("a synchronous handler's answer must not suspend")


# -- output ------------------------------------------------------------------------------------------------------------


class _Request:
    """Whose turn it is, for log lines; also between two invocations, when a handler's thread goes on."""

    id = ""


class _LogHandler(logging.Handler):
    """Writes log records as Lambda does. Source: Lambda semantics §7.7."""

    def __init__(self, descriptor: int, request: _Request) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._request = request
        formatter = logging.Formatter(
            "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s", "%Y-%m-%dT%H:%M:%S"
        )
        formatter.converter = time.gmtime
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        record.aws_request_id = self._request.id
        try:
            data = f"{self.format(record)}\n".encode(errors="backslashreplace")
            while data:
                data = data[os.write(self._descriptor, data) :]
        except (OSError, TypeError, ValueError):  # closed by the handler; or arguments that don't fit the message
            self.handleError(record)


def _open_streams() -> tuple[Any, ...]:
    """Open the standard streams anew: by line, so that what they hold keeps its order with what children write."""
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc]  # noqa: SIM115
    streams = tuple(
        open(number, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        for number in (1, 2)
    )
    sys.stdout = sys.__stdout__ = streams[0]  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = streams[1]  # type: ignore[misc]
    return streams


def _flush(streams: tuple[Any, ...]) -> None:
    for stream in streams:
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # the handler closed it, or its descriptor


if __name__ == "__main__":
    main()
