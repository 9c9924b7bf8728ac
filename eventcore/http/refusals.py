"""Which sentence and which exit code an error becomes, on the control socket and on the command line alike."""

from __future__ import annotations

import enum

from eventcore.errors import (
    CommandError,
    ConfigError,
    ConnectorUnavailable,
    DestinationError,
    EventcoreError,
    SourceError,
    find_cause,
)


class ExitCode(enum.IntEnum):
    """What a command's exit code says; `eventcore/cli/README.md` explains each to users."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIG_INVALID = 3
    SOURCE_UNREACHABLE = 4
    ASSERTION_FAILED = 5
    SOME_FAILED = 6
    TIMED_OUT = 124
    INTERRUPTED = 130


def explain(error: BaseException) -> CommandError | None:
    """Return an error as what a person is told; None for one that is a defect and not an answer."""
    match find_cause(error):
        case CommandError() as told:
            return told
        case ConfigError() as invalid:
            return CommandError(_list_mistakes(invalid), exit_code=ExitCode.CONFIG_INVALID)
        case ConnectorUnavailable(requirement=requirement) as missing if requirement:
            message, hint = "a client library is missing", missing.message
            return CommandError(message, exit_code=ExitCode.SOURCE_UNREACHABLE, hint=hint)
        case (SourceError() | DestinationError() | ConnectorUnavailable()) as unreachable:
            return CommandError(str(unreachable), exit_code=ExitCode.SOURCE_UNREACHABLE)
        case EventcoreError() as other:
            return CommandError(str(other))
        case _:
            return None


def _list_mistakes(error: ConfigError) -> str:
    """Return the mistakes, each on a line that begins with its place, as editors and terminals understand it."""
    if len(error.mistakes) == 1:
        return str(error)
    return f"the pipeline has {len(error.mistakes)} mistakes\n{error}"
