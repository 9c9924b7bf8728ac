"""The runtime's border: what user code raises ends here, and goes on as data.

`Border` is the only place of the runtimes that catches everything. Source: Lambda semantics §7.2, trap 2.
"""

from __future__ import annotations

import signal
import traceback
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from eventcore.errors import HandlerError
from eventcore.model import RESPONSE_BYTES_MAX, Fault, FaultCause

#: A longer message of an exception is cut: it travels to logs, failure records and destinations (SQS takes 256 KB).
MESSAGE_CHARS_MAX = 64 * 1024
#: Frames of a stack trace kept, the deepest ones: endless recursion has a thousand.
FRAMES_MAX = 100

_OURS = str(Path(__file__).parent)
# Not by importing asyncio: a spawned environment whose handler is synchronous never pays for it.
_LIBRARY = Path(traceback.__file__).parent
_MACHINERY = (_OURS, str(_LIBRARY / "asyncio"), str(_LIBRARY / "importlib"), "<frozen importlib", "<frozen runpy")


class Border:
    """Runs user code in its block, and keeps what it raised.

    As a context manager, so that the one border serves code that is called and code that is awaited.
    """

    def __init__(self, *passes: type[BaseException]) -> None:
        self._passes = passes
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or isinstance(error, self._passes):
            return False
        self.error = error
        return True


def handler_fault(error: BaseException, request_id: str, code: str, cause: FaultCause = FaultCause.HANDLER) -> Fault:
    """Return the fault of a handler or a module that raised."""
    frames = _user_frames(error)
    return Fault(
        cause=cause,
        error_type=type(error).__name__,
        message=describe(error),
        request_id=request_id,
        stack_trace=tuple(traceback.format_list(frames[-FRAMES_MAX:])),
        location=_find_location(frames, code),
    )


def import_fault(error: BaseException, module: str, code: str) -> Fault:
    """Return the fault of a handler's module that can't be imported."""
    fault = handler_fault(error, "", code, FaultCause.IMPORT)
    if isinstance(error, SyntaxError):
        return msgspec.structs.replace(
            fault,
            error_type="Runtime.UserCodeSyntaxError",
            message=f"Syntax error in module '{module}': {fault.message}",
            location=f"{error.filename}:{error.lineno}" if error.filename else fault.location,
        )
    if isinstance(error, ImportError):
        return msgspec.structs.replace(
            fault,
            error_type="Runtime.ImportModuleError",
            message=f"Unable to import module '{module}': {fault.message}",
        )
    return fault


def setup_fault(error_type: str, message: str) -> Fault:
    """Return the fault of a function that can't be started as it is configured."""
    return Fault(cause=FaultCause.IMPORT, error_type=error_type, message=message)


def undecodable_fault(error: BaseException, request_id: str) -> Fault:
    """Return the fault of a record that is not what a typed handler takes."""
    return Fault(
        cause=FaultCause.UNDECODABLE,
        error_type=type(error).__name__,
        message=describe(error),
        request_id=request_id,
    )


def marshal_fault(reason: str, request_id: str) -> Fault:
    """Return the fault of a handler whose result can't be handed back."""
    return Fault(
        cause=FaultCause.RESPONSE,
        error_type="Runtime.MarshalError",
        message=f"Unable to marshal response: {reason}"[:MESSAGE_CHARS_MAX],
        request_id=request_id,
    )


def oversize_fault(request_id: str) -> Fault:
    """Return the fault of a handler whose result is too large. Source: Lambda semantics §1.1, recorded."""
    return Fault(
        cause=FaultCause.RESPONSE,
        error_type="Function.ResponseSizeTooLarge",
        message=f"Response payload size exceeded maximum allowed payload size ({RESPONSE_BYTES_MAX} bytes).",
        request_id=request_id,
    )


def timeout_fault(request_id: str, timeout_s: float) -> Fault:
    """Return the fault of an invocation that ran out of time."""
    return Fault(
        cause=FaultCause.TIMEOUT,
        error_type="Sandbox.Timedout",
        message=f"RequestId: {request_id} Error: Task timed out after {timeout_s:.2f} seconds",
        request_id=request_id,
    )


def exit_code_of(end: SystemExit) -> int:
    """Return the status that a process ending so would have."""
    return end.code & 0xFF if isinstance(end.code, int) else int(end.code is not None)


def exit_fault(request_id: str, exit_code: int) -> Fault:
    """Return the fault of an environment whose process ended."""
    return Fault(
        cause=FaultCause.EXIT,
        error_type="Runtime.ExitError",
        message=f"RequestId: {request_id} Error: {_describe_exit(exit_code)}",
        request_id=request_id,
        exit_code=exit_code,
    )


def _describe_exit(exit_code: int) -> str:
    if exit_code == 0:
        return "Runtime exited without providing a reason"
    if exit_code > 0:
        return f"Runtime exited with error: exit status {exit_code}"
    name = signal.strsignal(-exit_code) or str(-exit_code)
    return f"Runtime exited with error: signal: {name.lower()}"


def as_error(fault: Fault, function: str) -> HandlerError:
    """Return the exception for a handler that can't be imported: the reason, and the traceback where there is one."""
    trace = "Traceback (most recent call last):\n" + "".join(fault.stack_trace) if fault.stack_trace else ""
    return HandlerError(f"{trace}{fault.error_type}: {fault.message}", function=function)


def describe(error: BaseException) -> str:
    """Return an exception's message, bounded; also when asking for it raises."""
    with Border() as border:
        return str(error)[:MESSAGE_CHARS_MAX]
    assert border.error is not None
    return f"(its message can't be read: {type(border.error).__name__})"


def _user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of a traceback without the leading ones of ours, the event loop and the import system."""
    frames = list(traceback.extract_tb(error.__traceback__))
    for index, frame in enumerate(frames):
        if not frame.filename.startswith(_MACHINERY):
            return frames[index:]
    return []


def _find_location(frames: list[traceback.FrameSummary], code: str) -> str:
    """Return where in the user's code it was raised: the deepest frame beneath ``code``, else the deepest of all."""
    own = [frame for frame in frames if frame.filename.startswith(code) and "site-packages" not in frame.filename]
    deepest = (own or frames)[-1:]
    return f"{deepest[0].filename}:{deepest[0].lineno}" if deepest else ""
