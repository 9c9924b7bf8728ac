"""How a handler runs.

A runtime turns an invocation into an outcome and never raises for the function's faults. It limits nothing but what the
function's own settings say (time, memory): how many run at once is the dispatcher's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import msgspec

from eventcore.model import Invocation, Outcome


class HandlerForm(StrEnum):
    """What a handler takes; found in the environment from its signature, never by calling it."""

    EVENT = "event"  #: `(event, context)`, Lambda's own; the event may be left without a context
    BATCH = "batch"  #: `(batch: eventcore.Batch)`, optionally with a context
    TYPED = "typed"  #: `(record: SomeStruct)`: one decoded record a call


#: The version of a function under which what makes its records' idempotency keys runs.
KEY_VERSION = "$KEY"


class FunctionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A function as a runtime needs it."""

    name: str
    handler: str  #: `module.attribute` below `code`
    code: Path  #: folder that is put first on the module search path
    arn: str
    version: str = "$LATEST"
    timeout_s: int = 3
    memory_size_mb: int = 512
    ephemeral_storage_mb: int = 512
    environment: Mapping[str, str] = {}
    runtime: str = "process"  #: "process" or "inline"
    start: str = "fork"  #: "fork" or "spawn"; process only
    preload: tuple[str, ...] = ()  #: modules that the function's zygote imports once
    idle_timeout_s: float = 600.0  #: an environment that was idle for so long is ended
    #: The callable itself, for functions of a pipeline written in Python that run inline; else None.
    target: Callable[..., Any] | None = None


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line that a function wrote, or that the platform wrote about it (§7.7)."""

    function: str
    request_id: str  #: empty while the environment initialises
    time_ms: int
    text: str  #: without its line end; cut at `LOG_LINE_BYTES_MAX`
    stream: str = "stdout"  #: "stdout", "stderr", "log", "platform"


#: A longer line is cut, and marked so.
LOG_LINE_BYTES_MAX = 256 * 1024
#: What one invocation may write; the rest is dropped and one line says how much.
LOG_BYTES_MAX_PER_INVOCATION = 4 * 1024 * 1024

#: Takes lines of one function that are written at once, in their order; never none.
LogSink = Callable[[Sequence[LogLine]], None]


class RuntimeCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a runtime can promise."""

    is_isolated: bool  #: a crash, exit or stuck handler harms nobody else
    has_hard_deadline: bool  #: a handler that never yields is ended all the same
    has_memory_limit: bool
    captures_output: bool


class RuntimeStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot."""

    environments: int  #: alive now
    busy: int
    started: int  #: since the runtime was opened
    killed: int  #: by timeout, memory or abort


class Runtime(Protocol):
    """Runs handlers.

    Opened by an async context manager of the implementation's module; closed, all its processes are gone.
    """

    capabilities: RuntimeCapabilities

    async def prepare(self, function: FunctionSpec) -> HandlerForm:
        """Start one environment, import the handler, and return its form.

        Raises:
            HandlerError: the module does not import, or the handler is not there; the message holds the reason and,
                where the module raised, the traceback.
            HandlerTimeout: the import took longer than the init limit (§7.1: 10 s).
            HandlerCrashed: the process ended while it imported.
        """
        ...

    async def invoke(self, function: FunctionSpec, invocation: Invocation) -> Outcome:
        """Run the handler once, in an environment that serves nobody else meanwhile.

        Returns within the function's timeout plus the kill budget. Cancelled, the invocation's environment is killed
        before the cancellation goes on: no handler runs that nobody waits for.

        Raises:
            RuntimeUnavailable: no environment can be started, and not for a reason that lies in the function.
        """
        ...

    async def retire(self, function: str) -> None:
        """End a function's idle environments, and its busy ones after their invocation."""
        ...

    def kill(self, request_id: str) -> bool:
        """Kill the environment that serves an invocation; its outcome becomes RELEASED. False when none does."""
        ...

    def is_alive(self, request_id: str) -> bool:
        """Tell whether the environment that serves an invocation is alive; False when there is none."""
        ...

    def statistics(self) -> RuntimeStatistics:
        """Return a snapshot."""
        ...
