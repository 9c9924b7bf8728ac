"""Reads topics: aiokafka's consumer behind plain calls; a group, if any, is its user's.

A cancelled or failed `getmany` leaves aiokafka's count of pending fetches too high: it is put right here. What a wait
for records may take is bounded, also while a group rebalances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio
from aiokafka import AIOKafkaConsumer, TopicPartition, errors

from eventcore.config.structs import KafkaConfig
from eventcore.loop import loop_time, open_scope
from eventcore.model import Record
from eventcore_connectors.kafka import client
from eventcore_connectors.kafka.membership import OutOfRange
from eventcore_connectors.kafka.records import read_directly
from eventcore_connectors.kafka.shape import Partition

#: `getmany` returns by itself after its timeout; past that much more it is waiting for a rebalance, seconds.
_POLL_GRACE_S = 0.05
#: There is no such partition: a fetch for it alone waits, and returns nothing.
_NOBODY = Partition("", -1)


class TopicReader:
    """A connection that reads topics: `connect`, then anything, then `disconnect`. Not reusable."""

    def __init__(self, config: KafkaConfig, topics: str, **settings: Any) -> None:
        """Connect nothing yet.

        Args:
            config: of the connection.
            topics: a topic's name, or an expression for several.
            settings: of the consumer group, by aiokafka's names; none without one.

        Raises:
            Unreachable: a certificate or a key can't be loaded.
        """
        self._config = config
        self._topics = topics
        self._kafka: Any = AIOKafkaConsumer(  # type: ignore[no-untyped-call]
            **client.connection_settings(config),
            **settings,
            fetch_max_bytes=config.fetch_max_bytes,
            max_partition_fetch_bytes=config.max_partition_fetch_bytes,
            isolation_level=config.isolation_level,
            enable_auto_commit=False,
            # Positions are set by the source; one that the log has passed is an error, never a jump.
            auto_offset_reset="none",
        )
        self._polling: anyio.CancelScope | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

    async def connect(self) -> Sequence[Partition]:
        """Connect and find the topics; return their partitions, none where no topic matches the expression.

        Raises:
            Unreachable: no broker answers, or the topic does not exist.
        """
        start, connection = self._kafka.start, self._kafka._client  # noqa: SLF001
        found = await client.connect(start, connection, self._config, self._topics)
        read_directly(self._kafka)
        return [Partition(topic, number) for topic, count in sorted(found.items()) for number in range(count)]

    def assign(self, partitions: Sequence[Partition]) -> None:
        """Read partitions without a group: nobody else is kept from them, and nothing is committed."""
        self._kafka.assign(self._all(partitions))

    async def disconnect(self) -> None:
        """Disconnect, in bounded time."""
        tidy_up = [self._kafka._fetcher.close, self._kafka._client.close]  # noqa: SLF001
        await client.stop(self._kafka.stop, *tidy_up)

    # -- records -------------------------------------------------------------------------------------------------------

    async def poll(
        self, partitions: Sequence[Partition], wait_s: float, *, count_max: int
    ) -> Mapping[Partition, Sequence[Record]]:
        """Return records of the partitions, each partition's in order, or nothing after ``wait_s`` or `interrupt`.

        Records of other partitions stay where they are: aiokafka's own pause would drop what it has fetched. With no
        partitions it waits all the same, so that the member counts as alive. Cancelling it loses nothing.

        Raises:
            OutOfRange: the log has passed a position; it stays there until `seek`.
            ClientClosed: it was disconnected.
            ClientFailed: something that does not go away by itself.
        """
        wanted = self._all(partitions or (_NOBODY,))
        subscription = self._kafka._subscription  # noqa: SLF001
        pending = subscription._fetch_count  # noqa: SLF001
        deadline = loop_time() + wait_s + _POLL_GRACE_S
        try:
            with client.told_as_ours(), open_scope(deadline) as self._polling:
                return await self._poll(wanted, wait_s, count_max)
        finally:
            self._polling = None
            subscription._fetch_count = pending  # noqa: SLF001
        return {}

    async def _poll(
        self, wanted: Sequence[TopicPartition], wait_s: float, count_max: int
    ) -> Mapping[Partition, Sequence[Record]]:
        try:
            received = await self._kafka.getmany(*wanted, timeout_ms=wait_s * 1000, max_records=count_max)
        except errors.OffsetOutOfRangeError as error:
            ((each, position),) = error.args[0].items()
            raise OutOfRange(Partition(*each), position) from error
        except errors.NoOffsetForPartitionError:
            # A partition that was assigned a moment ago; the source is about to give it its position.
            return {}
        return {Partition(*each): records for each, records in received.items()}

    def interrupt(self) -> None:
        """End a pending `poll`: what it waits for has changed."""
        if self._polling is not None:
            self._polling.cancel()

    def position(self, partition: Partition) -> int | None:
        """Return the offset at which the next fetch begins; None while it is not known."""
        state = self._state(partition)
        return state.position if state is not None and state.has_valid_position else None

    def end(self, partition: Partition) -> int | None:
        """Return the offset that the next record gets, as of the last answer; None before the first."""
        state = self._state(partition)
        return None if state is None else state.highwater

    def answered(self, partitions: Sequence[Partition]) -> int | None:
        """Return when a broker last answered a fetch for one of the partitions, ms; 0: not yet; None without any."""
        states = [self._state(partition) for partition in partitions]
        return max([(state.timestamp if state is not None else None) or 0 for state in states], default=None)

    def _state(self, partition: Partition) -> Any:
        subscription = self._kafka._subscription.subscription  # noqa: SLF001
        assignment = subscription.assignment if subscription is not None else None
        return None if assignment is None else assignment.state_value(TopicPartition(*partition))

    # -- positions -----------------------------------------------------------------------------------------------------

    def seek(self, partition: Partition, position: int) -> None:
        """Fetch a partition from a position on; what was fetched before is dropped."""
        self._kafka.seek(TopicPartition(*partition), position)

    async def first_positions(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Return where each partition's oldest record is."""
        with client.told_as_ours():
            return self._by_partition(await self._kafka.beginning_offsets(self._all(partitions)))

    async def end_positions(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Return the offset that each partition's next record gets."""
        with client.told_as_ours():
            return self._by_partition(await self._kafka.end_offsets(self._all(partitions)))

    async def positions_at(self, partitions: Sequence[Partition], at_ms: int) -> dict[Partition, int]:
        """Return where each partition's first record with that timestamp or a later one is; its end without one."""
        with client.told_as_ours():
            found = await self._kafka.offsets_for_times(dict.fromkeys(self._all(partitions), at_ms))
        positions = {Partition(*each): mark.offset for each, mark in found.items() if mark is not None}
        missing = [partition for partition in partitions if partition not in positions]
        return positions | (await self.end_positions(missing) if missing else {})

    @staticmethod
    def _all(partitions: Sequence[Partition]) -> list[TopicPartition]:
        return [TopicPartition(*partition) for partition in partitions]

    @staticmethod
    def _by_partition(found: Mapping[TopicPartition, int]) -> dict[Partition, int]:
        return {Partition(*each): offset for each, offset in found.items()}
