"""How commands print: data on standard output, in the form that was asked for; all else on standard error."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

FORMS = ("table", "json", "ndjson")
#: A column of a table that goes to a file or a pipe is never cut.
_UNLIMITED = 1 << 20
#: Columns of a terminal that does not say how many it has.
_COLUMNS_DEFAULT = 120

#: Fewer are done before a bar could be read.
BAR_FROM = 2000

_GAP = "  "
#: The last column is what people look for: narrower than this, it gets a line of its own.
_LAST_COLUMN_MIN = 40

#: Colors may pass; whatever else a terminal would act on is shown instead.
_CONTROL = re.compile(r"\x1b\[[0-9;]*m|[\x00-\x08\x0a-\x1f\x7f-\x9f]")


class Output:
    """Prints in one form."""

    def __init__(self, form: str, *, verbosity: int = 0) -> None:
        self.form = form
        self.verbosity = verbosity
        # As it is now: what user code prints in this process is sent elsewhere while it runs.
        self._data = sys.stdout

    @property
    def is_table(self) -> bool:
        """Whether a person reads it."""
        return self.form == "table"

    def data(self, value: Any) -> None:
        """Print a value as JSON: one document, or one line for each element of a sequence."""
        if self.form == "json":
            self._echo(msgspec.json.format(msgspec.json.encode(value), indent=2))
            return
        is_sequence = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        for element in value if is_sequence else [value]:
            self._echo(msgspec.json.encode(element))

    def table(
        self, headings: Sequence[str], rows: Iterable[Sequence[str]], *, shrinks: Mapping[str, int] | None = None
    ) -> None:
        """Print rows under headings, as wide as they need; the last column is cut at the terminal's width.

        Args:
            headings: of the columns.
            rows: their cells.
            shrinks: columns that are cut first, in this order, and what each keeps; with them the last column stands
                on a line of its own where that is not enough.
        """
        written = [tuple(headings), *(tuple(show_line(cell) for cell in row) for row in rows)]
        widths = [max(len(click.unstyle(row[index])) for row in written) for index in range(len(headings))]
        columns, is_folded = _columns(), False
        if shrinks is not None:
            kept = {headings.index(heading): max(width, len(heading)) for heading, width in shrinks.items()}
            is_folded = _shrink(widths, kept, columns)
        for number, row in enumerate(written):
            cells = [_cut(cell, width) for cell, width in zip(row, widths, strict=True)]
            lines = [_join(cells[:-1], widths[:-1]), f"    {row[-1]}"] if is_folded else [_join(cells, widths)]
            for line in [_cut(line, columns) for line in lines if click.unstyle(line).strip()]:
                self._echo(click.style(line, dim=True) if number == 0 else line)

    def text(self, text: str) -> None:
        """Print a line of data for people."""
        self._echo(text)

    def _echo(self, text: str | bytes) -> None:
        click.echo(text, file=self._data)

    def note(self, text: str) -> None:
        """Say something beside the data, unless `-q` was given."""
        if self.verbosity >= 0:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """Say something that may be wrong, `-q` or not."""
        click.echo(f"{click.style('warning:', fg='yellow')} {text}", err=True)


class GuardedWriter:
    """Calls what writes for as long as somebody reads; from within an engine's loop, which no reader may end."""

    def __init__(self, write: Callable[..., None], on_gone: Callable[[], None]) -> None:
        """Prepare to write.

        Args:
            write: writes to a standard stream.
            on_gone: called once, when the stream was closed at its other end.
        """
        self._write = write
        self._on_gone = on_gone
        self.is_gone = False

    def __call__(self, *arguments: Any) -> None:
        """Write, unless nobody reads any more."""
        if self.is_gone:
            return
        try:
            self._write(*arguments)
        except OSError:
            self.is_gone = True
            self._on_gone()


@contextmanager
def show_progress(total: int | None, label: str) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error within the block, where there is much to do and somebody looks.

    Args:
        total: how many there are; None where that is not known.
        label: what is being done.

    Yields:
        What to call with each number that was done.
    """
    if total is None or total < BAR_FROM or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=total, label=label, file=sys.stderr) as bar:
        yield bar.update


def clear_line() -> None:
    """Take away a bar, before something is written beside it; it comes back when it moves on."""
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)


def confirm(question: str) -> None:
    """Ask before much is deleted.

    Raises:
        Abort: the answer is no.
        UsageError: there is nobody to answer.
    """
    try:
        is_confirmed = click.confirm(question, err=True)
    except click.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise
        click.echo(err=True)
        raise click.UsageError("nobody answers on standard input: --yes answers") from error
    if not is_confirmed:
        raise click.Abort


def is_interactive() -> bool:
    """Tell whether standard output is a terminal that can be drawn on."""
    return sys.stdout.isatty()


def show_time(time_ms: int) -> str:
    """Return a wall time as people read it, in their time zone; empty for 0."""
    if not time_ms:
        return ""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC).astimezone()
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def show_span(span_ms: float) -> str:
    """Return a length of time in its two largest units: `350 ms`, `4.2 s`, `3 min 5 s`, `2 d 4 h`."""
    if span_ms < 1000:
        return f"{max(0, round(span_ms))} ms"
    seconds = span_ms / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = round(seconds)
    parts: list[str] = []
    for name, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {name}" if count else "")
    return " ".join(part for part in parts[:2] if part)


def show_count(count: int, noun: str) -> str:
    """Return a count with its noun: `1 record`, `1,200 records`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def show_line(text: str) -> str:
    """Return text that came from outside as one line that does nothing to the terminal."""
    return _CONTROL.sub(_show_control, text)


def _show_control(match: re.Match[str]) -> str:
    found = match.group()
    if len(found) > 1:
        return found
    return " " if found == "\n" else found.encode("unicode_escape").decode("ascii")


def _join(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(row, widths, strict=True)]
    return _GAP.join(cells).rstrip()


def _columns() -> int:
    """Return how wide a line may be."""
    return shutil.get_terminal_size((_COLUMNS_DEFAULT, 0)).columns if is_interactive() else _UNLIMITED


def _shrink(widths: list[int], kept: Mapping[int, int], columns: int) -> bool:
    """Make columns narrower, so far as is needed, until the last one has room.

    Args:
        widths: of the columns, changed in place.
        kept: the columns that may shrink, in this order, and the width that each keeps.
        columns: how wide a line may be.

    Returns:
        Whether the last column needs a line of its own all the same.
    """
    wanted = min(widths[-1], _LAST_COLUMN_MIN)
    missing = sum(widths[:-1]) + len(_GAP) * (len(widths) - 1) + wanted - columns
    for index, width in kept.items():
        cut = max(0, min(missing, widths[index] - width))
        widths[index] -= cut
        missing -= cut
    return missing > 0


def _cut(text: str, width: int) -> str:
    """Cut text at a width; colors before the cut are ended."""
    plain = click.unstyle(text)
    return text if len(plain) <= width else f"{plain[: width - 1]}…"
