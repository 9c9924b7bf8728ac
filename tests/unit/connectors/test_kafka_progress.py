"""Commits that wait together, where the broker does not answer."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from eventcore.delivery.ordering import EMPTY
from eventcore.errors import SourceUnavailable
from eventcore.testing.virtual_loop import run_virtual
from eventcore_connectors.kafka.progress import COMMIT_TIMEOUT_S, Progress
from eventcore_connectors.kafka.shape import Partition
from eventcore_connectors.kafka.shards import OwnedShard

SHARDS = 30


class SilentMember:
    """A member whose commits nobody answers."""

    def position(self, partition: Partition) -> int | None:
        """Know none."""
        return None

    async def commit(self, generation: int, marks: Any) -> None:
        """Wait for an answer."""
        await anyio.sleep_forever()

    def has_stray_commit(self, partition: Partition) -> bool:
        """Have one of the first partition."""
        return partition.number == 0


async def _nobody(shards: Any) -> None:
    raise AssertionError("nothing is fenced off")


@pytest.mark.parametrize("is_apart", [False, True])
def test_those_who_wait_together_fail_together(*, is_apart: bool) -> None:
    """One after the other, thirty shards that are given up would hold a rebalance up for five minutes."""
    failed: list[str] = []

    async def run() -> float:
        progress = Progress(SilentMember(), SourceUnavailable, _nobody)  # type: ignore[arg-type]
        shards = [OwnedShard(Partition("orders", n), 1, start=0, state=EMPTY, saved=None) for n in range(SHARDS)]
        for shard in shards:
            progress.shards[shard.name] = shard
            shard.doubt()

        async def begin(shard: OwnedShard) -> None:
            if not is_apart:
                await progress.write()
            async with progress.apart(shard):
                raise AssertionError("it is in doubt what the broker has")

        async def end(shard: OwnedShard) -> None:
            with pytest.raises(SourceUnavailable, match="progress can't be written"):
                await begin(shard)
            failed.append(shard.name)

        began_s = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for shard in shards:
                tasks.start_soon(end, shard)
        return anyio.current_time() - began_s

    # Twice: the marks of whoever comes behind the first one's beginning may not be in it.
    assert run_virtual(run) <= 2 * COMMIT_TIMEOUT_S
    assert len(failed) == SHARDS


def test_no_transaction_ends_before_a_commit_that_may_arrive_behind_it() -> None:
    """It would take the transaction's offset back, and results that count would be written again."""

    async def run() -> None:
        progress = Progress(SilentMember(), SourceUnavailable, _nobody)  # type: ignore[arg-type]
        first, second = (OwnedShard(Partition("orders", n), 1, start=0, state=EMPTY, saved=None) for n in range(2))
        with pytest.raises(SourceUnavailable, match="a commit of orders-0 is on its way"):
            async with progress.apart(first):
                raise AssertionError("it may arrive behind what is done here")
        async with progress.apart(second):
            pass

    run_virtual(run)
