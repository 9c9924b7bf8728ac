"""The Kafka source: one mapping is one member of one consumer group.

What it keeps in order: records are returned only of shards that the listener was told of; a shard's progress is
committed at most `COMMIT_INTERVAL_S` after it was settled, and never ahead of it; failing work travels in the commit's
metadata. Nothing runs behind the caller's back: who opens the source runs `write_behind` beside `receive`, so that no
record waits for a commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio

from eventcore.config.structs import KafkaConfig
from eventcore.delivery.ordering import ShardState, decode_state, encode_state
from eventcore.errors import ProgrammingError, ShardLost, SourceClosed, SourceUnavailable
from eventcore.loop import loop_time
from eventcore.ports.connectors import StreamRequest
from eventcore.ports.sources import (
    EventShape,
    LostRange,
    ResultRecord,
    ShardLag,
    ShardListener,
    ShardRecords,
    StreamCapabilities,
    TakenShard,
)
from eventcore_connectors.kafka.fenced_shards import FencedShards
from eventcore_connectors.kafka.membership import (
    ClientClosed,
    ClientFailed,
    Member,
    OutOfRange,
    Unreachable,
    describe,
    locate,
)
from eventcore_connectors.kafka.progress import COMMIT_INTERVAL_S, LAST_TIMEOUT_S, Progress
from eventcore_connectors.kafka.result_writer import ResultWriter, WriterFenced, close_all
from eventcore_connectors.kafka.results import SourceResults
from eventcore_connectors.kafka.shape import KafkaShape, Partition
from eventcore_connectors.kafka.shards import Mark, OwnedShard
from eventcore_connectors.kafka.transactions import Transactions

#: What newly assigned partitions need to know (commits, starting positions), seconds. aiokafka sends no heartbeats
#: meanwhile, so it is also bounded by half of the session.
TAKE_TIMEOUT_S = 5.0
#: While no record comes, it is looked so often whether brokers answer, seconds.
_LOOK_FOR_CONTACT_S = 0.5
#: A member hears from its group within so many heartbeats, and in the end within so many seconds: two heartbeats of a
#: broker that decides about them, if nobody told it otherwise.
_HEARTBEATS_UNTIL_TOLD, _TOLD_WITHIN_S = 2, 10.0


def _told_within_s(config: KafkaConfig) -> float:
    if config.group_protocol == "consumer":
        return _TOLD_WITHIN_S
    return min(_HEARTBEATS_UNTIL_TOLD * config.heartbeat_interval_ms / 1000, _TOLD_WITHIN_S)


class KafkaSource:
    """Topics, read by one member of the mapping's consumer group. Life: `open`, then anything, then `aclose`."""

    capabilities = StreamCapabilities(
        has_rebalance=True,
        is_settle_durable=False,
        checkpoint_lag_s_max=COMMIT_INTERVAL_S,
        survives_restart=True,
        takes_results=True,
    )

    def __init__(self, request: StreamRequest, make_member: Callable[[StreamRequest], Member]) -> None:
        self._request = request
        self._make_member = make_member
        self._config: KafkaConfig = request.connection
        self._where = locate(request.reference.part, self._config)
        self.shape: EventShape = KafkaShape(request.reference.part, self._config.bootstrap_servers)
        self._listener: ShardListener | None = None
        self._progress: Progress | None = None
        self._results = SourceResults(request) if request.topics_written else None
        self._transactions: Transactions | None = None  #: exactly once
        self._readable: tuple[Partition, ...] = ()  #: partitions that are owned, not paused and not being revoked
        self._lost: list[ShardRecords] = []  #: ranges that were found lost, and are not returned yet
        self._partitions_at_open: frozenset[Partition] = frozenset()
        self._failure: SourceUnavailable | None = None
        self._fenced = FencedShards(patience_s=_told_within_s(self._config))
        self._revoking: frozenset[str] = frozenset()  #: shards that the listener is giving up
        self._is_closed = False
        self._is_receiving = False
        self._answered: int | None = None  #: what the member said last of brokers that answer
        self._silent_s = 0.0  #: how long we have waited for a later answer

    # -- life ----------------------------------------------------------------------------------------------------------

    async def open(self, listener: ShardListener) -> None:
        """Connect, find the topics, and begin to join the group.

        Raises:
            SourceUnavailable: no broker answers, or the topic does not exist; within `client.OPEN_TIMEOUT_S`.
        """
        self._listener = listener
        try:
            member = self._make_member(self._request)
            self._progress = Progress(member, self._unavailable, self._lose)
            if self._results is not None:
                await self._results.open()
                if self._results.is_exactly_once:
                    self._transactions = Transactions(self._results, self._progress, self._undo)
            self._partitions_at_open = frozenset(await member.join(self._on_revoked, self._on_assigned))
        except Unreachable as error:
            raise SourceUnavailable(str(error), source=str(self._request.reference)) from error

    async def aclose(self) -> None:
        """Commit what is settled, leave the group, disconnect; in bounded time."""
        progress, is_closed, self._is_closed = self._progress, self._is_closed, True
        if is_closed or progress is None:
            return
        try:
            if self._transactions is not None:
                await self._transactions.end(list(progress.shards.values()))
            await progress.write_quietly(LAST_TIMEOUT_S)
        finally:
            progress.shards.clear()
            await self._disconnect(progress)

    async def _disconnect(self, progress: Progress) -> None:
        try:
            await progress.member.leave()
        finally:
            # Behind it: a rebalance that is under way opens writers.
            if self._results is not None:
                await self._results.aclose()

    # -- records -------------------------------------------------------------------------------------------------------

    async def receive(self, *, wait_s: float) -> Sequence[ShardRecords]:
        """Return records of shards that are owned and not paused; see `StreamSource.receive`.

        Call it again and again, also while every shard is paused: the member counts as alive while a receive is
        pending or a record is unsettled, and is thrown out of its group after `max_poll_interval_ms` without either.

        Raises:
            SourceUnavailable: the group or the topic can't be read, and it does not get better by waiting; or no
                broker has answered for `session_timeout_ms`, so that the shards were given to others.
            SourceClosed: `aclose` was called.
        """
        progress = self._opened()
        give_up = loop_time() + wait_s
        self._is_receiving = True
        progress.member.set_active(True)
        try:
            while True:
                received = await self._receive_once(progress, give_up)
                if received or loop_time() >= give_up:
                    return received
        finally:
            self._is_receiving = False
            self._update_activity()

    async def _receive_once(self, progress: Progress, give_up: float) -> Sequence[ShardRecords]:
        if self._is_closed:
            raise SourceClosed(source=str(self._request.reference))
        if self._failure is not None:
            raise self._failure
        began = loop_time()
        if complaint := self._fenced.complaint(progress.member.is_over, began):
            raise self._unavailable(complaint)
        if self._lost:
            lost, self._lost = self._lost, []
            return lost
        wait_s = min(max(give_up - began, 0.0), _LOOK_FOR_CONTACT_S)
        try:
            polled = await progress.member.poll(self._readable, wait_s, count_max=self._request.records_ahead_max)
        except OutOfRange as error:
            await self._skip_lost(progress, error)
            return ()
        except ClientClosed as error:
            raise SourceClosed(source=str(self._request.reference)) from error
        except ClientFailed as error:
            raise self._unavailable(f"it can't be read ({describe(error)})") from error
        if not polled:
            await self._check_contact(progress, min(loop_time() - began, wait_s))
            return ()
        received = []
        for partition, records in polled.items():
            shard = progress.shards.get(partition.shard)
            if shard is not None and shard.name not in self._revoking:
                shard.deliver(records[-1].position)
                received.append(ShardRecords(shard.name, records))
        return received

    async def _skip_lost(self, progress: Progress, error: OutOfRange) -> None:
        """Go on behind what retention took, and report it."""
        member, name = progress.member, error.partition.shard
        try:
            with anyio.fail_after(TAKE_TIMEOUT_S):
                first = (await member.first_positions([error.partition]))[error.partition]
        except (ClientFailed, TimeoutError) as cause:
            raise self._unavailable(f"the oldest record of {name} can't be found ({describe(cause)})") from cause
        shard = progress.shards.get(name)
        if shard is None or member.position(error.partition) != error.position:
            return
        if first <= error.position:
            raise self._unavailable(
                f"{name} ends before offset {error.position}, where the group `{self._request.consumer_group_id}` "
                "stands; was the topic made anew? Reset the group's offsets"
            )
        member.seek(error.partition, first)
        shard.deliver(first - 1)
        self._lost.append(ShardRecords(name, (), LostRange(shard=name, first=error.position, last=first - 1)))

    async def _check_contact(self, progress: Progress, waited_s: float) -> None:
        """Give up when no broker has answered for as long as a session lasts: the shards have other owners by then.

        Only time spent waiting counts: a process that stood still finds out from the broker what that cost it.
        """
        answered = progress.member.answered(self._readable)
        if answered is None or answered != self._answered:
            self._answered, self._silent_s = answered, 0.0
            return
        self._silent_s += waited_s
        session_s = self._config.session_timeout_ms / 1000
        if self._silent_s > session_s:
            await self._lose(list(progress.shards.values()))
            raise self._unavailable(f"no broker has answered for {session_s:g} s")

    def pause(self, shard: str) -> None:
        """Return no more records of a shard until `resume`."""
        self._set_paused(shard, is_paused=True)

    def resume(self, shard: str) -> None:
        """Return records of a shard again."""
        self._set_paused(shard, is_paused=False)

    def _set_paused(self, name: str, *, is_paused: bool) -> None:
        shard = self._progress.shards.get(name) if self._progress is not None else None
        if shard is not None and shard.is_paused is not is_paused:
            shard.is_paused = is_paused
            self._update_readable()

    def _update_readable(self) -> None:
        """Note what may be read now, and end a pending receive that waits for something else."""
        progress = self._opened()
        readable = [shard for name, shard in progress.shards.items() if name not in self._revoking]
        self._readable = tuple(shard.partition for shard in readable if not shard.is_paused)
        self._silent_s = 0.0
        progress.member.interrupt()

    def _update_activity(self) -> None:
        progress = self._opened()
        progress.member.set_active(self._is_receiving or progress.has_unsettled)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    async def settle(self, shard: str, epoch: int, checkpoint: int, state: ShardState, *, is_urgent: bool) -> None:
        """Move a shard's checkpoint and keep its failing work; see `StreamSource.settle`.

        The broker refuses it, too, once the group has a newer generation. Urgent ones that wait together share one
        request. One that is not urgent never raises SourceUnavailable: it is tried again in the background. Of a shard
        whose transaction is open, one that would take it back is passed over (`ResultWriter.settle`).
        """
        owned = self._owned(shard, epoch)
        try:
            await self._settle(owned, checkpoint, state, is_urgent=is_urgent)
        except SourceUnavailable:
            # One shard is lost, which is no reason to begin with all of them anew.
            self._refuse_lost(owned)
            raise

    async def _settle(self, owned: OwnedShard, checkpoint: int, state: ShardState, *, is_urgent: bool) -> None:
        progress = self._opened()
        mark = Mark(checkpoint, encode_state(state))
        if self._transactions is None or not await self._transactions.settle(owned, mark, is_urgent=is_urgent):
            self._refuse_lost(owned)
            owned.settle(checkpoint, state)
            if is_urgent:
                await progress.write()
            self._update_activity()
        self._refuse_lost(owned)

    def _refuse_lost(self, owned: OwnedShard) -> None:
        if self._opened().shards.get(owned.name) is not owned:
            raise ShardLost(source=str(self._request.reference), shard=owned.name, epoch=owned.epoch)

    def _owned(self, shard: str, epoch: int) -> OwnedShard:
        owned = self._opened().shards.get(shard)
        if owned is None or owned.epoch != epoch:
            raise ShardLost(source=str(self._request.reference), shard=shard, epoch=epoch)
        return owned

    async def seek(self, shard: str, position: int, state: ShardState) -> TakenShard:
        """Move an owned shard's offset, and begin there anew; see `StreamSource.seek`."""
        progress = self._opened()
        owned = progress.shards.get(shard)
        if owned is None:
            raise ShardLost(source=str(self._request.reference), shard=shard)
        if self._transactions is not None:
            await self._transactions.give_up(owned)
        self._owned(shard, owned.epoch)
        moved = OwnedShard(owned.partition, owned.epoch, start=position, state=state, saved=None)
        # Nobody works on it yet: a record that came before this returns would be lost.
        moved.is_paused = True
        progress.shards[shard] = moved
        self._update_readable()
        progress.member.seek(owned.partition, position)
        await progress.write()
        self._owned(shard, owned.epoch)
        moved.is_paused = False
        self._update_readable()
        return TakenShard(shard=shard, epoch=owned.epoch, checkpoint=position, state=state)

    async def write_behind(self) -> None:
        """Commit what is settled, and end transactions that are due; see `StreamSource.write_behind`."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._opened().write_behind)
            if self._transactions is not None:
                tasks.start_soon(self._transactions.end_due)

    # -- results -------------------------------------------------------------------------------------------------------

    async def produce(self, shard: str, epoch: int, results: Sequence[ResultRecord]) -> None:
        """Send results on; see `ResultSource.produce`."""
        owned = self._owned(shard, epoch)
        assert self._results is not None, "the request names the topics that are written"
        try:
            await self._results.write(owned, results)
        except (WriterFenced, Unreachable) as error:
            if not self._results.is_exactly_once:
                raise self._unavailable(str(error)) from error
            await self._undo(owned, error)
            raise ShardLost(source=str(self._request.reference), shard=shard, epoch=epoch) from error

    async def _undo(self, owned: OwnedShard, error: WriterFenced | Unreachable) -> None:
        """Give up a shard whose transaction failed: nothing of it may go on from what was not committed.

        Fenced off, another owner has it, of whom the group may tell a heartbeat later. Else the mapping begins anew, at
        what the broker has; but not for a shard that is being given up, as whoever gets it begins there.
        """
        progress = self._opened()
        if progress.shards.get(owned.name) is not owned:
            return
        if owned.name not in self._revoking:
            if isinstance(error, Unreachable):
                self._fail(str(error))
            else:
                self._fenced.note(owned, str(error), loop_time())
        await self._lose([owned])

    @property
    def waits_for(self) -> str:
        """The topics that an expression does not match yet."""
        if not self._request.reference.is_pattern or self._opened().member.knows_topics:
            return ""
        return f"none yet of the {self._where}: looked for every {self._config.metadata_max_age_ms / 1000:g} s"

    async def lag(self) -> Sequence[ShardLag]:
        """Return how far behind each owned shard is, from the answers to the last fetches."""
        return self._opened().lag()

    # -- shards come and go: called by the member, one after the other -------------------------------------------------

    async def _on_revoked(self, partitions: Sequence[Partition]) -> None:
        """Give up partitions: all, also those that come back, or under the new group protocol those that others get."""
        progress = self._opened()
        self._fenced.forget(partition.shard for partition in partitions)
        found = [progress.shards.get(partition.shard) for partition in partitions]
        shards = [shard for shard in found if shard is not None]
        if self._is_closed or not shards:
            return
        if progress.member.is_over(shards[0].epoch):
            await self._lose(shards)
            return
        assert self._listener is not None
        names = [shard.name for shard in shards]
        self._revoking = frozenset(names)
        self._update_readable()
        try:
            await self._listener.on_revoked(names)
            if self._transactions is not None:
                await self._transactions.end([each for each in shards if progress.shards.get(each.name) is each])
            await progress.write_quietly(LAST_TIMEOUT_S)
        finally:
            await close_all(self._forget(names))
            self._revoking = frozenset()
            self._update_readable()

    async def _lose(self, shards: Sequence[OwnedShard]) -> None:
        """Forget shards that another member may own, and say so."""
        owned = self._opened().shards
        names = [shard.name for shard in shards if owned.get(shard.name) is shard]
        writers = self._forget(names)
        # Whoever is being told that shards are revoked learns the rest from `settle`.
        told = [name for name in names if name not in self._revoking]
        try:
            # Before writers are closed, which takes seconds where a broker hangs: the shards may be ours again by then.
            if told and not self._is_closed:
                assert self._listener is not None
                await self._listener.on_lost(told)
        finally:
            await close_all(writers)

    def _forget(self, names: Sequence[str]) -> Sequence[ResultWriter]:
        """Own shards no more; return their writers, which are to be closed."""
        owned = self._opened().shards
        for name in names:
            owned.pop(name, None)
        self._lost = [entry for entry in self._lost if entry.shard in owned]
        self._update_readable()
        return self._results.release(names) if self._results is not None else ()

    async def _on_assigned(self, partitions: Sequence[Partition]) -> None:
        """Look up where each partition is to be read from, and hand it to the listener."""
        progress = self._opened()
        member = progress.member
        if not partitions and not self._request.reference.is_pattern and not member.knows_topics:
            self._fail("the topic does not exist any more")
        if self._is_closed or not partitions:
            return
        timeout_s = min(TAKE_TIMEOUT_S, self._config.session_timeout_ms / 2000)
        try:
            with anyio.fail_after(timeout_s):
                if self._results is not None:
                    await self._results.take([partition.shard for partition in partitions])
                saved = await member.committed(partitions)
                starts = await self._starting_positions(member, [each for each in partitions if each not in saved])
        except Unreachable as error:
            self._fail(str(error))
            return
        except (ClientFailed, TimeoutError) as error:
            self._fail(f"positions can't be read ({describe(error)})")
            return
        taken = [self._take(partition, saved.get(partition), starts) for partition in partitions]
        assert self._listener is not None
        try:
            await self._listener.on_taken(taken)
        except SourceUnavailable as error:
            # Raised here, the client would note it and go on, with shards that nobody works on.
            self._failure = error
            progress.member.interrupt()
            return
        self._update_readable()

    def _take(self, partition: Partition, saved: Mark | None, starts: dict[Partition, int]) -> TakenShard:
        progress = self._opened()
        epoch = progress.member.generation
        start = starts[partition] if saved is None else saved.offset
        state = decode_state(saved.metadata if saved else None)
        progress.shards[partition.shard] = OwnedShard(partition, epoch, start=start, state=state, saved=saved)
        progress.member.seek(partition, start)
        return TakenShard(shard=partition.shard, epoch=epoch, checkpoint=saved.offset if saved else -1, state=state)

    async def _starting_positions(self, member: Member, partitions: Sequence[Partition]) -> dict[Partition, int]:
        position = self._request.starting_position
        if not partitions:
            return {}
        match position.kind:
            case "TRIM_HORIZON":
                return await member.first_positions(partitions)
            case "LATEST":
                # One that was added since has nothing old: what it got before it was found must not be missed.
                added = [each for each in partitions if each not in self._partitions_at_open]
                there = [each for each in partitions if each in self._partitions_at_open]
                return {**await member.end_positions(there), **await member.first_positions(added)}
            case _:
                return await member.positions_at(partitions, position.at_ms)

    def _fail(self, message: str) -> None:
        """Let the next receive say what went wrong in a hook."""
        self._failure = self._unavailable(message)
        self._opened().member.interrupt()

    def _opened(self) -> Progress:
        if self._progress is None:
            raise ProgrammingError("the source is not open")
        return self._progress

    def _unavailable(self, message: str) -> SourceUnavailable:
        return SourceUnavailable(f"{self._where}: {message}", source=str(self._request.reference))
