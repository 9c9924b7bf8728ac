"""What functions write: kept in files, shown live.

One file a function, `<state>/logs/<function>.log`, rotated and bounded; and the newest lines in memory, for those who
watch. A line of the file is time, request id, stream and text, separated by tabs.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

from eventcore.ports.runtime import LogLine
from eventcore.telemetry.attributes import FAAS_INVOKED_NAME, of_field
from eventcore.telemetry.fanout import FanOut

#: A file that has grown past this is rotated, bytes: what an editor still opens at once.
FILE_BYTES_MAX = 10 * 1024 * 1024
#: Rotated files that are kept beside the current one; so a function's logs take 60 MiB at most.
FILES_KEPT = 5
#: Files held open; the one that was opened first is closed for the next.
OPEN_FILES_MAX = 64
#: Newest lines kept in memory, and their text's size, for those who begin to watch.
RECENT_LINES_MAX = 2_000
RECENT_BYTES_MAX = 4 * 1024 * 1024
#: Ends of invocations of one function wait in memory up to this, bytes.
HELD_BYTES_MAX = 64 * 1024
#: How the line begins with which the platform ends an invocation (Lambda semantics §7.7).
_INVOCATION_END = "REPORT RequestId: "
#: `read_log` returns this many lines unless told otherwise: some screens full.
READ_LINES_MAX = 1_000

#: Stands where there is no request id: while the environment initialises.
_NO_REQUEST = "-"

_logger = logging.getLogger(__name__)


class LogStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot."""

    written: int  #: lines
    lost: int  #: lines of writes that failed or were cut off: disk full, folder gone


class _Held(NamedTuple):
    """Encoded lines of one function, and how many they are."""

    data: bytes
    lines: int


class FunctionLogs:
    """Takes the lines that functions write; a `LogSink`.

    Used as a context manager: left, its files are closed. For the engine's loop alone. A line is in the file when the
    call returns, so that an engine that is killed has lost none; but the end of an invocation waits for the next line
    of the function, or for the end of the loop's turn: the ends and begins of a busy function are one write. What can't
    be written is counted and passed over: a full disk must not stop a pipeline that has room to settle.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, _LogFile] = {}
        #: What came together stays together, and goes together: with its text's size.
        self._recent: deque[tuple[Sequence[LogLine], int]] = deque()
        self._recent_count = self._recent_bytes = 0
        self._listeners: FanOut[LogLine] = FanOut()
        self._held: dict[str, _Held] = {}  #: by function: ends of invocations
        self._written = 0
        self._lost = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write_held()
        while self._files:
            self._files.popitem()[1].close()

    def __call__(self, lines: Sequence[LogLine]) -> None:
        """Write lines of one function, at least one, at once; remember them, and show them to those who watch."""
        function = lines[0].function
        data, count = _encode(lines), len(lines)
        held = self._held.pop(function, None)
        if held is not None:
            data, count = held.data + data, held.lines + count
        if lines[-1].text.startswith(_INVOCATION_END) and len(data) <= HELD_BYTES_MAX and (held or self._hold()):
            self._held[function] = _Held(data, count)
        else:
            self._write(function, data, count)
        self._remember(lines)
        self._listeners.tell_all(lines, function)

    def _hold(self) -> bool:
        """See to it that what is held is written when the loop's turn ends; tell whether there is a loop."""
        if not self._held:
            try:
                asyncio.get_running_loop().call_soon(self._write_held)
            except RuntimeError:
                return False
        return True

    def _write_held(self) -> None:
        held, self._held = self._held, {}
        for function, (data, count) in held.items():
            self._write(function, data, count)

    def _write(self, function: str, data: bytes, count: int) -> None:
        try:
            self._file(function).write(data)
            self._written += count
        except OSError as error:
            if not self._lost:
                facts = {FAAS_INVOKED_NAME: function, of_field("error"): str(error)}
                _logger.warning("logs.write_failed", extra=facts)
            self._lost += count

    def subscribe(self, listener: Callable[[LogLine], None], *, function: str = "") -> Callable[[], None]:
        """Show every later line to ``listener``, or those of one function; return what ends that."""
        return self._listeners.subscribe(listener, function)

    def recent(self, *, function: str = "", request_id: str = "") -> list[LogLine]:
        """Return the newest lines that are still in memory, oldest first; of one function or one invocation if told."""
        return [
            line
            for lines, _ in self._recent
            for line in lines
            if (not function or line.function == function) and (not request_id or line.request_id == request_id)
        ]

    def statistics(self) -> LogStatistics:
        """Return a snapshot."""
        return LogStatistics(written=self._written, lost=self._lost)

    def _remember(self, lines: Sequence[LogLine]) -> None:
        lines = lines[-RECENT_LINES_MAX:]
        size_bytes = 0
        for line in lines:
            size_bytes += len(line.text)
        self._recent.append((lines, size_bytes))
        self._recent_count += len(lines)
        self._recent_bytes += size_bytes
        while self._recent_count > RECENT_LINES_MAX or self._recent_bytes > RECENT_BYTES_MAX:
            oldest, size_bytes = self._recent.popleft()
            self._recent_count -= len(oldest)
            self._recent_bytes -= size_bytes

    def _file(self, function: str) -> _LogFile:
        file = self._files.get(function)
        if file is None:
            file = self._files[function] = _LogFile(log_path(self._folder, function))
            if len(self._files) > OPEN_FILES_MAX:
                self._files.pop(next(iter(self._files))).close()
        return file


class _LogFile:
    """A file that is appended to, without a buffer, and rotated."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._size_bytes = 0
        self._is_torn = False

    def write(self, data: bytes) -> None:
        """Append whole lines.

        Raises:
            OSError: they are not, or not wholly, written.
        """
        if self._descriptor < 0:
            self._open()
        if self._size_bytes and self._size_bytes + len(data) > FILE_BYTES_MAX:
            self._rotate()
            self._open()
        # After a write that was cut off, the next line begins on its own.
        written = os.write(self._descriptor, b"\n" + data if self._is_torn else data)
        self._size_bytes += written
        self._is_torn = written < len(data)
        if self._is_torn:
            raise OSError(f"only {written} of {len(data)} bytes were written to {self._path}")

    def close(self) -> None:
        """Close the file; a later `write` opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # For the owner alone: functions log what they work with.
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size_bytes = os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        self.close()
        for number in range(FILES_KEPT, 0, -1):
            older = _rotated(self._path, number - 1)
            if older.exists():
                older.replace(_rotated(self._path, number))


def log_path(folder: Path, function: str) -> Path:
    """Return where a function's current log stands in the folder of logs."""
    return folder / f"{function}.log"


def read_log(path: Path, *, request_id: str = "", since_ms: int = 0, count_max: int = READ_LINES_MAX) -> list[LogLine]:
    """Return the newest ``count_max`` lines of a function's log, rotated files included, oldest first.

    What is not a line of ours is passed over. Empty when there is no log.

    Args:
        path: of the current file, as `log_path` says.
        request_id: only lines of this invocation; empty for all.
        since_ms: only lines at or after this wall time.
        count_max: how many.
    """
    lines: deque[LogLine] = deque(maxlen=count_max)
    for number in range(FILES_KEPT, -1, -1):
        for line in _read_file(_rotated(path, number), path.stem):
            if line.time_ms >= since_ms and (not request_id or line.request_id == request_id):
                lines.append(line)
    return list(lines)


def _rotated(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path


def _read_file(path: Path, function: str) -> Iterator[LogLine]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for data in file:
            line = _decode(data, function)
            if line is not None:
                yield line


def _encode(lines: Sequence[LogLine]) -> bytes:
    texts, head, prefix = [], None, ""
    for line in lines:
        if head != (head := (line.time_ms, line.request_id, line.stream)):
            prefix = f"{_moment(line.time_ms)}\t{line.request_id or _NO_REQUEST}\t{line.stream}\t"
        # A line within the line would be read back as something else: it becomes one of its own.
        body = line.text.replace("\n", "\n" + prefix) if "\n" in line.text else line.text
        texts.append(f"{prefix}{body}\n")
    return "".join(texts).encode(errors="replace")


@lru_cache(maxsize=4)
def _moment(time_ms: int) -> str:
    seconds, ms = divmod(time_ms, 1000)
    return f"{_second(seconds)}.{ms:03d}Z"


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def _decode(data: bytes, function: str) -> LogLine | None:
    fields = data.decode(errors="replace").removesuffix("\n").split("\t", 3)
    if len(fields) < 4:
        return None
    time, request_id, stream, text = fields
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return None
    return LogLine(
        function=function,
        request_id="" if request_id == _NO_REQUEST else request_id,
        time_ms=round(moment.timestamp() * 1000),
        text=text,
        stream=stream,
    )
