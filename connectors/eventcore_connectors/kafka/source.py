"""The Kafka source: one mapping is one member of one consumer group.

What it keeps in order: records are returned only of shards that the listener was told of; a shard's progress is
committed at most `COMMIT_INTERVAL_S` after it was settled, and never ahead of it; failing work travels in the commit's
metadata. Commits that wait are merged into one request. Nothing runs behind the caller's back: whoever calls `receive`
carries the background commits, and when it was cancelled and nobody comes again, `settle` writes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import anyio
from aiokafka import errors

from eventcore.config.structs import KafkaConfig
from eventcore.delivery.ordering import ShardState, decode_state
from eventcore.errors import ProgrammingError, ShardLost, SourceClosed, SourceUnavailable
from eventcore.ports.connectors import StreamRequest
from eventcore.ports.sources import (
    EventShape,
    LostRange,
    ShardLag,
    ShardListener,
    ShardRecords,
    StreamCapabilities,
    TakenShard,
)
from eventcore_connectors.kafka.client import Unreachable, describe
from eventcore_connectors.kafka.member import Fenced, GroupMember, OutOfRange
from eventcore_connectors.kafka.records import read_records
from eventcore_connectors.kafka.shape import KafkaShape, shard_name
from eventcore_connectors.kafka.shards import Mark, OwnedShard

#: Progress is durable at most so long after it was settled, seconds.
COMMIT_INTERVAL_S = 1.0
#: It is looked for so often, seconds: a commit takes about 6 ms, and has the rest of the interval for a bad moment.
_COMMIT_EVERY_S = 0.5
#: An urgent commit gives up then, seconds: a coordinator that moves needs about three.
COMMIT_TIMEOUT_S = 10.0
#: A commit in the background gives up then and is tried again later, seconds: `receive` waits for it.
_BACKGROUND_TIMEOUT_S = 1.0
#: The last commit before shards are given up, seconds: what it can't write is received again by the next owner.
_LAST_TIMEOUT_S = 3.0
#: What newly assigned partitions need to know (commits, starting positions), seconds. aiokafka sends no heartbeats
#: meanwhile, so it is also bounded by half of the session.
TAKE_TIMEOUT_S = 5.0


class KafkaSource:
    """A topic, read by one member of the mapping's consumer group. Life: `open`, then anything, then `aclose`."""

    capabilities = StreamCapabilities(
        has_rebalance=True, is_settle_durable=False, checkpoint_lag_s_max=COMMIT_INTERVAL_S, survives_restart=True
    )

    def __init__(self, request: StreamRequest) -> None:
        self._request = request
        self._config: KafkaConfig = request.connection
        self._topic = request.reference.part
        self._where = f"topic `{self._topic}` at {self._config.bootstrap_servers}"
        self.shape: EventShape = KafkaShape(self._topic, self._config.bootstrap_servers)
        self._member: GroupMember | None = None
        self._listener: ShardListener | None = None
        self._shards: dict[str, OwnedShard] = {}
        self._readable: tuple[int, ...] = ()  #: partitions that are owned, not paused and not being revoked
        self._is_revoking = False
        self._is_closed = False
        self._is_receiving = False
        self._is_left = False  #: the last receive was cancelled: nobody may come again (a drain)
        self._failure: SourceUnavailable | None = None
        self._lost: list[ShardRecords] = []  #: found, and not returned yet
        self._committing = anyio.Lock()
        self._next_commit = 0.0  #: loop time
        self._contact = (0, 0.0)  #: the broker's last answer to a fetch, and when we saw it

    # -- life ----------------------------------------------------------------------------------------------------------

    async def open(self, listener: ShardListener) -> None:
        """Connect, find the topic, and begin to join the group.

        Raises:
            SourceUnavailable: no broker answers, or the topic does not exist; within `client.OPEN_TIMEOUT_S`.
        """
        self._listener = listener
        self._member = GroupMember(self._config, self._topic, self._request.consumer_group_id)
        try:
            await self._member.join(self._on_revoked, self._on_assigned)
        except Unreachable as error:
            raise SourceUnavailable(str(error), source=str(self._request.reference)) from error

    async def aclose(self) -> None:
        """Commit what is settled, leave the group, disconnect; in bounded time."""
        if self._is_closed or self._member is None:
            self._is_closed = True
            return
        self._is_closed = True
        try:
            await self._commit_quietly(_LAST_TIMEOUT_S)
        finally:
            self._shards.clear()
            await self._member.leave()

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
        member = self._opened()
        give_up = anyio.current_time() + wait_s
        self._is_receiving, self._is_left = True, False
        member.set_active(True)
        try:
            while True:
                received = await self._receive_once(member, give_up)
                if received or anyio.current_time() >= give_up:
                    return received
        except anyio.get_cancelled_exc_class():
            self._is_left = True
            await self._commit_quietly()
            raise
        finally:
            self._is_receiving = False
            self._update_activity()

    async def _receive_once(self, member: GroupMember, give_up: float) -> Sequence[ShardRecords]:
        if self._is_closed:
            raise SourceClosed(source=str(self._request.reference))
        if self._failure is not None:
            raise self._failure
        await self._commit_in_turn()
        if self._lost:
            lost, self._lost = self._lost, []
            return [entry for entry in lost if entry.shard in self._shards]
        wait_s = max(min(give_up, self._next_commit) - anyio.current_time(), 0.0)
        try:
            polled = await member.poll(self._readable, wait_s, count_max=self._request.records_ahead_max)
        except OutOfRange as error:
            await self._skip_lost(member, error)
            return ()
        except errors.ConsumerStoppedError as error:
            raise SourceClosed(source=str(self._request.reference)) from error
        except errors.KafkaError as error:
            raise self._unavailable(f"{self._where} can't be read ({describe(error)})") from error
        if not polled:
            await self._check_contact(member)
            return ()
        received = []
        for partition, raw in polled.items():
            shard = self._shards.get(shard_name(self._topic, partition))
            if shard is not None and not self._is_revoking:
                shard.deliver(raw[-1].offset)
                received.append(ShardRecords(shard.name, read_records(raw)))
        return received

    async def _skip_lost(self, member: GroupMember, error: OutOfRange) -> None:
        """Go on behind what retention took, and report it."""
        name = shard_name(self._topic, error.partition)
        try:
            with anyio.fail_after(TAKE_TIMEOUT_S):
                first = (await member.first_positions([error.partition]))[error.partition]
        except (errors.KafkaError, TimeoutError) as cause:
            raise self._unavailable(f"{self._where}: the oldest record of {name} can't be found") from cause
        shard = self._shards.get(name)
        if shard is None or member.position(error.partition) != error.position:
            return
        if first <= error.position:
            raise self._unavailable(
                f"{self._where}: {name} ends before offset {error.position}, where this mapping's group "
                f"`{self._request.consumer_group_id}` stands; was the topic made anew? Reset the group's offsets"
            )
        member.seek(error.partition, first)
        shard.deliver(first - 1)
        self._lost.append(ShardRecords(name, (), LostRange(shard=name, first=error.position, last=first - 1)))

    async def _check_contact(self, member: GroupMember) -> None:
        """Give up when no broker has answered for as long as a session lasts: the shards have other owners by then."""
        now = anyio.current_time()
        answered = max((member.answered_ms(partition) or 0 for partition in self._readable), default=0)
        if answered != self._contact[0] or not self._readable:
            self._contact = (answered, now)
        elif now - self._contact[1] > self._config.session_timeout_ms / 1000:
            await self._lose(list(self._shards.values()))
            raise self._unavailable(
                f"no broker has answered for {self._config.session_timeout_ms / 1000:g} s: {self._where}"
            )

    def pause(self, shard: str) -> None:
        """Return no more records of a shard until `resume`."""
        self._set_paused(shard, is_paused=True)

    def resume(self, shard: str) -> None:
        """Return records of a shard again."""
        self._set_paused(shard, is_paused=False)

    def _set_paused(self, name: str, *, is_paused: bool) -> None:
        shard = self._shards.get(name)
        if shard is not None and shard.is_paused is not is_paused:
            shard.is_paused = is_paused
            self._update_readable()

    def _update_readable(self) -> None:
        """Note what may be read now, and end a pending receive that waits for something else."""
        self._readable = (
            ()
            if self._is_revoking
            else tuple(shard.partition for shard in self._shards.values() if not shard.is_paused)
        )
        self._contact = (self._contact[0], anyio.current_time())
        self._opened().interrupt()

    def _update_activity(self) -> None:
        in_hand = any(shard.has_unsettled for shard in self._shards.values())
        self._opened().set_active(self._is_receiving or in_hand)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    async def settle(self, shard: str, epoch: int, checkpoint: int, state: ShardState, *, is_urgent: bool) -> None:
        """Move a shard's checkpoint and keep its failing work; see `StreamSource.settle`.

        The broker refuses it, too, once the group has a newer generation. Urgent ones that wait together share one
        request. One that is not urgent raises SourceUnavailable never: it is tried again in the background.
        """
        owned = self._shards.get(shard)
        if owned is None or owned.epoch != epoch:
            raise ShardLost(source=str(self._request.reference), shard=shard, epoch=epoch)
        owned.settle(checkpoint, state)
        if is_urgent:
            await self._commit(COMMIT_TIMEOUT_S)
        elif self._is_left:
            await self._commit_quietly()
        elif not self._is_receiving:
            await self._commit_in_turn()
        self._update_activity()
        if self._shards.get(shard) is not owned:
            raise ShardLost(source=str(self._request.reference), shard=shard, epoch=epoch)

    async def _commit_in_turn(self) -> None:
        """Commit in the background's stead, when it is time."""
        if anyio.current_time() >= self._next_commit:
            self._next_commit = anyio.current_time() + _COMMIT_EVERY_S
            await self._commit_quietly()

    async def _commit_quietly(self, timeout_s: float = _BACKGROUND_TIMEOUT_S) -> None:
        """Commit what nobody waits for, also when the caller is being cancelled; the next one repeats what fails."""
        with anyio.move_on_after(timeout_s, shield=True), suppress(SourceUnavailable):
            await self._commit(timeout_s)

    async def _commit(self, timeout_s: float) -> None:
        """Write what the broker does not have of all shards, in one request.

        Raises:
            SourceUnavailable: it may or may not have been written.
        """
        member = self._opened()
        fenced: list[OwnedShard] = []
        async with self._committing:
            marks = self._unsaved(member)
            if not marks:
                return
            shards = [self._shards[name] for name in marks]
            generation = shards[0].epoch
            try:
                # Shielded: an answer that nobody waited for would leave it open what the broker has.
                with anyio.fail_after(timeout_s, shield=True):
                    await member.commit(generation, {shard.partition: marks[shard.name] for shard in shards})
            except Fenced:
                fenced = shards
            except (errors.KafkaError, TimeoutError) as error:
                raise self._unavailable(f"{self._where}: progress can't be written ({describe(error)})") from error
            else:
                for shard in shards:
                    shard.save(marks[shard.name])
        if fenced:
            await self._lose(fenced)

    def _unsaved(self, member: GroupMember) -> dict[str, Mark]:
        return {
            shard.name: mark
            for shard in self._shards.values()
            if (mark := shard.unsaved(member.position(shard.partition))) is not None
        }

    async def lag(self) -> Sequence[ShardLag]:
        """Return how far behind each owned shard is, from the answers to the last fetches."""
        member = self._opened()
        lags = []
        for shard in self._shards.values():
            end = member.end(shard.partition)
            checkpoint = shard.wanted(member.position(shard.partition)).offset
            lags.append(
                ShardLag(
                    shard=shard.name,
                    checkpoint=checkpoint,
                    end=-1 if end is None else end,
                    lag=0 if end is None else max(end - checkpoint, 0),
                )
            )
        return lags

    # -- shards come and go: called by aiokafka, in its own task -------------------------------------------------------

    async def _on_revoked(self, partitions: Sequence[int]) -> None:
        """Give up every partition: a rebalance takes all, also those that come back (aiokafka knows no other way)."""
        del partitions
        member, shards = self._opened(), list(self._shards.values())
        if self._is_closed or not shards:
            return
        if member.generation != shards[0].epoch:
            await self._lose(shards)
            return
        assert self._listener is not None
        self._is_revoking = True
        self._update_readable()
        try:
            await self._listener.on_revoked([shard.name for shard in shards])
            await self._commit_quietly(_LAST_TIMEOUT_S)
        finally:
            self._shards.clear()
            self._is_revoking = False
            self._update_readable()

    async def _lose(self, shards: Sequence[OwnedShard]) -> None:
        """Forget shards that another member may own, and say so."""
        names = [shard.name for shard in shards if self._shards.get(shard.name) is shard]
        for name in names:
            del self._shards[name]
        self._update_readable()
        if names and not self._is_closed:
            assert self._listener is not None
            await self._listener.on_lost(names)

    async def _on_assigned(self, partitions: Sequence[int]) -> None:
        """Look up where each partition is to be read from, and hand it to the listener."""
        member = self._opened()
        # Before anything is awaited: aiokafka would fetch from wherever it thinks right.
        member.hold(partitions)
        if not partitions and not member.knows_topic:
            self._fail(f"the topic does not exist any more: {self._where}")
        if self._is_closed or not partitions:
            return
        timeout_s = min(TAKE_TIMEOUT_S, self._config.session_timeout_ms / 2000)
        try:
            with anyio.fail_after(timeout_s):
                saved = await member.committed(partitions)
                starts = await self._starting_positions([each for each in partitions if each not in saved])
        except (errors.KafkaError, TimeoutError) as error:
            self._fail(f"{self._where}: positions can't be read ({describe(error)})")
            return
        taken = [self._take(partition, saved.get(partition), starts) for partition in partitions]
        assert self._listener is not None
        await self._listener.on_taken(taken)
        self._update_readable()

    def _take(self, partition: int, saved: Mark | None, starts: dict[int, int]) -> TakenShard:
        member = self._opened()
        name, epoch = shard_name(self._topic, partition), member.generation
        start = starts[partition] if saved is None else saved.offset
        state = decode_state(saved.metadata if saved else None)
        self._shards[name] = OwnedShard(name, partition, epoch, start=start, state=state, saved=saved)
        member.seek(partition, start)
        return TakenShard(shard=name, epoch=epoch, checkpoint=saved.offset if saved else -1, state=state)

    async def _starting_positions(self, partitions: Sequence[int]) -> dict[int, int]:
        member, position = self._opened(), self._request.starting_position
        if not partitions:
            return {}
        match position.kind:
            case "TRIM_HORIZON":
                return await member.first_positions(partitions)
            case "LATEST":
                return await member.end_positions(partitions)
            case _:
                return await member.positions_at(partitions, position.at_ms)

    def _fail(self, message: str) -> None:
        """Let the next receive say what went wrong in aiokafka's task."""
        self._failure = self._unavailable(message)
        self._opened().interrupt()

    def _opened(self) -> GroupMember:
        if self._member is None:
            raise ProgrammingError("the source is not open")
        return self._member

    def _unavailable(self, message: str) -> SourceUnavailable:
        return SourceUnavailable(message, source=str(self._request.reference))
