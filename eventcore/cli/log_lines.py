"""How a line that a function wrote is printed."""

from __future__ import annotations

import click

from eventcore.cli.output import show_line, show_time
from eventcore.ports.runtime import LogLine

_COLORS = {"stderr": "red", "platform": "bright_black"}


def show_log_line(line: LogLine, *, has_time: bool = False) -> str:
    """Return a function's line as people read it: its name, then what it wrote."""
    prefix = f"{show_time(line.time_ms)}  " if has_time else ""
    text = click.style(show_line(line.text), fg=_COLORS.get(line.stream))
    return f"{prefix}{click.style(line.function, fg='cyan')} | {text}"


def print_line(line: LogLine, *, color: bool | None = None) -> None:
    """Print a function's line to standard error.

    Args:
        line: the line.
        color: whether it is colored; None: as the command and the terminal say, which only its own thread knows.
    """
    click.echo(show_log_line(line), err=True, color=color)
