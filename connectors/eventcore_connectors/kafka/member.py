"""A member of a consumer group that reads one topic: aiokafka's consumer behind plain calls with partition numbers.

What aiokafka does not do, and this does:

- commits are fenced: a commit carries the generation in which its partitions were taken, so that the broker refuses it
  once another member may own them (aiokafka sends whatever generation it has by then);
- metadata of committed offsets is read (`committed()` drops it);
- a cancelled or failed `getmany` leaves aiokafka's count of pending fetches too high: it is put right;
- what a wait for records may take is bounded, also while the group rebalances.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import anyio
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition, errors
from aiokafka.client import ConnectionGroup
from aiokafka.protocol.commit import OffsetCommitRequest

from eventcore.config.structs import KafkaConfig
from eventcore.model import Record
from eventcore_connectors.kafka import client
from eventcore_connectors.kafka.records import read_directly
from eventcore_connectors.kafka.shards import Mark

#: `getmany` returns by itself after its timeout; past that much more it is waiting for a rebalance, seconds.
_POLL_GRACE_S = 0.05
#: Pause before a commit that a moving coordinator refused is sent again, seconds.
_COMMIT_RETRY_S = 0.1
#: No partition has this number: a fetch for it alone waits, and returns nothing.
_NOBODY = -1

#: The broker's ways of saying that the generation of a commit is over.
_FENCED = (errors.UnknownMemberIdError, errors.IllegalGenerationError, errors.RebalanceInProgressError)
#: The coordinator is another one now, or still loading: ask again.
_COORDINATOR_MOVED = (
    errors.GroupCoordinatorNotAvailableError,
    errors.NotCoordinatorForGroupError,
    errors.GroupLoadInProgressError,
    errors.RequestTimedOutError,
)

PartitionsHook = Callable[[Sequence[int]], Awaitable[None]]


class Fenced(Exception):
    """The generation is over: another member may own the partitions."""


class OutOfRange(Exception):
    """A partition has no record at the position, nor after it without a gap."""

    def __init__(self, partition: int, position: int) -> None:
        self.partition = partition
        self.position = position
        super().__init__(partition, position)


class _Rebalance(ConsumerRebalanceListener):
    def __init__(self, on_revoked: PartitionsHook, on_assigned: PartitionsHook) -> None:
        self._on_revoked = on_revoked
        self._on_assigned = on_assigned

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._on_revoked(sorted(each.partition for each in revoked))

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await self._on_assigned(sorted(each.partition for each in assigned))


class GroupMember:
    """One member: `join`, then anything, then `leave`. Not reusable."""

    def __init__(self, config: KafkaConfig, topic: str, group: str) -> None:
        """Connect nothing yet.

        Raises:
            Unreachable: a certificate or a key can't be loaded.
        """
        self._config = config
        self._topic = topic
        self._group = group
        self._kafka: Any = AIOKafkaConsumer(  # type: ignore[no-untyped-call]
            **client.connection_settings(config),
            group_id=group,
            group_instance_id=config.group_instance_id or None,
            session_timeout_ms=config.session_timeout_ms,
            heartbeat_interval_ms=config.heartbeat_interval_ms,
            max_poll_interval_ms=config.max_poll_interval_ms,
            rebalance_timeout_ms=config.rebalance_timeout_ms,
            fetch_max_bytes=config.fetch_max_bytes,
            max_partition_fetch_bytes=config.max_partition_fetch_bytes,
            isolation_level=config.isolation_level,
            enable_auto_commit=False,
            # Positions are set by the source; one that the log has passed is an error, never a jump.
            auto_offset_reset="none",
        )
        self._polling: anyio.CancelScope | None = None
        self._activity: AbstractContextManager[None] | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

    async def join(self, on_revoked: PartitionsHook, on_assigned: PartitionsHook) -> int:
        """Connect, find the topic, and begin to join the group; partitions come later, through the hooks.

        Returns how many partitions the topic has.

        Raises:
            Unreachable: no broker answers, or the topic does not exist.
        """
        start, connection = self._kafka.start, self._kafka._client  # noqa: SLF001
        count = await client.connect(start, connection, self._config, self._topic)
        read_directly(self._kafka)
        self._kafka.subscribe([self._topic], listener=_Rebalance(on_revoked, on_assigned))
        return count

    async def leave(self) -> None:
        """Leave the group and disconnect, in bounded time."""
        coordinator = self._kafka._coordinator  # noqa: SLF001
        tidy_up = [self._kafka._client.close]  # noqa: SLF001
        if coordinator is not None:
            tidy_up = [
                coordinator._stop_heartbeat_task,  # noqa: SLF001
                coordinator._stop_commit_offsets_refresh_task,  # noqa: SLF001
                self._kafka._fetcher.close,  # noqa: SLF001
                *tidy_up,
            ]
        await client.stop(self._kafka.stop, *tidy_up)

    @property
    def generation(self) -> int:
        """The group's generation that this member is in; -1 when it was thrown out."""
        return int(self._kafka._coordinator.generation)  # noqa: SLF001

    @property
    def knows_topic(self) -> bool:
        """Tell whether the brokers' last answer had the topic in it."""
        return bool(self._kafka.partitions_for_topic(self._topic))

    def set_active(self, is_active: bool) -> None:
        """Count as alive from now on, or be thrown out after `max_poll_interval_ms` of not being so.

        aiokafka counts a pending `getmany` as life, and nothing else. A batch that is being worked on is life too.
        """
        if is_active and self._activity is None:
            self._activity = self._kafka._subscription.fetch_context()  # noqa: SLF001
            self._activity.__enter__()
        elif not is_active and self._activity is not None:
            self._activity.__exit__(None, None, None)
            self._activity = None

    # -- records -------------------------------------------------------------------------------------------------------

    async def poll(self, partitions: Sequence[int], wait_s: float, *, count_max: int) -> Mapping[int, Sequence[Record]]:
        """Return records of the partitions, each partition's in order, or nothing after ``wait_s`` or `interrupt`.

        Records of other partitions stay where they are: aiokafka's own pause would drop what it has fetched. With no
        partitions it waits all the same, so that the member counts as alive. Cancelling it loses nothing.

        Raises:
            OutOfRange: the log has passed a position; it stays there until `seek`.
            KafkaError: something that does not go away by itself.
        """
        wanted = [TopicPartition(self._topic, partition) for partition in partitions or (_NOBODY,)]
        subscription = self._kafka._subscription  # noqa: SLF001
        pending = subscription._fetch_count  # noqa: SLF001
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + wait_s + _POLL_GRACE_S) as self._polling:
                received = await self._kafka.getmany(*wanted, timeout_ms=wait_s * 1000, max_records=count_max)
                return {each.partition: records for each, records in received.items()}
        except errors.OffsetOutOfRangeError as error:
            ((each, position),) = error.args[0].items()
            raise OutOfRange(each.partition, position) from error
        except errors.NoOffsetForPartitionError:
            # A partition that was assigned a moment ago; the source is about to give it its position.
            pass
        finally:
            self._polling = None
            subscription._fetch_count = pending  # noqa: SLF001
        return {}

    def interrupt(self) -> None:
        """End a pending `poll`: what it waits for has changed."""
        if self._polling is not None:
            self._polling.cancel()

    def position(self, partition: int) -> int | None:
        """Return the offset at which the next fetch begins; None while it is not known."""
        state = self._state(partition)
        return state.position if state is not None and state.has_valid_position else None

    def end(self, partition: int) -> int | None:
        """Return the offset that the next record gets, as of the last answer; None before the first."""
        state = self._state(partition)
        return None if state is None else state.highwater

    def answered_ms(self, partition: int) -> int | None:
        """Return when the broker last answered a fetch for a partition; None before the first."""
        state = self._state(partition)
        return None if state is None else state.timestamp

    def _state(self, partition: int) -> Any:
        subscription = self._kafka._subscription.subscription  # noqa: SLF001
        assignment = subscription.assignment if subscription is not None else None
        return None if assignment is None else assignment.state_value(TopicPartition(self._topic, partition))

    # -- positions -----------------------------------------------------------------------------------------------------

    def seek(self, partition: int, position: int) -> None:
        """Fetch a partition from a position on; what was fetched before is dropped."""
        self._kafka.seek(TopicPartition(self._topic, partition), position)

    async def committed(self, partitions: Sequence[int]) -> dict[int, Mark]:
        """Return what is committed, with its metadata; partitions without a commit are missing."""
        found = await self._kafka._coordinator.fetch_committed_offsets(  # noqa: SLF001
            [TopicPartition(self._topic, partition) for partition in partitions]
        )
        return {each.partition: Mark(mark.offset, mark.metadata or "") for each, mark in found.items()}

    async def first_positions(self, partitions: Sequence[int]) -> dict[int, int]:
        """Return where each partition's oldest record is."""
        return self._by_partition(await self._kafka.beginning_offsets(self._all(partitions)))

    async def end_positions(self, partitions: Sequence[int]) -> dict[int, int]:
        """Return the offset that each partition's next record gets."""
        return self._by_partition(await self._kafka.end_offsets(self._all(partitions)))

    async def positions_at(self, partitions: Sequence[int], at_ms: int) -> dict[int, int]:
        """Return where each partition's first record with that timestamp or a later one is; its end without one."""
        found = await self._kafka.offsets_for_times(dict.fromkeys(self._all(partitions), at_ms))
        positions = {each.partition: mark.offset for each, mark in found.items() if mark is not None}
        missing = [partition for partition in partitions if partition not in positions]
        return positions | (await self.end_positions(missing) if missing else {})

    def _all(self, partitions: Sequence[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, partition) for partition in partitions]

    @staticmethod
    def _by_partition(found: Mapping[TopicPartition, int]) -> dict[int, int]:
        return {each.partition: offset for each, offset in found.items()}

    # -- commits -------------------------------------------------------------------------------------------------------

    async def commit(self, generation: int, marks: Mapping[int, Mark]) -> None:
        """Commit offsets with their metadata as a member of that generation. The caller bounds and shields it.

        Raises:
            Fenced: the generation is over; nothing was written.
            KafkaError: the broker refuses it for good (permissions, metadata too large).
        """
        coordinator = self._kafka._coordinator  # noqa: SLF001
        while True:
            await coordinator.ensure_coordinator_known()
            if self.generation != generation:
                raise Fenced
            refused = await self._send_commit(coordinator, generation, marks)
            if refused is None:
                return
            if isinstance(refused, _FENCED):
                raise Fenced from refused
            if not isinstance(refused, _COORDINATOR_MOVED) and not refused.retriable:
                raise refused
            if isinstance(refused, errors.NotCoordinatorForGroupError):
                coordinator.coordinator_dead()
            await anyio.sleep(_COMMIT_RETRY_S)

    async def _send_commit(
        self, coordinator: Any, generation: int, marks: Mapping[int, Mark]
    ) -> errors.KafkaError | None:
        request = OffsetCommitRequest(
            self._group,
            generation,
            coordinator.member_id,
            OffsetCommitRequest.DEFAULT_RETENTION_TIME,
            [(self._topic, [(partition, mark.offset, mark.metadata) for partition, mark in marks.items()])],
        )
        try:
            response = await self._kafka._client.send(  # noqa: SLF001
                coordinator.coordinator_id, request, group=ConnectionGroup.COORDINATION
            )
        except errors.KafkaError as error:
            coordinator.coordinator_dead()
            return error
        codes = {code for _, answers in response.topics for _, code in answers if code}
        return errors.for_code(min(codes))() if codes else None
