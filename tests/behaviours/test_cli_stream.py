"""`eventcore stream`: shards are listed, split and merged, with and without an engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.behaviours.commands import POISONED, STREAM, ask, run, running, write_pipeline

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path, POISONED, STREAM)


def test_shards_are_split_and_merged_and_listed(folder: Path) -> None:
    assert run("send", "stream:orders", "a", "--key", "k", cwd=folder).returncode == 0
    done = ask("stream", "split", "stream:orders", "0", cwd=folder)
    assert done == {
        "stream": "orders",
        "closed": ["0"],
        "opened": ["shardId-000000000001", "shardId-000000000002"],
    }
    sent = ask("send", "stream:orders", "b", "--key", "k", cwd=folder)
    assert [place["shard"] for place in sent] != ["shardId-000000000000"]
    told = run("stream", "merge", "orders", "shardId-000000000002", "1", cwd=folder)
    assert told.stdout == "shardId-000000000002 and 1 closed, shardId-000000000003 opened\n"
    shards = ask("stream", "shards", "orders", cwd=folder)
    assert [shard["children"] for shard in shards] == [
        ["shardId-000000000001", "shardId-000000000002"],
        ["shardId-000000000003"],
        ["shardId-000000000003"],
        [],
    ]
    assert (shards[3]["first_hash_key"], shards[3]["last_hash_key"]) == ("0", str(2**128 - 1))
    assert "shardId-000000000003" in run("stream", "shards", "orders", cwd=folder).stdout


def test_what_can_not_be_done_is_said(folder: Path) -> None:
    for arguments, words in (
        (("split", "orders", "7"), "there is no shard 7"),
        (("split", "orders", "x"), "is not a shard"),
        (("split", "orders", "0", "--at", "x"), "decimal number"),
        (("split", "nothing", "0"), "there is no stream nothing"),
        (("merge", "orders", "0", "0"), "do not adjoin"),
    ):
        done = run("stream", *arguments, cwd=folder)
        assert done.returncode != 0
        assert words in done.stderr


def test_a_shard_that_is_split_under_a_running_engine_is_finished_first(tmp_path: Path) -> None:
    """Its children show what they wait for, are not moved with it, and go on when it is done."""
    blocking = STREAM.replace("maximum_retry_attempts = 1", "maximum_retry_attempts = -1")
    folder = write_pipeline(tmp_path, POISONED, blocking.replace("batch_size = 10", "batch_size = 1"))
    with running("dev", cwd=folder) as engine:
        assert run("send", "stream:orders", "a", "poison", "--key", "k", cwd=folder).returncode == 0
        engine.wait_line("a poison order", "attempt 2 failed")
        assert run("stream", "split", "orders", "0", cwd=folder).returncode == 0
        assert run("send", "stream:orders", "b", "--key", "k", cwd=folder).returncode == 0
        shown = run("status", cwd=folder).stdout
        assert "shard 1  waits for the end of shard 0, lag" in shown
        assert "shard 2  waits for the end of shard 0, lag" in shown
        moved = run("mapping", "seek", "orders", "--to", "beginning", "--yes", cwd=folder)
        assert moved.returncode == 0, moved.stderr
        engine.wait_line("work | order a")
        engine.wait_line("a poison order", "attempt 2 failed")
        assert run("mapping", "skip", "orders", "--shard", "shardId-000000000000", cwd=folder).returncode == 0
        engine.wait_line("work | order b")


def test_a_seek_brings_back_what_came_before_a_split(tmp_path: Path) -> None:
    """The parent is read to its end and no shard of the mapping any more: its records come again, and come first."""
    folder = write_pipeline(tmp_path, POISONED, STREAM)
    with running("dev", cwd=folder) as engine:
        assert run("send", "stream:orders", "a", "--key", "k", cwd=folder).returncode == 0
        engine.wait_line("work | order a")
        assert run("stream", "split", "orders", "0", cwd=folder).returncode == 0
        assert run("send", "stream:orders", "b", "--key", "k", cwd=folder).returncode == 0
        engine.wait_line("work | order b")
        dry = ask("mapping", "seek", "orders", "--to", "beginning", "--dry-run", cwd=folder)
        assert {move["shard"]: (move["at"], move["to"]) for move in dry}["shardId-000000000000"] == (1, 0)
        stays = ask("mapping", "seek", "orders", "--to", "end", "--dry-run", cwd=folder)
        assert "shardId-000000000000" not in {move["shard"] for move in stays}
        moved = run("mapping", "seek", "orders", "--to", "beginning", "--yes", cwd=folder)
        assert moved.returncode == 0, moved.stderr
        assert "up to 2 records come again" in moved.stderr
        engine.wait_line("work | order a")
        engine.wait_line("work | order b")
