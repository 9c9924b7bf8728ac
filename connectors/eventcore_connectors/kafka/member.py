"""A member of a consumer group that reads a topic, or all that match an expression, on aiokafka.

What aiokafka does not do, and this does:

- commits are fenced: a commit carries the generation in which its partitions were taken, so that the broker refuses it
  once another member may own them (aiokafka sends whatever generation it has by then);
- metadata of committed offsets is read (`committed()` drops it).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import anyio
from aiokafka import ConsumerRebalanceListener, TopicPartition, errors
from aiokafka.client import ConnectionGroup
from aiokafka.protocol.commit import OffsetCommitRequest

from eventcore.config.structs import KafkaConfig
from eventcore.patterns.topics import SIGN, TopicPattern
from eventcore_connectors.kafka import client
from eventcore_connectors.kafka.membership import Fenced, PartitionsHook, read_metadata, write_metadata
from eventcore_connectors.kafka.reader import TopicReader
from eventcore_connectors.kafka.shape import Partition
from eventcore_connectors.kafka.shards import Mark

#: Pause before a commit that a moving coordinator refused is sent again, seconds.
_COMMIT_RETRY_S = 0.1

#: The broker's ways of saying that the generation of a commit is over.
_FENCED = (errors.UnknownMemberIdError, errors.IllegalGenerationError, errors.RebalanceInProgressError)
#: The coordinator is another one now, or still loading: ask again.
_COORDINATOR_MOVED = (
    errors.GroupCoordinatorNotAvailableError,
    errors.NotCoordinatorForGroupError,
    errors.GroupLoadInProgressError,
    errors.RequestTimedOutError,
)


class _Rebalance(ConsumerRebalanceListener):
    def __init__(self, on_revoked: PartitionsHook, on_assigned: PartitionsHook) -> None:
        self._on_revoked = on_revoked
        self._on_assigned = on_assigned

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._on_revoked(sorted(Partition(*each) for each in revoked))

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await self._on_assigned(sorted(Partition(*each) for each in assigned))


class GroupMember(TopicReader):
    """One member: `join`, then anything, then `leave`. Not reusable."""

    def __init__(self, config: KafkaConfig, topics: str, group: str) -> None:
        """Connect nothing yet.

        Raises:
            Unreachable: a certificate or a key can't be loaded.
        """
        super().__init__(
            config,
            topics,
            group_id=group,
            group_instance_id=config.group_instance_id or None,
            session_timeout_ms=config.session_timeout_ms,
            heartbeat_interval_ms=config.heartbeat_interval_ms,
            max_poll_interval_ms=config.max_poll_interval_ms,
            rebalance_timeout_ms=config.rebalance_timeout_ms,
        )
        self._group = group
        self._found: Sequence[Partition] = ()
        self._activity: AbstractContextManager[None] | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

    async def join(self, on_revoked: PartitionsHook, on_assigned: PartitionsHook) -> Sequence[Partition]:
        """Connect, find the topics, and begin to join the group; partitions come later, through the hooks.

        With an expression, topics are looked for every `metadata_max_age_ms` from then on. Returns the partitions that
        there are now.

        Raises:
            Unreachable: no broker answers, or the topic does not exist.
        """
        self._found = await self.connect()
        listener = _Rebalance(on_revoked, on_assigned)
        if self._topics.startswith(SIGN):
            # What its own `subscribe` does, which would compile the expression in Python's dialect.
            self._kafka._subscription.subscribe_pattern(TopicPattern(self._topics), listener)  # noqa: SLF001
            self._kafka._client.set_topics([])  # noqa: SLF001
        else:
            self._kafka.subscribe([self._topics], listener=listener)
        return self._found

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

    def is_over(self, generation: int) -> bool:
        """Tell whether partitions that were taken in that generation may have other owners by now."""
        return self.generation != generation

    @property
    def knows_topics(self) -> bool:
        """Tell whether the brokers' last answer had the topic, or one that matches, in it."""
        subscription = self._kafka._subscription.subscription  # noqa: SLF001
        if subscription is None:
            return bool(self._found)
        return any(self._kafka.partitions_for_topic(topic) for topic in subscription.topics)

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

    # -- commits -------------------------------------------------------------------------------------------------------

    async def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Mark]:
        """Return what is committed, with its metadata; partitions without a commit are missing."""
        with client.told_as_ours():
            found = await self._kafka._coordinator.fetch_committed_offsets(  # noqa: SLF001
                self._all(partitions)
            )
        return {Partition(*each): Mark(mark.offset, read_metadata(mark.metadata)) for each, mark in found.items()}

    async def commit(self, generation: int, marks: Mapping[Partition, Mark]) -> None:
        """Commit offsets with their metadata as a member of that generation. The caller bounds and shields it.

        Raises:
            Fenced: the generation is over; nothing was written.
            ClientFailed: the broker refuses it for good (permissions, metadata too large).
        """
        with client.told_as_ours():
            await self._commit(self._kafka._coordinator, generation, marks)  # noqa: SLF001

    def has_stray_commit(self, partition: Partition) -> bool:
        """Tell that there is none: aiokafka sends each once, and a connection keeps them in order."""
        del partition
        return False

    async def _commit(self, coordinator: Any, generation: int, marks: Mapping[Partition, Mark]) -> None:
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
        self, coordinator: Any, generation: int, marks: Mapping[Partition, Mark]
    ) -> errors.KafkaError | None:
        by_topic: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for partition, mark in marks.items():
            by_topic[partition.topic].append((partition.number, mark.offset, write_metadata(mark.metadata)))
        request = OffsetCommitRequest(
            self._group,
            generation,
            coordinator.member_id,
            OffsetCommitRequest.DEFAULT_RETENTION_TIME,
            list(by_topic.items()),
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
