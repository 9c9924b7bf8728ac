"""A command feels instant: it imports what it needs, and nothing else; a reader that goes away ends it quietly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.behaviours.commands import EVENTCORE, PATIENCE_S, POISONED, run, running, write_pipeline

pytestmark = pytest.mark.slow

#: What costs more than all of a command's own work.
HEAVY = {"asyncio", "anyio", "aiosqlite", "sqlite3", "uvicorn", "starlette", "httpx", "aiokafka", "opentelemetry"}


def imported(*arguments: str, cwd: Path) -> set[str]:
    """Return the packages that a command imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *EVENTCORE[1:], *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_the_version_costs_next_to_nothing(tmp_path: Path) -> None:
    assert not imported("--version", cwd=tmp_path) & {*HEAVY, "click", "msgspec"}


def test_help_and_completion_import_no_engine(tmp_path: Path) -> None:
    for arguments in (["--help"], ["init", "--help"], ["completion", "bash"]):
        assert not imported(*arguments, cwd=tmp_path) & HEAVY


def test_asking_a_running_engine_needs_no_event_loop_and_no_database(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, POISONED)
    with running("run", cwd=folder):
        found = imported("queue", "peek", "failed", cwd=folder)
    assert "msgspec" in found
    assert not found & (HEAVY - {"anyio"})


def test_a_reader_that_goes_away_ends_a_command_quietly(tmp_path: Path) -> None:
    """`eventcore queue peek ... | head -1`."""
    folder = write_pipeline(tmp_path, POISONED)
    assert run("send", "queue:failed", "x" * 1000, "--count", "500", cwd=folder).returncode == 0
    with subprocess.Popen(
        [*EVENTCORE, "-o", "ndjson", "queue", "peek", "failed", "-n", "500"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        assert (process.wait(timeout=PATIENCE_S), said) == (0, b"")


def test_a_defect_of_ours_is_a_sentence_and_its_traceback_only_on_request(tmp_path: Path) -> None:
    """EVENTCORE_DEBUG=1 shows it."""
    program = (
        "import sys, click\n"
        "from eventcore.cli.main import run_command\n"
        "@click.command()\n"
        "def broken(): raise LookupError('of ours')\n"
        "sys.exit(run_command(broken, []))\n"
    )
    for debug, shown in (("", False), ("1", True)):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            env={"EVENTCORE_DEBUG": debug},
        )
        assert done.returncode == 1
        assert "eventcore has a defect: LookupError: of ours" in done.stderr
        assert ("Traceback" in done.stderr) is shown
