"""`eventcore logs`: what functions wrote. Read from the state folder's files, whether an engine runs or not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import click

from eventcore.cli.complete import complete_names
from eventcore.cli.log_lines import show_log_line
from eventcore.cli.options import Options, PipelineCommand, pass_options
from eventcore.cli.output import Output
from eventcore.cli.place import find_place
from eventcore.clock import SystemClock
from eventcore.errors import CommandError
from eventcore.ports.runtime import LogLine
from eventcore.telemetry.logs import READ_LINES_MAX, log_path, read_log

#: Seconds between two looks of `--follow`.
FOLLOW_EVERY_S = 0.3

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Since(click.ParamType[int]):
    """A length of time before now, as `90s`, `10m`, `2h`, `1d`; milliseconds."""

    name = "TIME"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the length in milliseconds."""
        match = re.fullmatch(r"(\d{1,6})([smhd])", str(value))
        if match is None:
            self.fail(f"{value!r} is not a length of time: write 90s, 10m, 2h or 1d", param, ctx)
        return int(match[1]) * _UNITS_S[match[2]] * 1000


@click.command("logs", cls=PipelineCommand)
@click.argument("function", required=False, shell_complete=complete_names("functions"))
@click.option("-f", "--follow", is_flag=True, help="go on with what is written from now on, until Ctrl-C")
@click.option("--since", type=Since(), help="only lines of the last 90s, 10m, 2h, 1d")
@click.option("--request-id", default="", help="only lines of one invocation")
@click.option("-n", "--lines", type=click.IntRange(1, 1_000_000), default=READ_LINES_MAX, show_default=True)
@pass_options
def logs_command(
    options: Options, function: str | None, follow: bool, since: int | None, request_id: str, lines: int
) -> None:
    """Print what FUNCTION wrote, or every function, oldest line first; start, end and report of each invocation too."""
    folder = find_place(options).state / "logs"
    since_ms = SystemClock().now_ms() - since if since is not None else 0
    found = _read(folder, function, request_id, since_ms, lines)
    _print(options.output, found)
    if follow:
        import anyio

        anyio.run(_follow, options.output, _Tail(folder, function, request_id, found), lines)
    elif not found and function is not None and not log_path(folder, function).exists():
        raise CommandError(f"there is no log of a function `{function}` in {folder}", hint=_known(folder))
    elif not found and request_id:
        options.output.note(f"no line of request {request_id} is kept: is the id whole? older lines are dropped")


class _Tail:
    """What was printed already, and what comes behind it."""

    def __init__(self, folder: Path, function: str | None, request_id: str, printed: list[LogLine]) -> None:
        self._folder = folder
        self._function = function
        self._request_id = request_id
        self._latest_ms = printed[-1].time_ms if printed else 0
        #: Lines of the latest millisecond: others of the same one may still come.
        self._of_latest = [line for line in printed if line.time_ms == self._latest_ms]

    def read(self, count_max: int) -> list[LogLine]:
        """Return the lines that were written since the last look."""
        found = _read(self._folder, self._function, self._request_id, self._latest_ms, count_max)
        seen = list(self._of_latest)
        new = []
        for line in found:
            if line in seen:
                seen.remove(line)
            else:
                new.append(line)
        if new:
            self._latest_ms = max(self._latest_ms, new[-1].time_ms)
            self._of_latest = [line for line in found if line.time_ms == self._latest_ms]
        return new


async def _follow(output: Output, tail: _Tail, lines: int) -> None:
    import anyio

    while True:
        await anyio.sleep(FOLLOW_EVERY_S)
        _print(output, tail.read(lines))


def _read(folder: Path, function: str | None, request_id: str, since_ms: int, count_max: int) -> list[LogLine]:
    """Return the newest lines of one function, or of all in the order of their time."""
    paths = [log_path(folder, function)] if function is not None else sorted(folder.glob("*.log"))
    found = [
        line for path in paths for line in read_log(path, request_id=request_id, since_ms=since_ms, count_max=count_max)
    ]
    if len(paths) > 1:
        found.sort(key=lambda line: line.time_ms)
    return found[-count_max:]


def _print(output: Output, lines: Iterable[LogLine]) -> None:
    if output.form == "json":
        output.data(list(lines))
        return
    for line in lines:
        if output.is_table:
            output.text(show_log_line(line, has_time=True))
        else:
            output.data(line)


def _known(folder: Path) -> str:
    names = ", ".join(path.stem for path in sorted(folder.glob("*.log")))
    return f"known: {names}" if names else "nothing has been written yet"
