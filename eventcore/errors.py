"""Every error of eventcore, split by whose fault it is and what the engine does about it.

EventcoreError
├─ ConfigError                 the pipeline file is wrong: every mistake at once
├─ ProgrammingError            the API is misused: never caught by the engine
├─ PatternError                an event pattern can't be used, or what it is held against is no event
├─ SourceError                 the outside world; the engine reacts
│   ├─ SourceUnavailable         back off, then reconnect
│   ├─ SourceClosed              drained or deleted: stop this poller
│   ├─ ReceiptExpired            do not settle: another receive may own the message
│   └─ ShardLost                 another owner has the shard: stop working on it now
├─ DestinationError            a result could not be handed over
│   ├─ DestinationUnavailable    keep the row, try again
│   └─ DestinationRefused        the destination will never take this row as it is
├─ StoreError                  the state
│   ├─ StoreUnavailable          locked, read-only, disk full
│   ├─ StoreCorrupt              the file is not what was written
│   ├─ SchemaMismatch            written by a newer eventcore
│   ├─ StateInUse                another engine holds the state folder
│   └─ FencedOut                 a conditional write was refused: a newer epoch exists
├─ InvocationError             the function's fault, as exceptions for direct callers
│   ├─ HandlerError, HandlerTimeout, HandlerCrashed
│   └─ BadResponse
├─ RuntimeUnavailable          no environment can be started: a system error, never counted as an attempt
├─ Throttled                   our own limit; never counted as an attempt
├─ CommandError                a command can't do what was asked; carries the exit code
└─ ConnectorUnavailable        a client library is missing; the message is the command that installs it

A class's docstring is its default message. Errors carry fields; ``str()`` puts them into one sentence.
Within the package only three places may catch ``Exception`` broadly: the runtime's border
(`eventcore/runtime/fault.py`), the supervision of the engine's parts (`eventcore/engine/supervision.py`) and the
command line (`eventcore/cli/main.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import ClassVar

import msgspec


class EventcoreError(Exception):
    """Something in eventcore went wrong."""

    def __init__(self, message: str | None = None) -> None:
        self.message = message or inspect.cleandoc(self.__class__.__doc__ or "").split("\n")[0]
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


def find_cause(error: BaseException) -> BaseException:
    """Return the first error of a group, and of groups within it: tasks of one engine tend to fail for one reason."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Mistake(msgspec.Struct, frozen=True, kw_only=True):
    """One mistake in a pipeline file: where it stands, what is wrong, why, and what to write instead."""

    path: str  #: where in the document, as `mappings.orders.batch_size`
    message: str  #: what is wrong and why
    hint: str = ""  #: what to write instead; empty where nothing useful can be said
    file: str = ""  #: the file; empty for pipelines written in Python
    line: int | None = None  #: 1-based line in the file, where known

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.file and self.line else f"{self.file}: " if self.file else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{self.path}: {self.message}{hint}"


class ConfigError(EventcoreError):
    """The pipeline file has mistakes."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


class ProgrammingError(EventcoreError):
    """The API was used in a way it does not allow."""


class PatternError(EventcoreError):
    """The event pattern is not valid."""


class SourceError(EventcoreError):
    """A source failed."""

    def __init__(self, message: str | None = None, *, source: str = "") -> None:
        self.source = source
        super().__init__(message)


class SourceUnavailable(SourceError):
    """The source can't be reached."""

    def __init__(self, message: str | None = None, *, source: str = "", retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, source=source)


class SourceClosed(SourceError):
    """The source was drained or deleted."""


class ReceiptExpired(SourceError):
    """The visibility timeout passed: another receive may own the message."""


class ShardLost(SourceError):
    """The shard has another owner."""

    def __init__(self, message: str | None = None, *, source: str = "", shard: str = "", epoch: int = 0) -> None:
        self.shard = shard
        self.epoch = epoch
        super().__init__(message, source=source)


class DestinationError(EventcoreError):
    """A result could not be handed over to its destination."""

    def __init__(self, message: str | None = None, *, destination: str = "", taken_count: int = 0) -> None:
        self.destination = destination
        #: How many leading rows of the failed hand-over the destination has taken all the same.
        self.taken_count = taken_count
        super().__init__(message)


class DestinationUnavailable(DestinationError):
    """The destination can't be reached."""

    def __init__(
        self,
        message: str | None = None,
        *,
        destination: str = "",
        taken_count: int = 0,
        retry_after_s: float | None = None,
    ) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, destination=destination, taken_count=taken_count)


class DestinationRefused(DestinationError):
    """The destination will never take this row as it is."""


class StoreError(EventcoreError):
    """The state could not be read or written."""


class StoreUnavailable(StoreError):
    """The state can't be written: it is locked, read-only, or the disk is full."""


class StoreCorrupt(StoreError):
    """The state file is damaged."""


class SchemaMismatch(StoreError):
    """The state was written by a newer eventcore."""


class StateInUse(StoreError):
    """Another engine runs on this state folder."""


class FencedOut(StoreError):
    """A newer owner has taken over: this write was refused."""

    def __init__(self, message: str | None = None, *, epoch: int = 0) -> None:
        self.epoch = epoch
        super().__init__(message)


class InvocationError(EventcoreError):
    """The function failed."""

    def __init__(self, message: str | None = None, *, request_id: str = "", function: str = "") -> None:
        self.request_id = request_id
        self.function = function
        super().__init__(message)


class HandlerError(InvocationError):
    """The handler raised."""


class HandlerTimeout(InvocationError):
    """The handler ran past its timeout."""


class HandlerCrashed(InvocationError):
    """The handler's process ended."""

    def __init__(
        self, message: str | None = None, *, request_id: str = "", function: str = "", exit_code: int | None = None
    ) -> None:
        self.exit_code = exit_code
        super().__init__(message, request_id=request_id, function=function)


class BadResponse(InvocationError):
    """The handler's response can't be used."""


class RuntimeUnavailable(EventcoreError):
    """No environment can be started."""


class Throttled(EventcoreError):
    """The function's concurrency is used up."""

    def __init__(self, message: str | None = None, *, limit: int = 0) -> None:
        self.limit = limit
        super().__init__(message)


class CommandError(EventcoreError):
    """The command can't be carried out."""

    #: The process exit code, see `eventcore/cli/README.md`.
    FAILED: ClassVar[int] = 1

    def __init__(self, message: str | None = None, *, exit_code: int = FAILED, hint: str = "") -> None:
        self.exit_code = exit_code
        self.hint = hint
        super().__init__(message)


class ConnectorUnavailable(EventcoreError):
    """A client library is missing."""

    def __init__(self, message: str | None = None, *, requirement: str = "") -> None:
        self.requirement = requirement
        super().__init__(message or (f"pip install {requirement}" if requirement else None))
