"""A member of a consumer group that reads a topic, or all that match, on librdkafka; see `membership.Member`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import anyio
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from eventcore.config.structs import KafkaConfig
from eventcore.loop import loop_clock, loop_time, open_scope
from eventcore.model import Record
from eventcore.ports.connectors import StreamRequest
from eventcore_connectors.kafka.librdkafka.pump import Pump
from eventcore_connectors.kafka.librdkafka.settings import member_settings
from eventcore_connectors.kafka.librdkafka.subscription import LOOK_S, Subscription
from eventcore_connectors.kafka.librdkafka.topics import NamedTopics
from eventcore_connectors.kafka.membership import (
    MISSING_PATIENCE_S,
    OPEN_TIMEOUT_S,
    ClientClosed,
    ClientFailed,
    Fenced,
    OutOfRange,
    PartitionsHook,
    TopicMissing,
    Unreachable,
    locate,
    read_metadata,
)
from eventcore_connectors.kafka.shape import Partition
from eventcore_connectors.kafka.shards import Mark
from eventcore_connectors.kafka.token_file import UnusableSecurity, read_token

#: What librdkafka says goes here, by a poll.
_LOG = logging.getLogger("confluent_kafka")
#: librdkafka gives an answer up then, seconds: the thread does nothing else meanwhile. Whoever asks is bounded besides.
_ANSWER_TIMEOUT_S = 5.0
#: Pause between two looks for a new topic, and before a refused commit is sent again, seconds.
_AGAIN_S = 0.1
#: Leaving a group takes milliseconds, or as long as librdkafka waits for a broker that is gone, seconds.
_LEAVE_TIMEOUT_S = 5.0

#: The broker's ways of saying that the generation of a commit is over.
_FENCED = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.FENCED_MEMBER_EPOCH,
    }
)
#: Nobody has answered yet.
_NO_ANSWER = frozenset({KafkaError._TRANSPORT, KafkaError._TIMED_OUT})  # noqa: SLF001
#: The leader or the coordinator is another one now, still loading, or not found yet: ask again. For all that
#: librdkafka says, none of them is retriable.
_MOVED = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError._WAIT_COORD,  # noqa: SLF001
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._IN_PROGRESS,  # noqa: SLF001
        # A partition that was added just now: its owner hears of it before librdkafka has asked the brokers again.
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
        # The group has given us a newer epoch, which is under way: what we have given up is not sent again.
        KafkaError.STALE_MEMBER_EPOCH,
    }
)


class LibrdkafkaMember:
    """One member: `join`, then anything, then `leave`. Not reusable."""

    def __init__(self, request: StreamRequest) -> None:
        """Connect nothing yet."""
        self._config: KafkaConfig = request.connection
        self._topics = NamedTopics(request.reference.part)
        self._where = locate(self._topics.text, self._config)
        settings = member_settings(self._config, request.consumer_group_id, request.context.clock.now_ms)
        self._subscription = Subscription(
            self._topics,
            max_poll_interval_s=self._config.max_poll_interval_ms / 1000,
            look_every_s=self._config.metadata_max_age_ms / 1000,
            now_s=loop_clock(),
        )
        self._is_incremental = self._config.group_protocol == "consumer"
        self._pump = Pump(
            {**settings, "logger": _LOG}, self._subscription, self._wake, is_incremental=self._is_incremental
        )
        self._arrived: anyio.Event | None = None
        self._is_interrupted = False
        self._has_left = False

    # -- life ----------------------------------------------------------------------------------------------------------

    async def join(self, on_revoked: PartitionsHook, on_assigned: PartitionsHook) -> Sequence[Partition]:
        """Connect, find the topics, and begin to join the group; see `Member.join`."""
        self._check_security()
        try:
            with anyio.fail_after(OPEN_TIMEOUT_S):
                with _told_as_ours():
                    await self._pump.open()
                    found = await self._find_topics()
        except TimeoutError as error:
            raise await self._explain(f"Kafka does not answer within {OPEN_TIMEOUT_S:g} s: {self._where}") from error
        except ClientFailed as error:
            raise await self._explain(f"Kafka can't be reached: {self._where} ({error})") from error
        self._pump.begin(on_revoked, on_assigned)
        return [Partition(topic, number) for topic, count in sorted(found.items()) for number in range(count)]

    async def _find_topics(self) -> Mapping[str, int]:
        """Return the numbers of partitions of the topics, none where none matches an expression."""
        if self._topics.is_pattern:
            return self._topics.among((await self._look()).values())
        topic = self._topics.text
        give_up = loop_time() + MISSING_PATIENCE_S
        while True:
            found = (await self._look(topic))[topic]
            if found.error is None and found.partitions:
                return {topic: len(found.partitions)}
            is_missing = found.error is not None and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
            if is_missing and loop_time() >= give_up:
                raise TopicMissing(self._where)
            if found.error is not None and not is_missing and found.error.code() not in _MOVED:
                raise ClientFailed(str(found.error))
            await anyio.sleep(_AGAIN_S)

    async def _look(self, topic: str | None = None) -> Mapping[str, Any]:
        """Return what the brokers know of a topic, or of all."""
        while True:
            try:
                found = await self._pump.ask(lambda kafka: kafka.list_topics(topic, timeout=LOOK_S))
                return cast("Mapping[str, Any]", found.topics)
            except KafkaException as error:
                if _reason(error).code() not in _NO_ANSWER:
                    raise

    def _check_security(self) -> None:
        """Find out about files that can't be used before librdkafka does: it names none."""
        if self._config.security_protocol == "PLAINTEXT":
            return
        from eventcore_connectors.kafka.client import connection_settings

        connection_settings(self._config)
        if self._config.sasl_mechanism == "OAUTHBEARER":
            try:
                read_token(Path(self._config.sasl_oauth_token_file))
            except UnusableSecurity as error:
                raise Unreachable(f"Kafka can't be reached: {self._where} ({error})") from error

    async def _explain(self, otherwise: str) -> Unreachable:
        """Return why no broker talks to us, in the words of the other client: it asks once more."""
        from eventcore_connectors.kafka.security import explain_refusal

        why = await explain_refusal(self._config)
        return Unreachable(f"Kafka can't be reached: {self._where} ({why})" if why else otherwise)

    async def leave(self) -> None:
        """Leave the group and disconnect, in bounded time."""
        self._has_left = True
        self.interrupt()
        with anyio.move_on_after(_LEAVE_TIMEOUT_S, shield=True):
            await self._pump.stop()

    @property
    def generation(self) -> int:
        """The group's generation in which this member got partitions last; -1 when it was thrown out."""
        return self._pump.assignment.generation

    def is_over(self, generation: int) -> bool:
        """Tell whether partitions that were taken in that generation may have other owners by now."""
        return self._pump.assignment.is_over(generation)

    @property
    def knows_topics(self) -> bool:
        """Whether the brokers' last answer had the topic, or one that matches, in it."""
        return self._subscription.knows_topics

    def set_active(self, is_active: bool) -> None:
        """Count as alive from now on, or leave after `max_poll_interval_ms` of not being so."""
        self._subscription.set_active(is_active)

    # -- records -------------------------------------------------------------------------------------------------------

    async def poll(
        self, partitions: Sequence[Partition], wait_s: float, *, count_max: int
    ) -> Mapping[Partition, Sequence[Record]]:
        """Return records of the partitions, or nothing after ``wait_s`` or `interrupt`; see `Member.poll`."""
        deadline = loop_time() + wait_s
        self._is_interrupted = False
        while True:
            # Before the look, so that what arrives after it is not missed.
            self._arrived = anyio.Event()
            if self._has_left:
                raise ClientClosed
            self._pump.check()
            if taken := self._pump.held.take(partitions, count_max):
                return taken
            if passed := self._pump.held.passed(partitions):
                raise OutOfRange(*passed)
            with open_scope(deadline) as scope:
                await self._arrived.wait()
            if self._is_interrupted or scope.cancelled_caught:
                return {}

    def interrupt(self) -> None:
        """End a pending `poll`: what it waits for has changed."""
        self._is_interrupted = True
        self._wake()

    def _wake(self) -> None:
        if self._arrived is not None:
            self._arrived.set()

    def position(self, partition: Partition) -> int | None:
        """Return the offset behind what `poll` has returned, and behind what no record follows."""
        return self._pump.held.position(partition)

    def end(self, partition: Partition) -> int | None:
        """Return the offset that the next record gets, as of the last answer; None before the first."""
        return self._pump.ends.get(partition)

    def answered(self, partitions: Sequence[Partition]) -> int | None:
        """Return a number that changes when brokers answer, whichever: librdkafka does not say.

        Without partitions it is enough that they are connected: a rebalance is long, and silent. None outside of the
        group, where nothing is asked of them.
        """
        if partitions:
            return self._pump.answers
        return self._pump.contacts if self._subscription.is_in else None

    # -- positions -----------------------------------------------------------------------------------------------------

    def seek(self, partition: Partition, position: int) -> None:
        """Read a partition from a position on; what was fetched before is dropped."""
        self._pump.held.begin(partition, position)

    async def first_positions(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Return where each partition's oldest record is."""
        return await self._find(partitions, OFFSET_BEGINNING)

    async def end_positions(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Return the offset that each partition's next record gets."""
        return await self._find(partitions, OFFSET_END)

    async def positions_at(self, partitions: Sequence[Partition], at_ms: int) -> dict[Partition, int]:
        """Return where each partition's first record with that timestamp or a later one is; its end without one."""
        found = await self._find(partitions, at_ms)
        missing = [partition for partition in partitions if found[partition] < 0]
        return found | await self.end_positions(missing)

    async def _find(self, partitions: Iterable[Partition], at_ms: int) -> dict[Partition, int]:
        """Ask for offsets by time; the protocol's times before all and after all are librdkafka's, too."""
        asked = [TopicPartition(*partition, at_ms) for partition in partitions]
        if not asked:
            return {}
        found = await self._ask(lambda kafka: kafka.offsets_for_times(asked, timeout=_ANSWER_TIMEOUT_S))
        return {Partition(each.topic, each.partition): each.offset for each in found}

    # -- commits -------------------------------------------------------------------------------------------------------

    async def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Mark]:
        """Return what is committed, with its metadata; partitions without a commit are missing."""
        asked = [TopicPartition(*partition) for partition in partitions]
        found = await self._ask(lambda kafka: kafka.committed(asked, timeout=_ANSWER_TIMEOUT_S))
        return {
            Partition(each.topic, each.partition): Mark(each.offset, read_metadata(each.metadata))
            for each in found
            if each.offset >= 0
        }

    async def commit(self, generation: int, marks: Mapping[Partition, Mark]) -> None:
        """Commit offsets with their metadata; see `Member.commit`.

        librdkafka sends whatever generation, or epoch, it is in. It is not in one of others before our callbacks have
        given up the partitions; and what was given up is not sent.
        """
        offsets = [_as_committed(partition, mark) for partition, mark in marks.items()]
        while True:
            refused = await self._pump.commit(generation, offsets)
            if refused is None:
                return
            if refused.code() in _FENCED:
                raise Fenced from KafkaException(refused)
            if refused.code() not in _MOVED:
                raise ClientFailed(str(refused))
            await anyio.sleep(_AGAIN_S)

    def has_stray_commit(self, partition: Partition) -> bool:
        """Tell whether librdkafka may send a commit of a partition again; see `Member.has_stray_commit`."""
        return self._pump.has_unanswered_commit(partition)

    async def _ask(self, question: Callable[[Consumer], list[TopicPartition]]) -> list[TopicPartition]:
        """Ask for offsets until the brokers say; leaders move. The caller bounds it."""
        while True:
            try:
                found = await self._pump.ask(question)
                refused = next((each.error for each in found if each.error is not None), None)
                if refused is None:
                    return found
            except KafkaException as error:
                refused = _reason(error)
            except UnicodeDecodeError as error:
                raise ClientFailed("another program's commit has metadata that is no text of ours") from error
            if refused.code() not in _MOVED:
                raise ClientFailed(str(refused))
            await anyio.sleep(_AGAIN_S)


@contextmanager
def _told_as_ours() -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        raise ClientFailed(str(_reason(error))) from error


def _as_committed(partition: Partition, mark: Mark) -> TopicPartition:
    if mark.metadata:
        return TopicPartition(*partition, mark.offset, mark.metadata)
    # Empty metadata would be written as a zero byte.
    return TopicPartition(*partition, mark.offset)


def _reason(error: KafkaException) -> KafkaError:
    reason: KafkaError = error.args[0]
    return reason
