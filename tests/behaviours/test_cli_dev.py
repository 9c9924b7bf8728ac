"""`eventcore dev` shows what happens as it happens, and no faster than a person reads."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import msgspec
import pytest

from eventcore.cli.live import FUNCTION_LINES_MAX, INVOCATION_LINES_MAX, OTHER_LINES_MAX
from tests.behaviours.commands import POISONED, STREAM, run, running, write_pipeline

pytestmark = pytest.mark.slow

#: What a summary writes: of one mapping, of two kinds of lines that were left out, and the last of these.
SUMMARY_LINES = 4
#: What is written behind the reader's end arrives all the same where its last read has begun and not come back: on a
#: busy machine all lines of a record, or of a few.
SENDS_MAX = 100

BISECTING = STREAM.replace("batch_size = 10", "batch_size = 10\nbisect_batch_on_function_error = true")


def test_a_poison_record_can_be_watched_on_its_way(tmp_path: Path) -> None:
    """Invocations, a split, retries with error and place, the discard with its failure, what the function wrote."""
    folder = write_pipeline(tmp_path, POISONED, BISECTING)
    assert run("send", "stream:orders", "a", "b", "c", "poison", cwd=folder).returncode == 0
    with running("dev", cwd=folder) as engine:
        engine.wait_line("orders shard 0", "[0-3] invokes work with 4 records")
        engine.wait_line("work | order poison")
        engine.wait_line("[0-3] failed: ValueError: a poison order (handlers.py:8); split into 2 and 2, [0-1] first")
        engine.wait_line("[3] failed: ValueError: a poison order", "attempt 1 failed; again in")
        line = engine.wait_line("[3] discarded to queue:failed: RetryAttemptsExhausted")
        engine.send_signal(signal.SIGTERM)
        assert engine.wait() == 0
        assert engine.printed == []
        assert any("3 records settled" in line for line in engine.lines)
    hint = line.partition("eventcore ")[2].split()
    assert hint[:2] == ["failures", "show"]
    assert run(*hint, cwd=folder).returncode == 0


def test_hundreds_of_invocations_are_some_lines(tmp_path: Path) -> None:
    """Settled records are summed up, and of lines there is a bounded number between two summaries."""
    folder = write_pipeline(tmp_path, POISONED, STREAM.replace("batch_size = 10", "batch_size = 1"))
    assert run("send", "stream:orders", "x", "--count", "500", cwd=folder).returncode == 0
    with running("dev", cwd=folder) as engine:
        settled = 0
        while settled < 500:
            told = re.search(r"([\d,]+) records? settled", engine.wait_line("settled"))
            assert told is not None
            settled += int(told[1].replace(",", ""))
    assert settled == 500
    summaries = sum(bool(re.search(r"records? (received|settled)|invocations$", line)) for line in engine.lines)
    between = INVOCATION_LINES_MAX + FUNCTION_LINES_MAX + OTHER_LINES_MAX + SUMMARY_LINES
    assert len(engine.lines) <= (summaries + 1) * between


def test_events_are_data_where_data_is_asked_for(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, POISONED)
    with running("-o", "ndjson", "dev", cwd=folder) as engine:
        assert run("send", "stream:orders", "a", cwd=folder).returncode == 0
        engine.wait_printed("batch.settled")
        engine.send_signal(signal.SIGTERM)
        assert engine.wait() == 0
    events = [msgspec.json.decode(line) for line in engine.printed]
    assert [event["event"] for event in events if event["event"].startswith("batch")] == [
        "batch.invoked",
        "batch.settled",
    ]


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    """`eventcore dev -o ndjson | head -1`: what runs is settled first."""
    folder = write_pipeline(tmp_path, POISONED)
    with running("-o", "ndjson", "dev", cwd=folder) as engine:
        engine.wait_printed("Enabled")
        engine.stop_reading()
        for _ in range(SENDS_MAX):
            run("send", "stream:orders", "a", cwd=folder)  # fails where the engine ends before it has answered
            if engine.process.poll() is not None:
                break
        assert engine.wait() == 0
        assert not any("Error" in line or "error" in line for line in engine.lines)
