"""Engines as a person runs them: `eventcore run` in child processes, on pipelines in folders of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

#: A generous bound for anything that a test waits for, seconds.
PATIENCE_S = 60.0

PIPELINE = """
[kafka.local]
bootstrap_servers = "{address}"
{session}
max_poll_interval_ms = {max_poll_interval_ms}
rebalance_timeout_ms = 10000
{connection}

[functions.work]
handler = "work.handle"
runtime = "{runtime}"
timeout = {timeout}
concurrency = 8

[mappings.orders]
source = "kafka:local/{topic}"
function = "work"
starting_position = "TRIM_HORIZON"
consumer_group_id = "{group}"
on_failure = "kafka:local/{failed}"
{mapping}
"""

#: Notes every invocation before it does anything else; `{body}` decides what it does then.
HANDLER = """
import asyncio, base64, json, os, time
from pathlib import Path

HERE = Path(__file__).parent


{prefix}def handle(event, context):
    records = [record for batch in event["records"].values() for record in batch]
    numbers = [int(base64.b64decode(record["value"])) for record in records]
    note = {{"shard": next(iter(event["records"])), "numbers": numbers, "pid": os.getpid(),
            "request_id": context.aws_request_id}}
    with (HERE / "invocations.log").open("a") as log:
        log.write(json.dumps(note) + "\\n")
    {body}
    with (HERE / "done.log").open("a") as log:
        log.write(json.dumps(note) + "\\n")
"""


class EngineFolder:
    """A pipeline's folder, and the engine that runs it now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def invocations(self, log: str = "invocations.log") -> list[dict[str, Any]]:
        """Return what the handler noted, in order; not the line that it may be writing."""
        path = self.folder / log
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().split("\n")[:-1]]

    def numbers(self, log: str = "invocations.log") -> list[int]:
        """Return the numbers that the handler saw, in order."""
        return [number for note in self.invocations(log) for number in note["numbers"]]

    def start(self, **environment: str) -> None:
        """Run the engine, with environment variables besides."""
        with (self.folder / "engine.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "eventcore", "run", str(self.folder / "eventcore.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "NO_COLOR": "1", **environment},
            )

    @property
    def exit_code(self) -> int | None:
        """What it ended with; None while it runs."""
        assert self.process is not None
        return self.process.poll()

    def end(self) -> None:
        """Leave nothing running, and show what it said."""
        if self.process is not None:
            sys.stderr.write(f"--- {self.folder.name}\n{self.log()[-4000:]}\n")
            if self.exit_code is None:
                self.kill()

    def kill(self) -> None:
        """End it as a crash does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        """Drain it and return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def log(self) -> str:
        """Return what the engine said."""
        return (self.folder / "engine.log").read_text(errors="replace")


def session_lines(connection: str, *, timeout_ms: int) -> str:
    """Return the session's settings for a connection, where it does not leave them to the brokers."""
    is_classic = "group_protocol" not in connection
    return f"session_timeout_ms = {timeout_ms}\nheartbeat_interval_ms = 300" if is_classic else ""


@contextmanager
def engine_folders(root: Path, count: int, *, body: str, is_async: bool = False, **settings: Any) -> Iterator[Any]:
    """Make folders with one pipeline each; every engine that still runs at the end is killed."""
    pipeline = {
        "session_timeout_ms": 6000,
        "max_poll_interval_ms": 60_000,
        "runtime": "process",
        "timeout": 60,
        "mapping": "",
        "connection": "",
        **settings,
    }
    pipeline["session"] = session_lines(pipeline["connection"], timeout_ms=pipeline["session_timeout_ms"])
    folders = []
    for number in range(count):
        folder = root / f"engine-{number}"
        folder.mkdir()
        (folder / "eventcore.toml").write_text(PIPELINE.format(**pipeline))
        prefix = "async " if is_async else ""
        (folder / "work.py").write_text(HANDLER.format(body=body, prefix=prefix))
        folders.append(EngineFolder(folder))
    try:
        yield folders
    finally:
        for engine in folders:
            engine.end()


async def until(condition: Callable[[], bool], what: str, *, within_s: float = PATIENCE_S) -> None:
    """Wait for something that other processes do."""
    with anyio.move_on_after(within_s):
        while not condition():  # noqa: ASYNC110 - other processes set no event of ours
            await anyio.sleep(0.05)
    assert condition(), f"not within {within_s:.0f} s: {what}"
