"""A simulated topic as one engine reads it: a member of a group."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.lowlevel

from eventcore.delivery.ordering import EMPTY, ShardState
from eventcore.errors import ShardLost, SourceUnavailable
from eventcore.ports.connectors import StreamRequest
from eventcore.ports.sources import ResultRecord, ShardLag, ShardListener, ShardRecords, StreamSource, TakenShard
from eventcore.testing.faults import Fate, Fence
from eventcore.testing.simulated_system import Checkpointed, SimulatedSystem, starting

#: Records of one shard that one receive returns.
RECEIVE_RECORDS_MAX = 1_000


class SimulatedSource:
    """One member of a group that reads a topic; it has all of its shards until a test takes them away."""

    def __init__(self, system: SimulatedSystem, request: StreamRequest, real: StreamSource, fence: Fence) -> None:
        self.reference = str(request.reference)
        self.mapping = request.mapping
        self.waits_for = ""
        self.shape = real.shape
        self.capabilities = real.capabilities
        self._system = system
        self._request = request
        self._fence = fence
        self._listener: ShardListener | None = None
        self._next: dict[str, int] = {}  #: by owned shard: the position that comes next
        self._epochs: dict[str, int] = {}  #: by owned shard
        self._paused: set[str] = set()
        self._revoking: set[str] = set()
        self._produced: dict[str, list[ResultRecord]] = {}  #: exactly once: what the next settle makes visible
        self._starts: dict[str, int] = {}
        #: By shard: progress that is written soon, and when; lost in a crash, as that of a real client.
        self._unwritten: dict[str, tuple[Checkpointed, float]] = {}
        self._changed = anyio.Event()
        self._settled_more = anyio.Event()

    # -- what a test does ----------------------------------------------------------------------------------------------

    async def take(self) -> None:
        """Become the owner of every shard that it has not yet, at its checkpoint."""
        if self.is_stale:
            return
        self._system.epoch += 1
        taken = []
        for shard in self._system.logs(self._request.reference):
            if shard in self._next:
                continue
            kept = self._system.groups.get((self._request.consumer_group_id, shard))
            self._next[shard] = kept.position if kept is not None else self._start(shard)
            self._epochs[shard] = self._system.owners[self._request.consumer_group_id, shard] = self._system.epoch
            self._system.faults.on_taken(self.reference, shard, self._system.epoch)
            taken.append(
                TakenShard(
                    shard=shard,
                    epoch=self._system.epoch,
                    checkpoint=kept.position if kept is not None else -1,
                    state=kept.state if kept is not None else EMPTY,
                )
            )
        if taken and self._listener is not None:
            await self._listener.on_taken(taken)
        self.wake()

    async def revoke(self) -> None:
        """Give every shard up in an orderly way."""
        self._revoking = set(self._next)
        assert self._listener is not None, "only an open source has shards"
        await self._listener.on_revoked(list(self._revoking))
        self._write_progress()
        self._forget()

    async def lose(self) -> None:
        """Lose every shard at once."""
        lost = list(self._next)
        self._forget()
        assert self._listener is not None, "only an open source has shards"
        await self._listener.on_lost(lost)

    @property
    def is_stale(self) -> bool:
        """Whether another engine has taken this one's place in the group."""
        return self._fence.is_stale

    def wake(self) -> None:
        """Let a waiting receive look again."""
        self._changed.set()

    # -- the source port -----------------------------------------------------------------------------------------------

    async def open(self, listener: ShardListener) -> None:
        """Join the group and take every shard."""
        self._check()
        self._listener = listener
        self._system.sources.append(self)
        self._starts = {
            shard: starting(self._request.starting_position, log)
            for shard, log in self._system.logs(self._request.reference).items()
        }
        await self.take()

    async def receive(self, *, wait_s: float) -> Sequence[ShardRecords]:
        """Return records of owned shards."""
        await anyio.lowlevel.checkpoint()
        self._check()
        if self._request.reference.is_pattern:
            await self.take()
        found = self._read()
        if not found:
            self._changed = anyio.Event()
            with anyio.move_on_after(wait_s):
                await self._changed.wait()
            # Nothing is read here: a cancelled receive loses nothing.
        return found

    async def write_behind(self) -> None:
        """Write progress as late as a real client may, so that a crash before that has lost it."""
        while not self.capabilities.is_settle_durable:
            self._settled_more = anyio.Event()
            due_s = min((due_s for _, due_s in self._unwritten.values()), default=float("inf"))
            with anyio.move_on_after(due_s - anyio.current_time()):
                await self._settled_more.wait()
            self._write_progress(due_s=anyio.current_time())

    def _read(self) -> list[ShardRecords]:
        found = []
        for shard, log in self._system.logs(self._request.reference).items():
            if shard not in self._next or shard in self._paused or shard in self._revoking:
                continue
            if records := log[self._next[shard] : self._next[shard] + RECEIVE_RECORDS_MAX]:
                self._next[shard] += len(records)
                found.append(ShardRecords(shard, records))
        return found

    def pause(self, shard: str) -> None:
        """Return no more records of a shard."""
        self._paused.add(shard)

    def resume(self, shard: str) -> None:
        """Return records of a shard again."""
        self._paused.discard(shard)
        self.wake()

    async def settle(self, shard: str, epoch: int, checkpoint: int, state: ShardState, *, is_urgent: bool) -> None:
        """Keep a shard's checkpoint and failing work: at once where that is urgent, else a little later."""
        await anyio.lowlevel.checkpoint()
        self._check_owner(shard, epoch)
        fate = self._system.faults.fate_of_settle(shard)
        if fate is Fate.REFUSED:
            raise SourceUnavailable("the test refuses it", source=self.reference)
        self._unwritten[shard] = Checkpointed(checkpoint, state), self._due_s()
        if is_urgent or self.capabilities.is_settle_durable or self._request.is_exactly_once:
            self._write(shard)
        else:
            self._settled_more.set()
        for result in self._produced.pop(shard, ()):
            self._append(result)
        if fate is Fate.LOST:
            raise SourceUnavailable("the answer got lost", source=self.reference)

    async def seek(self, shard: str, position: int, state: ShardState) -> TakenShard:
        """Begin a shard anew at a position."""
        await anyio.lowlevel.checkpoint()
        self._check_owner(shard, self._epochs.get(shard, -1))
        self._unwritten[shard] = Checkpointed(position, state), self._due_s()
        self._write(shard)
        self._next[shard] = position
        self._paused.discard(shard)
        self.wake()
        return TakenShard(shard=shard, epoch=self._epochs[shard], checkpoint=position, state=state)

    async def produce(self, shard: str, epoch: int, results: Sequence[ResultRecord]) -> None:
        """Send results on: at once, or with the next checkpoint where that is exactly once."""
        await anyio.lowlevel.checkpoint()
        self._check_owner(shard, epoch)
        if self._request.is_exactly_once:
            self._produced.setdefault(shard, []).extend(results)
            return
        for result in results:
            self._append(result)

    async def lag(self) -> Sequence[ShardLag]:
        """Return how far behind each owned shard is."""
        logs = self._system.logs(self._request.reference)
        return [
            ShardLag(
                shard=shard,
                checkpoint=self._settled(shard),
                end=len(logs[shard]),
                lag=len(logs[shard]) - self._settled(shard),
            )
            for shard in self._next
        ]

    async def aclose(self) -> None:
        """Write what is left of progress and leave the group."""
        self._write_progress()
        self._forget()
        if self in self._system.sources:
            self._system.sources.remove(self)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _append(self, result: ResultRecord) -> None:
        reference = self._request.reference
        self._system.append(f"{reference.kind}:{reference.name}/{result.topic}", [result.record])

    def _start(self, shard: str) -> int:
        # A topic that appears later is read from its beginning: what it got before it was found must not be missed.
        return self._starts.get(shard, 0)

    def _due_s(self) -> float:
        return anyio.current_time() + self.capabilities.checkpoint_lag_s_max

    def _write_progress(self, *, due_s: float = float("inf")) -> None:
        """Write the progress that is due, of shards that are still ours."""
        for shard in [shard for shard, (_, at_s) in self._unwritten.items() if at_s <= due_s]:
            if self._is_owner(shard, self._epochs.get(shard)):
                self._write(shard)
            else:
                del self._unwritten[shard]

    def _write(self, shard: str) -> None:
        kept, _ = self._unwritten.pop(shard)
        self._system.groups[self._request.consumer_group_id, shard] = kept
        self._system.faults.on_settled(self.reference, shard, self._epochs[shard], kept.position, kept.state)

    def _settled(self, shard: str) -> int:
        if shard in self._unwritten:
            return self._unwritten[shard][0].position
        kept = self._system.groups.get((self._request.consumer_group_id, shard))
        return kept.position if kept is not None else self._start(shard)

    def _forget(self) -> None:
        self._next.clear()
        self._epochs.clear()
        self._paused.clear()
        self._revoking.clear()
        self._produced.clear()
        self._unwritten.clear()

    def _check(self) -> None:
        if self._fence.is_cut:
            raise SourceUnavailable("the engine has crashed", source=self.reference)
        if self._system.is_down(self.reference):
            raise SourceUnavailable("the test has taken it down", source=self.reference)

    def _check_owner(self, shard: str, epoch: int) -> None:
        self._check()
        if not self._is_owner(shard, epoch):
            raise ShardLost(source=self.reference, shard=shard, epoch=epoch)

    def _is_owner(self, shard: str, epoch: int | None) -> bool:
        is_ours = epoch is not None and self._epochs.get(shard) == epoch and not self._fence.is_cut
        return is_ours and self._system.owners[self._request.consumer_group_id, shard] == epoch
