"""`eventcore run` drains at the first signal and aborts at the second; the state belongs to one engine (design §5)."""

from __future__ import annotations

import signal
import sqlite3
import stat
from pathlib import Path

import pytest

from tests.behaviours.commands import (
    GATED,
    POISONED,
    STREAM,
    ask,
    open_gate,
    run,
    run_process,
    running,
    wait_gated,
    write_gated,
    write_pipeline,
)

pytestmark = pytest.mark.slow


def shard(folder: Path) -> dict[str, int]:
    """Return the one shard's status."""
    (mapping,) = ask("status", cwd=folder)["mappings"]
    (found,) = mapping["shards"]
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_what_runs_finish(tmp_path: Path, number: signal.Signals) -> None:
    """The engine exits with 0, and the record is settled."""
    folder = write_gated(tmp_path)
    with running("run", cwd=folder) as engine:
        assert run("send", "stream:orders", "a", cwd=folder).returncode == 0
        wait_gated(folder)
        engine.send_signal(number)
        engine.wait_line("draining")
        open_gate(folder)
        assert engine.wait() == 0
        assert engine.printed == []
    assert (shard(folder)["checkpoint"], shard(folder)["lag"]) == (1, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_aborts_and_loses_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """The handler is killed, and its record is delivered again by the next engine."""
    folder = write_gated(tmp_path, STREAM + "[settings]\ndrain_timeout = 900\n")
    with running("run", cwd=folder) as engine:
        assert run("send", "stream:orders", "a", cwd=folder).returncode == 0
        wait_gated(folder)
        engine.send_signal(number)
        engine.wait_line("draining")
        engine.send_signal(number)
        engine.wait_line("aborting")
        assert engine.wait() == 130
    assert (shard(folder)["checkpoint"], shard(folder)["lag"]) == (0, 1)
    with running("run", cwd=folder) as engine:
        wait_gated(folder)
        engine.send_signal(signal.SIGTERM)
        engine.wait_line("draining")
        open_gate(folder)
        assert engine.wait() == 0
    assert shard(folder)["lag"] == 0


def test_a_drain_waits_for_what_people_asked_for(tmp_path: Path) -> None:
    """`eventcore invoke` gets the rest of the drain's time, as batches do."""
    folder = write_gated(tmp_path)
    with running("run", cwd=folder) as engine, running("invoke", "work", "{}", cwd=folder, until="") as invoking:
        wait_gated(folder)
        engine.send_signal(signal.SIGTERM)
        engine.wait_line("state=Stopped")
        open_gate(folder)
        assert invoking.wait() == 0
        assert invoking.printed == ["null"]
        assert engine.wait() == 0


def test_an_abort_tells_who_asked_and_logs_no_traceback(tmp_path: Path) -> None:
    folder = write_gated(tmp_path)
    with running("run", cwd=folder) as engine, running("invoke", "work", "{}", cwd=folder, until="") as invoking:
        wait_gated(folder)
        engine.send_signal(signal.SIGTERM)
        engine.wait_line("state=Stopped")
        engine.send_signal(signal.SIGTERM)
        assert engine.wait() == 130
        assert invoking.wait() == 1
    assert invoking.lines == ["error: the engine ended before it had answered"]
    assert not any("Traceback" in line for line in engine.lines)


def test_a_drain_past_its_timeout_is_told_by_the_exit_code(tmp_path: Path) -> None:
    folder = write_gated(tmp_path, STREAM + "[settings]\ndrain_timeout = 0.2\n")
    with running("run", cwd=folder) as engine:
        assert run("send", "stream:orders", "a", cwd=folder).returncode == 0
        wait_gated(folder)
        engine.send_signal(signal.SIGTERM)
        assert engine.wait() == 124
    assert shard(folder)["lag"] == 1


def test_people_wait_no_longer_than_a_drain(tmp_path: Path) -> None:
    folder = write_gated(tmp_path, STREAM + "[settings]\ndrain_timeout = 0.2\n")
    with running("run", cwd=folder) as engine, running("invoke", "work", "{}", cwd=folder, until="") as invoking:
        wait_gated(folder)
        engine.send_signal(signal.SIGTERM)
        assert engine.wait() == 124
        assert invoking.wait() == 1


def test_a_second_engine_on_the_same_state_is_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, POISONED)
    with running("run", cwd=folder) as engine:
        second = run_process("run", cwd=folder)
        assert second.returncode == 1
        assert second.stderr.count("\n") == 1
        assert f"in use by process {engine.process.pid}" in second.stderr
        assert ask("status", cwd=folder)["pid"] == engine.process.pid


def test_a_killed_engine_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    """Its socket is stale, its lock free: commands work on the state, and the next engine starts."""
    folder = write_pipeline(tmp_path, POISONED)
    with running("run", cwd=folder) as engine:
        engine.send_signal(signal.SIGKILL)
        engine.wait()
    assert (folder / ".eventcore" / "control.sock").exists()
    assert ask("status", cwd=folder)["is_running"] is False
    with running("run", cwd=folder):
        assert ask("status", cwd=folder)["is_running"] is True


def test_the_socket_is_its_owners_alone_however_long_its_path(tmp_path: Path) -> None:
    """A Unix socket's path has room for about a hundred bytes: it is reached through its folder's descriptor."""
    folder = write_pipeline(tmp_path, POISONED)
    state = tmp_path / ("deep" * 30) / "state"
    with running("--state", str(state), "run", cwd=folder) as engine:
        assert ask("--state", str(state), "status", cwd=folder)["is_running"] is True
        assert stat.S_IMODE((state / "control.sock").stat().st_mode) == 0o600
        engine.send_signal(signal.SIGTERM)
        assert engine.wait() == 0
    assert not (state / "control.sock").exists()


def test_logs_are_lines_with_facts(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, POISONED)
    with running("run", cwd=folder) as engine:
        assert run("send", "stream:orders", "poison", cwd=folder).returncode == 0
        retried = engine.wait_line("batch.retried")
        discarded = engine.wait_line("records.discarded")
    assert "WARNING" in retried
    assert 'error="ValueError: a poison order"' in retried
    assert "handlers.py:8" in retried
    assert "reason=RetryAttemptsExhausted" in discarded
    assert "destination=queue:failed" in discarded


def test_a_function_that_does_not_import_stops_only_its_own_mapping(tmp_path: Path) -> None:
    broken = """
[functions.broken]
handler = "broken.work"

[mappings.broken]
source = "stream:orders"
function = "broken"
starting_position = "TRIM_HORIZON"
"""
    folder = write_pipeline(tmp_path, POISONED, STREAM + broken)
    (folder / "broken.py").write_text("1 / 0\n")
    with running("-v", "run", cwd=folder, until="state=Problem") as engine:
        assert run("send", "stream:orders", "a", cwd=folder).returncode == 0
        engine.wait_line("batch.settled", "mapping=orders")
        status = {mapping["mapping"]: mapping for mapping in ask("status", cwd=folder)["mappings"]}
    assert status["orders"]["state"] == "Enabled"
    assert status["broken"]["state"] == "Problem"
    assert "ZeroDivisionError" in status["broken"]["reason"]


def corrupt(state: Path) -> None:
    (state / "state.db").write_bytes(b"no database" * 1000)


def make_newer(state: Path) -> None:
    database = sqlite3.connect(state / "state.db")
    database.execute("PRAGMA user_version = 99")
    database.close()


@pytest.mark.parametrize(("spoil", "said"), [(corrupt, "is not a database"), (make_newer, "newer eventcore")])
@pytest.mark.parametrize("command", ["run", "status"])
def test_a_state_that_cannot_be_used_is_one_sentence(tmp_path: Path, spoil, said: str, command: str) -> None:
    """Exit code 1, and the file is left as it was."""
    folder = write_pipeline(tmp_path, GATED)
    assert run("status", cwd=folder).returncode == 0
    spoil(folder / ".eventcore")
    before = (folder / ".eventcore" / "state.db").read_bytes()
    done = run_process(command, cwd=folder)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert (folder / ".eventcore" / "state.db").read_bytes() == before


def test_a_state_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, GATED)
    (folder / ".eventcore").write_text("")
    done = run_process("run", cwd=folder)
    assert done.returncode == 1
    assert "can't be written to" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_collector_of_cycles_looks_seldom(tmp_path: Path) -> None:
    """It would go through all records in flight; a process that is an engine sets it up for them."""
    handler = "import gc\n\ndef work(event, context):\n    return [*gc.get_threshold(), gc.get_freeze_count() > 0]\n"
    folder = write_pipeline(tmp_path, handler, STREAM.replace("timeout = 30", 'timeout = 30\nruntime = "inline"'))
    with running("run", cwd=folder):
        done = run("invoke", "work", "{}", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "[50000, 20, 50, true]\n")
