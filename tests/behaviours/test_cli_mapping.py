"""`eventcore mapping`, as people type it."""

from __future__ import annotations

import getpass
import signal
from pathlib import Path

import pytest

from tests.behaviours.commands import POISONED, STREAM, ask, run, running, write_pipeline

pytestmark = pytest.mark.slow

BLOCKING = STREAM.replace("maximum_retry_attempts = 1", "maximum_retry_attempts = -1").replace(
    "batch_size = 10", "batch_size = 1"
)
SHARD = "shardId-000000000000"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path, POISONED, BLOCKING)


def test_a_pause_without_an_engine_holds_when_one_starts(folder: Path) -> None:
    assert run("mapping", "pause", "orders", cwd=folder).returncode == 0
    again = run("mapping", "pause", "orders", cwd=folder)
    assert again.returncode == 1
    assert f"`orders` is paused already, by {getpass.getuser()}" in again.stderr
    assert run("send", "stream:orders", "a", "--key", "k", cwd=folder).returncode == 0
    with running("dev", cwd=folder) as engine:
        shown = run("status", cwd=folder).stdout
        assert f"orders: PAUSED by {getpass.getuser()} since" in shown
        assert run("mapping", "resume", "orders", cwd=folder).returncode == 0
        engine.wait_line("work | order a")
        assert "PAUSED" not in run("status", cwd=folder).stdout
        engine.send_signal(signal.SIGTERM)
        assert engine.wait() == 0
    log = ask("mapping", "log", "orders", cwd=folder)
    assert [(entry["by"], entry["action"]) for entry in log] == [
        (getpass.getuser(), "pause"),
        (getpass.getuser(), "resume"),
    ]


def test_what_holds_up_a_shard_is_skipped_and_the_shard_is_moved(folder: Path) -> None:
    with running("dev", cwd=folder) as engine:
        assert run("send", "stream:orders", "poison", "b", "c", "--key", "k", cwd=folder).returncode == 0
        engine.wait_line("a poison order", "attempt 2 failed")
        skipped = run("mapping", "skip", "orders", "--shard", SHARD, cwd=folder)
        assert skipped.returncode == 0, skipped.stderr
        assert "gave up 1 record to queue:failed: failure " in skipped.stdout
        engine.wait_line("work | order c")
        asked = run("mapping", "seek", "orders", "--to", "1", cwd=folder)
        assert asked.returncode == 0, asked.stderr
        # Its last record may be settled by now, or about to be.
        assert asked.stdout in {f"{SHARD}: from {position} to 1\n" for position in (2, 3)}
        assert "come again, up to 0 records never run" in asked.stderr
        engine.wait_line("work | order b")
        engine.wait_line("work | order c")
        engine.send_signal(signal.SIGTERM)
        assert engine.wait() == 0


def test_a_seek_forward_asks(folder: Path) -> None:
    with running("run", cwd=folder) as engine:
        engine.send_signal(signal.SIGTERM)
        engine.wait()
    assert run("send", "stream:orders", "a", "b", "--key", "k", cwd=folder).returncode == 0
    refused = run("mapping", "seek", "orders", "--to", "end", cwd=folder, data="n\n")
    assert refused.returncode == 130
    assert "Up to 2 records will never run" in refused.stderr
    dry = run("mapping", "seek", "orders", "--to", "end", "--dry-run", cwd=folder)
    assert (dry.returncode, dry.stdout) == (0, f"{SHARD}: from 0 to 2\n")
    assert "up to 2 records would never run" in dry.stderr
    assert ask("mapping", "log", "orders", cwd=folder) == []
    assert run("mapping", "seek", "orders", "--to", "end", "--yes", cwd=folder).returncode == 0
    (entry,) = ask("mapping", "log", "orders", cwd=folder)
    assert (entry["action"], entry["shard"], entry["detail"]) == ("seek", SHARD, "from 0 to 2")
    (mapping,) = ask("status", cwd=folder)["mappings"]
    assert mapping["shards"][0]["checkpoint"] == 2


def test_parked_records_that_are_gone_are_told_and_given_up_when_a_person_says_so(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, POISONED, BLOCKING.replace("batch_size = 1", "batch_size = 1\nlanes = 2"))
    with running("dev", cwd=folder) as engine:
        assert run("send", "stream:orders", "poison", "--key", "a", cwd=folder).returncode == 0
        engine.wait_line("a poison order", "attempt 2 failed")
        # One failing key too many for two lanes.
        assert run("send", "stream:orders", "poison", "--key", "b", cwd=folder).returncode == 0
        engine.wait_line("parked in queue:parked")
        assert ask("queue", "purge", "parked", "--yes", cwd=folder)["deleted"] == 1
        assert run("send", "stream:orders", "behind", "--key", "b", cwd=folder).returncode == 0
        engine.wait_line("parked in queue:parked")
        refused = run("mapping", "redrive", "orders", cwd=folder)
        assert refused.returncode == 1
        assert "1 key stay parked" in refused.stdout
        assert "--give-up-missing" in refused.stderr
        given_up = run("mapping", "redrive", "orders", "--give-up-missing", cwd=folder)
        assert given_up.returncode == 0, given_up.stderr
        assert given_up.stdout == f"{SHARD}: 1 record redriven\n"
        engine.wait_line("work | order behind")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pause", "nix"], 1, "there is no mapping `nix`"),
        (["resume", "orders"], 1, "`orders` is not paused"),
        (["skip", "orders", "--shard", SHARD], 1, "none runs here"),
        (["seek", "orders", "--to", "soon"], 2, "`soon` is neither"),
        (["seek", "orders", "--to", "0", "--shard", "nix"], 1, "has not the shard nix"),
        (["redrive", "orders", "--shard", SHARD], 1, "none runs here"),
    ],
)
def test_what_can_not_be_done_is_refused_with_a_reason(
    folder: Path, arguments: list[str], code: int, words: str
) -> None:
    refused = run("mapping", *arguments, cwd=folder)
    assert refused.returncode == code, refused.stderr
    assert words in refused.stderr


def test_positions_that_a_group_keeps_are_not_moved_without_its_member(tmp_path: Path) -> None:
    """No broker is asked: nothing is there to ask."""
    kafka = STREAM.replace("[streams.orders]\nshards = 1", '[kafka.local]\nbootstrap_servers = "127.0.0.1:9"')
    folder = write_pipeline(tmp_path, POISONED, kafka.replace("stream:orders", "kafka:local/orders"))
    refused = run("mapping", "seek", "orders", "--to", "beginning", cwd=folder)
    assert refused.returncode == 1
    assert "keeps its positions in its consumer group, and no engine runs here" in refused.stderr
    shard = run("mapping", "pause", "orders", "--shard", "orders-0", cwd=folder)
    assert shard.returncode == 1
    assert "which ones it has is known while an engine runs it" in shard.stderr
    assert run("mapping", "pause", "orders", cwd=folder).returncode == 0
