"""The transactions of a source's shards, exactly once: when each ends.

They end side by side, each kept apart from the commits of all else; a shard whose transaction fails is given up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio

from eventcore.errors import SourceUnavailable
from eventcore_connectors.kafka.membership import Unreachable
from eventcore_connectors.kafka.progress import Progress
from eventcore_connectors.kafka.result_writer import TRANSACTION_INTERVAL_S, WriterFenced
from eventcore_connectors.kafka.results import SourceResults
from eventcore_connectors.kafka.shards import Mark, OwnedShard

#: Gives up a shard whose transaction failed.
Undo = Callable[[OwnedShard, WriterFenced | Unreachable], Awaitable[None]]


class Transactions:
    """One a shard, from its first result until a settle, or a look that comes later, ends it."""

    def __init__(self, results: SourceResults, progress: Progress, undo: Undo) -> None:
        self._results = results
        self._progress = progress
        self._undo = undo

    async def settle(self, owned: OwnedShard, mark: Mark, *, is_urgent: bool) -> bool:
        """Note how far a shard is settled, and end what is urgent or due.

        Returns whether a transaction carried it, and no other commit may; the shard may be lost meanwhile.

        Raises:
            SourceUnavailable: it is urgent, and can only be ended later.
        """
        if not await self._results.settle(owned, mark):
            return False
        if self._progress.shards.get(owned.name) is owned:
            if is_urgent:
                await self.commit(owned)
            elif self._results.is_due(owned):
                await self._commit_quietly(owned)
        return True

    async def commit(self, owned: OwnedShard) -> None:
        """End a shard's transaction where it can end; a shard whose transaction fails is given up.

        Raises:
            SourceUnavailable: a commit that was given up is in its way; it can be ended later.
        """
        try:
            await self._results.commit(owned, self._progress.apart(owned))
        except (WriterFenced, Unreachable) as error:
            await self._undo(owned, error)

    async def give_up(self, owned: OwnedShard) -> None:
        """End a shard's transaction, so that it can begin anew elsewhere; what can't end is undone, and the shard lost.

        Raises:
            SourceUnavailable: as `commit`.
        """
        await self.commit(owned)
        if self._results.is_open(owned):
            await self._undo(owned, Unreachable("a batch was stopped amid its results, which are undone"))

    async def _commit_quietly(self, owned: OwnedShard) -> None:
        """End a transaction that nobody waits for; where that can't be now, a later look does, within bounds."""
        try:
            await self.commit(owned)
        except SourceUnavailable as error:
            if self._results.is_overdue(owned):
                await self._undo(owned, Unreachable(str(error)))

    async def end(self, shards: Sequence[OwnedShard]) -> None:
        """End those of shards that are being given up, side by side; what can't be ended is undone with its writer."""
        async with anyio.create_task_group() as tasks:
            for shard in shards:
                tasks.start_soon(self._commit_quietly, shard)

    async def end_due(self) -> None:
        """End those that no settle has ended, side by side, until cancelled."""
        owned = self._progress.shards
        async with anyio.create_task_group() as tasks:
            while True:
                await anyio.sleep(TRANSACTION_INTERVAL_S)
                for due in self._results.due(list(owned.values())):
                    tasks.start_soon(self._commit_quietly, due)
