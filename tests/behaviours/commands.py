"""`eventcore` as its users start it: as processes, in a folder of their own."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from click.testing import CliRunner

from eventcore.cli import main

EVENTCORE = [sys.executable, "-m", "eventcore"]
#: A generous bound for "has happened", seconds.
PATIENCE_S = 30.0

STREAM = """
[streams.orders]
shards = 1

[functions.work]
handler = "handlers.work"
timeout = 30

[mappings.orders]
source = "stream:orders"
function = "work"
starting_position = "TRIM_HORIZON"
batch_size = 10
maximum_retry_attempts = 1
on_failure = "queue:failed"

[queues.failed]
"""

#: Fails for a body of "poison", and for nothing else.
POISONED = """
import eventcore

def work(batch: eventcore.Batch) -> None:
    for record in batch:
        print("order", record.value.decode())
        if record.value == b"poison":
            raise ValueError("a poison order")
"""

#: Says that it runs, then waits until somebody writes into the pipe `gate` beside it.
GATED = """
import pathlib

def work(event, context):
    here = pathlib.Path(__file__).parent
    with (here / "running").open("w"):
        pass
    (here / "gate").read_text()
"""


def write_pipeline(folder: Path, handler: str, pipeline: str = STREAM) -> Path:
    """Write a pipeline file and its handlers into a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "eventcore.toml").write_text(pipeline)
    (folder / "handlers.py").write_text(handler)
    return folder


def write_gated(folder: Path, pipeline: str = STREAM, handler: str = GATED) -> Path:
    """Write a pipeline whose handler tells that it runs and then waits to be let go."""
    write_pipeline(folder, handler, pipeline)
    os.mkfifo(folder / "gate")
    os.mkfifo(folder / "running")
    return folder


def wait_gated(folder: Path) -> None:
    """Return once the gated handler runs."""
    (folder / "running").read_text()


def open_gate(folder: Path) -> None:
    """Let the gated handler go."""
    (folder / "gate").write_text("go")


class Done(msgspec.Struct, frozen=True):
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str, cwd: Path, data: str | None = None) -> Done:
    """Run a command to its end, in this process: a tenth of a second instead of a whole one."""
    with chdir(cwd), CliRunner().isolation(input=data) as (stdout, stderr, _):
        returncode = main.run(arguments)
        return Done(returncode, stdout.getvalue().decode(), stderr.getvalue().decode())


def run_process(*arguments: str, cwd: Path, data: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as a process of its own."""
    return subprocess.run(
        [*EVENTCORE, *arguments],
        cwd=cwd,
        input=data,
        stdin=subprocess.DEVNULL if data is None else None,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def ask(*arguments: str, cwd: Path) -> Any:
    """Run a command that succeeds, and return what it prints as JSON."""
    done = run("-o", "json", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout)


class Running:
    """A command that goes on, and what it has written so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.printed: list[str] = []
        self._has_printed = threading.Condition()
        self._coming: queue.Queue[str | None] = queue.Queue()
        self._threads = [
            threading.Thread(target=self._read_notes, daemon=True),
            threading.Thread(target=self._read_data, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read_notes(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._coming.put(line.rstrip("\n"))
        self._coming.put(None)

    def _read_data(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._has_printed:
                self.printed.append(line.rstrip("\n"))
                self._has_printed.notify_all()

    def wait_printed(self, wanted: int | str) -> None:
        """Return once so many lines, or one that holds a text, stand on standard output."""

        def is_there() -> bool:
            if isinstance(wanted, int):
                return len(self.printed) >= wanted
            return any(wanted in line for line in self.printed)

        with self._has_printed:
            assert self._has_printed.wait_for(is_there, timeout=PATIENCE_S), self.printed

    def wait_line(self, *parts: str) -> str:
        """Return the first line of standard error, from here on, that holds all of some texts."""
        while True:
            line = self._coming.get(timeout=PATIENCE_S)
            assert line is not None, f"no line with {parts} in:\n" + "\n".join(self.lines)
            self.lines.append(line)
            if all(part in line for part in parts):
                return line

    def stop_reading(self) -> None:
        """Close the reading end of standard output."""
        assert self.process.stdout is not None
        os.dup2(os.open(os.devnull, os.O_RDONLY), self.process.stdout.fileno())

    def send_signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Return its exit code once it has ended and all it wrote was read."""
        code = self.process.wait(timeout=PATIENCE_S)
        for thread in self._threads:
            thread.join(timeout=PATIENCE_S)
        while (line := self._coming.get(timeout=PATIENCE_S)) is not None:
            self.lines.append(line)
        return code


@contextmanager
def running(*arguments: str, cwd: Path, until: str = "running 1 mapping") -> Iterator[Running]:
    """Start a command and wait for a line of its standard error; left, it is gone."""
    process = subprocess.Popen(
        [*EVENTCORE, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started = Running(process)
    try:
        if until:
            started.wait_line(until)
        yield started
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=PATIENCE_S)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            for thread in started._threads:
                thread.join(timeout=PATIENCE_S)
            stream.close()
