"""What is settled of the owned shards, and the commits that tell the broker.

Commits that wait share a request: whoever gets the turn writes what the broker does not have of every shard, but for
those whose transaction is ending, which tells it by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import anyio

from eventcore.errors import SourceUnavailable
from eventcore.ports.sources import ShardLag
from eventcore_connectors.kafka.membership import ClientFailed, Fenced, Member, describe
from eventcore_connectors.kafka.shards import Mark, OwnedShard

#: Progress is durable at most so long after it was settled, seconds.
COMMIT_INTERVAL_S = 1.0
#: It is looked for so often, seconds: a commit takes about 6 ms, and has the rest of the interval for a bad moment.
_COMMIT_EVERY_S = 0.5
#: An urgent commit gives up then, seconds: a coordinator that moves needs about three.
COMMIT_TIMEOUT_S = 10.0
#: A commit in the background gives up then and is tried again later, seconds: an urgent one waits for it.
_BACKGROUND_TIMEOUT_S = 1.0
#: The last commit before shards are given up, seconds: what it can't write is received again by the next owner.
LAST_TIMEOUT_S = 3.0


class _FailedCommit(NamedTuple):
    """The last commit that failed."""

    attempt: int = 0
    timeout_s: float = 0.0
    message: str = ""


class Progress:
    """The shards that are owned now; the generations in which they were taken are over together."""

    def __init__(
        self,
        member: Member,
        unavailable: Callable[[str], SourceUnavailable],
        on_fenced: Callable[[Sequence[OwnedShard]], Awaitable[None]],
    ) -> None:
        self.shards: dict[str, OwnedShard] = {}
        self.member = member
        self._unavailable = unavailable
        self._on_fenced = on_fenced
        self._turn = anyio.Lock()  #: held by the commit that is on its way
        self._on_its_way: Sequence[OwnedShard] = ()  #: whose progress it has
        self._answered = anyio.Event()  #: set when it is over
        self._attempts = 0  #: commits that were begun
        self._failed = _FailedCommit()
        self._apart: set[OwnedShard] = set()  #: whose progress goes with a transaction that is ending

    @asynccontextmanager
    async def apart(self, shard: OwnedShard) -> AsyncIterator[None]:
        """Keep a shard out of commits while its transaction ends.

        None of them may arrive behind the transaction's: one that is on its way with the shard is waited for, and
        behind one that was given up another is written first, whose answer tells that both have arrived. Amid a
        rebalance it does not, where the client may send the first one again.

        Raises:
            SourceUnavailable: that can't be written, or it is not known when the first one arrives.
        """
        while True:
            if shard in self._on_its_way:
                await self._answered.wait()
            elif shard.is_in_doubt and self.shards.get(shard.name) is shard:
                await self.write()
            elif self.member.has_stray_commit(shard.partition):
                raise self._unavailable(f"a commit of {shard.name} is on its way that may arrive behind a transaction")
            else:
                break
        self._apart.add(shard)
        try:
            yield
        finally:
            self._apart.discard(shard)

    async def write(self, timeout_s: float = COMMIT_TIMEOUT_S) -> None:
        """Write what the broker does not have of all shards that are not apart, in one request.

        Raises:
            SourceUnavailable: it may or may not have been written.
        """
        fenced = await self._write_all(timeout_s)
        if fenced:
            await self._on_fenced(fenced)

    async def _write_all(self, timeout_s: float) -> Sequence[OwnedShard]:
        """Return the shards that others own by now, if any.

        Whoever waits while a commit fails that was begun since, and had as much time, shares its failure: it had these
        marks as well, and one after the other thirty shards would wait for minutes.
        """
        came = self._attempts
        async with self._turn:
            if self._failed.attempt > came and self._failed.timeout_s >= timeout_s:
                raise self._unavailable(self._failed.message)
            return await self._write_unsaved(timeout_s)

    async def _write_unsaved(self, timeout_s: float) -> Sequence[OwnedShard]:
        marks = self._unsaved()
        if not marks:
            return ()
        self._attempts += 1
        shards = self._on_its_way = [self.shards[name] for name in marks]
        self._answered = anyio.Event()
        try:
            # Shielded: an answer that nobody waited for would leave it open what the broker has.
            with anyio.fail_after(timeout_s, shield=True):
                taken = min(shard.epoch for shard in shards)
                await self.member.commit(taken, {shard.partition: marks[shard.name] for shard in shards})
        except Fenced:
            return shards
        except (ClientFailed, TimeoutError) as error:
            for shard in shards:
                shard.doubt()
            message = f"progress can't be written ({describe(error)})"
            self._failed = _FailedCommit(self._attempts, timeout_s, message)
            raise self._unavailable(message) from error
        finally:
            self._on_its_way = ()
            self._answered.set()
        for shard in shards:
            shard.save(marks[shard.name])
        return ()

    async def write_quietly(self, timeout_s: float = _BACKGROUND_TIMEOUT_S) -> None:
        """Write what nobody waits for, also when the caller is being cancelled; the next one repeats what fails."""
        fenced: Sequence[OwnedShard] = ()
        with anyio.move_on_after(timeout_s, shield=True), suppress(SourceUnavailable):
            fenced = await self._write_all(timeout_s)
        if fenced:
            await self._on_fenced(fenced)

    async def write_behind(self) -> None:
        """Write what is settled every now and then, until cancelled."""
        while True:
            await anyio.sleep(_COMMIT_EVERY_S)
            await self.write_quietly()

    def _unsaved(self) -> dict[str, Mark]:
        return {
            shard.name: mark
            for shard in self.shards.values()
            if shard not in self._apart and (mark := shard.unsaved(self.member.position(shard.partition))) is not None
        }

    def lag(self) -> Sequence[ShardLag]:
        """Return how far behind each shard is, from the answers to the last fetches."""
        lags = []
        for shard in self.shards.values():
            end = self.member.end(shard.partition)
            checkpoint = shard.wanted(self.member.position(shard.partition)).offset
            lags.append(
                ShardLag(
                    shard=shard.name,
                    checkpoint=checkpoint,
                    end=-1 if end is None else end,
                    lag=0 if end is None else max(end - checkpoint, 0),
                )
            )
        return lags

    @property
    def has_unsettled(self) -> bool:
        """Tell whether a record was delivered that is not settled."""
        return any(shard.has_unsettled for shard in self.shards.values())
