"""`eventcore status` says what a pipeline does; a blocked shard is one line with its error and next try (design §5)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.behaviours.commands import POISONED, STREAM, ask, run, running, write_pipeline

pytestmark = pytest.mark.slow

#: Retries without end: the shard stays blocked.
BLOCKING = STREAM.replace("maximum_retry_attempts = 1", "maximum_retry_attempts = -1")


def blocked_lines(folder: Path) -> list[str]:
    done = run("status", cwd=folder)
    assert done.returncode == 0
    return [line for line in done.stdout.splitlines() if "BLOCKED" in line]


def test_a_blocked_shard_is_one_line_with_all_there_is_to_know(tmp_path: Path) -> None:
    """Position, since when, attempt, error with file and line, next try; without an engine what the state knows."""
    folder = write_pipeline(tmp_path, POISONED, BLOCKING)
    with running("-v", "run", cwd=folder) as engine:
        assert run("send", "stream:orders", "a", cwd=folder).returncode == 0
        engine.wait_line("batch.settled")
        assert run("send", "stream:orders", "poison", "b", cwd=folder).returncode == 0
        engine.wait_line("batch.retried", "attempt=3")
        (line,) = blocked_lines(folder)
        for part in ("orders shard 0", "at 1", "since ", "ValueError: a poison order (handlers.py:8)", "lag 2"):
            assert part in line
        assert "next try in" in line or "being tried now" in line
        engine.send_signal(signal.SIGTERM)
        assert engine.wait() == 0
    (line,) = blocked_lines(folder)
    assert "at 1 since" in line
    assert "next try when an engine runs" in line
    assert "lag 2" in line


def test_status_is_the_same_document_with_an_engine_and_without(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, POISONED)
    assert run("send", "stream:orders", "a", "b", cwd=folder).returncode == 0
    stopped = ask("status", cwd=folder)
    with running("-v", "run", cwd=folder) as engine:
        engine.wait_line("batch.settled")
        report = ask("status", cwd=folder)
    assert report.keys() == stopped.keys()
    (before,), (mapping,) = stopped["mappings"], report["mappings"]
    assert (before["state"], mapping["state"]) == ("Stopped", "Enabled")
    assert before.keys() == mapping.keys()
    assert mapping["counters"]["settled"] == 2
    assert mapping["last_result"] == "OK"
    (shard,) = mapping["shards"]
    assert (shard["checkpoint"], shard["lag"]) == (2, 0)
    assert {depth["queue"] for depth in report["queues"]} == {"discards", "failed", "parked"}


def test_watch_looks_again_until_it_is_interrupted(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, POISONED)
    with running("status", "--watch", "-o", "ndjson", cwd=folder, until="") as watching:
        watching.wait_printed(2)
        watching.send_signal(signal.SIGINT)
        assert watching.wait() == 130
        assert not any(watching.lines)
