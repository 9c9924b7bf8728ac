"""What a replay's bar and its position file are told."""

from __future__ import annotations

from pathlib import Path

import anyio

from eventcore.archive.replay import ReplayReport, ReplayShard
from eventcore.cli.output import Output
from eventcore.cli.replay_listener import Listener
from eventcore.cli.replay_state import Position, ReplayState
from eventcore.testing.virtual_loop import run_virtual

SHARDS = [ReplayShard(shard="a-0", position=5, end=20), ReplayShard(shard="a-1", position=0, end=3)]


def report(*left: ReplayShard) -> ReplayReport:
    return ReplayReport(records=0, invocations=0, failed=0, failures=(), left=left)


async def test_the_bar_reaches_its_end_over_gaps(tmp_path: Path) -> None:
    """Transaction markers and compacted records are part of what was announced."""
    advanced: list[int] = []
    listener = Listener(Output("table"), ReplayState(tmp_path, "kafka:a/b", "work"), SHARDS, advanced.append)
    for shard, position in [("a-0", 7), ("a-1", 3), ("a-0", 15), ("a-0", 20)]:
        listener.on_done(shard, position)
    assert advanced == [2, 3, 8, 5]


async def test_positions_are_kept_until_it_is_through(tmp_path: Path) -> None:
    state = ReplayState(tmp_path, "kafka:a/b", "work")
    with state.hold():
        listener = Listener(Output("table"), state, SHARDS, lambda _: None)
        assert list(state.read()) == [Position("a-0", 5, 20), Position("a-1", 0, 3)]
        listener.on_done("a-0", 9)
        listener.finish(report(ReplayShard(shard="a-0", position=9, end=20)))
        assert list(state.read()) == [Position("a-0", 9, 20), Position("a-1", 0, 3)]
        listener.finish(report())
    assert not list((tmp_path / "replays").glob("*.json"))


async def test_the_file_is_one_replays_at_a_time(tmp_path: Path) -> None:
    first, second = (ReplayState(tmp_path, "kafka:a/b", "work") for _ in range(2))
    with first.hold():
        first.write([Position("a-0", 5, 20)], is_urgent=True)
        with second.hold():
            second.write([Position("a-0", 7, 20)], is_urgent=True)
            second.clear()
            assert (first.is_mine, second.is_mine) == (True, False)
        assert list(first.read()) == [Position("a-0", 5, 20)]
    with second.hold():
        assert list(second.read()) == [Position("a-0", 5, 20)]


def test_a_killed_replay_has_lost_a_second_at_most(tmp_path: Path) -> None:
    state = ReplayState(tmp_path, "kafka:a/b", "work")

    async def run() -> None:
        listener = Listener(Output("table"), state, SHARDS, lambda _: None)
        listener.on_done("a-0", 9)
        assert state.read()[0].position == 5
        await anyio.sleep(1)
        listener.on_done("a-0", 10)
        assert state.read()[0].position == 10

    with state.hold():
        run_virtual(run)
