"""The entry point of `eventcore`: runs a command, and makes a sentence and an exit code of whatever goes wrong.

`--version` imports nothing. This is one of the three places that may catch ``Exception`` (see `eventcore.errors`): no
traceback of ours reaches a user who has not asked for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

    from eventcore.cli.options import Options

PROGRAM = "eventcore"
#: Set by the shell's completion script: what to complete.
COMPLETION_VARIABLE = "_EVENTCORE_COMPLETE"
#: Set, tracebacks of ours are shown.
DEBUG_VARIABLE = "EVENTCORE_DEBUG"


def main() -> int:
    """Run the command that the process was started with, and return its exit code."""
    return run(sys.argv[1:])


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; everything it has to say is written."""
    if list(arguments) == ["--version"]:
        from eventcore import __version__

        print(f"eventcore {__version__}")  # noqa: T201 - click would cost more than all else here
        return 0
    return run_command(None, arguments)


def run_command(command: click.Command | None, arguments: Sequence[str]) -> int:
    """Run a command of click, or `eventcore` itself for None, as `run` does."""
    # https://no-color.org: set to anything but nothing.
    color = False if os.environ.get("NO_COLOR") or "--no-color" in arguments else None
    from eventcore.cli.options import Options

    options = Options()
    try:
        code = _run_click(command, arguments, color, options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - one of the three named in errors.py
        return _tell(error, color, options)
    return code


def _run_click(command: click.Command | None, arguments: Sequence[str], color: bool | None, options: Options) -> int:
    # Without `Command.main`: it has answers of its own to interrupts and broken pipes.
    import click

    if command is None:
        from eventcore.cli.root import cli

        command = cli
    if instruction := os.environ.get(COMPLETION_VARIABLE):
        from click.shell_completion import shell_complete

        return shell_complete(command, {}, PROGRAM, COMPLETION_VARIABLE, instruction)
    try:
        with command.make_context(PROGRAM, list(arguments), color=color, obj=options) as context:
            code = command.invoke(context)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return code if isinstance(code, int) else 0


def _tell(error: Exception, color: bool | None, options: Options) -> int:
    """Write what went wrong to standard error, in one sentence and what to do about it; return the exit code."""
    import click

    from eventcore.errors import CommandError, find_cause
    from eventcore.http.refusals import ExitCode, explain

    cause = find_cause(error)
    if isinstance(cause, BrokenPipeError):
        # Whoever reads has had enough, as `head` does. What is left in the buffer must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    if os.environ.get(DEBUG_VARIABLE):
        import traceback

        traceback.print_exception(error)
    told = explain(cause) or CommandError(
        f"eventcore has a defect: {type(cause).__name__}: {cause}",
        exit_code=ExitCode.FAILED,
        hint=f"run it again with {DEBUG_VARIABLE}=1 for the traceback, and report that",
    )
    click.echo(f"{click.style('error:', fg='red', bold=True)} {told.message}", err=True, color=color)
    if told.hint:
        click.echo(f"  {options.repeat_in(told.hint)}", err=True, color=color)
    return told.exit_code


if __name__ == "__main__":
    sys.exit(main())
