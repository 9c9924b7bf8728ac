"""What tests do at a broker beside the code under test: topics, records, transactions, offsets."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from confluent_kafka.admin import AdminClient

from eventcore.clock import SystemClock
from eventcore.config.reference import Reference
from eventcore.config.structs import KafkaConfig
from eventcore.delivery.ordering import EMPTY, ShardState, decode_state
from eventcore.ids import SeededIds
from eventcore.ports.connectors import ConnectorContext, StartingPosition, StreamRequest
from eventcore.ports.ranges import RangeSource
from eventcore.ports.sources import StreamSource
from eventcore.testing.conformance.stream import HAPPENS_WITHIN_S
from eventcore_connectors.kafka import connector

CONTEXT = ConnectorContext(clock=SystemClock(), ids=SeededIds(1), region="us-east-1", account_id="000000000000")
TRIM_HORIZON = StartingPosition("TRIM_HORIZON")
RECORDS_AHEAD_MAX = 10_000
#: Settings that `group_protocol = "consumer"` does not take.
DECIDED_BY_BROKERS = frozenset({"session_timeout_ms", "heartbeat_interval_ms"})

_numbers = itertools.count()


class KafkaCluster:
    """One test's view of the broker: names are unique, clients are closed with it."""

    def __init__(self, address: str, admin: AIOKafkaAdminClient, producer: AIOKafkaProducer) -> None:
        self.address = address
        self.client_settings: Mapping[str, Any] = {}  #: of every connection: which client reads
        self.admin = admin
        self.producer = producer

    # -- topics --------------------------------------------------------------------------------------------------------

    async def create_topic(
        self, name: str = "orders", *, partitions: int = 1, replicas: int = 1, **configs: str
    ) -> str:
        """Create a topic under a name of its own; configs with `_` for `.`."""
        topic = f"{name}-{next(_numbers)}"
        # Brokers look every five minutes for records that are older than a week, as some of the tests' are.
        settings = {"retention.ms": "-1"} | {key.replace("_", "."): value for key, value in configs.items()}
        await self.admin.create_topics([NewTopic(topic, partitions, replicas, topic_configs=settings)])
        await self.producer.client.add_topic(topic)
        await self._led(topic, partitions)
        return topic

    async def add_partitions(self, topic: str, total: int) -> None:
        """Let a topic have so many partitions, to which can be sent when this returns."""
        await self.admin.create_partitions({topic: NewPartitions(total)})
        await self._led(topic, total)

    async def _led(self, topic: str, count: int) -> None:
        """Wait until the broker says who leads so many partitions: until then it may leave the topic out."""
        client = self.producer.client
        with anyio.fail_after(HAPPENS_WITHIN_S):
            while len(client.cluster.available_partitions_for_topic(topic) or ()) < count:
                await client.force_metadata_update()

    async def delete_topic(self, topic: str) -> None:
        await self.admin.delete_topics([topic])

    async def has_topic(self, topic: str) -> bool:
        return topic in await self.admin.list_topics()

    async def trim(self, topic: str, before: int, *, partition: int = 0) -> None:
        await self.admin.delete_records({TopicPartition(topic, partition): RecordsToDelete(before)})

    # -- records -------------------------------------------------------------------------------------------------------

    async def send(
        self,
        topic: str,
        bodies: Sequence[bytes | None],
        *,
        partition: int = 0,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        timestamp_ms: int | None = None,
    ) -> list[int]:
        """Send records to one partition; return their offsets."""
        pending = [
            await self.producer.send(
                topic, value=body, key=key, partition=partition, headers=list(headers), timestamp_ms=timestamp_ms
            )
            for body in bodies
        ]
        return [(await each).offset for each in pending]

    @asynccontextmanager
    async def transactions(self) -> AsyncIterator[AIOKafkaProducer]:
        """Open a transactional producer."""
        producer = AIOKafkaProducer(bootstrap_servers=self.address, transactional_id=f"tests-{next(_numbers)}")
        await producer.start()
        try:
            yield producer
        finally:
            await producer.stop()

    async def visible(self, topic: str, *, partitions: int = 1) -> list[bytes]:
        """Return the bodies that a reader of committed records sees, up to the first transaction that is open."""
        reader = AIOKafkaConsumer(bootstrap_servers=self.address, isolation_level="read_committed")
        await reader.start()
        try:
            places = [TopicPartition(topic, partition) for partition in range(partitions)]
            reader.assign(places)
            await reader.seek_to_beginning(*places)
            ends = await reader.end_offsets(places)
            bodies: list[bytes] = []
            with anyio.fail_after(HAPPENS_WITHIN_S):
                while any([await reader.position(place) < ends[place] for place in places]):
                    for records in (await reader.getmany(timeout_ms=200)).values():
                        bodies += [record.value or b"" for record in records]
            return bodies
        finally:
            await reader.stop()

    # -- groups --------------------------------------------------------------------------------------------------------

    async def committed(self, group: str, topic: str, *, partition: int = 0) -> OffsetAndMetadata | None:
        """Return what a group has committed, with its metadata."""
        each = TopicPartition(topic, partition)
        found = (await self.admin.list_consumer_group_offsets(group, partitions=[each]))[each]
        # librdkafka's Python client writes the zero byte of a C string, too.
        return None if found.offset < 0 else OffsetAndMetadata(found.offset, found.metadata.removesuffix("\0"))

    async def members(self, group: str) -> list[tuple[str, str]]:
        """Return a group's members as (member id, client id)."""
        # By the other client: aiokafka's knows groups of the classic protocol only.
        admin = AdminClient({"bootstrap.servers": self.address})
        asked = admin.describe_consumer_groups([group])[group]
        described = await anyio.to_thread.run_sync(asked.result)
        return [(member.member_id, member.client_id) for member in described.members]

    async def throw_out(self, group: str) -> None:
        """Have the broker forget a group's members, as when their sessions end; they hear it at the next heartbeat."""
        coordinator = await self.admin.find_coordinator(group)
        for member, _ in await self.members(group):
            await self.admin._client.send(coordinator, LeaveGroupRequest(group, member))

    # -- the code under test -------------------------------------------------------------------------------------------

    @property
    def connection(self) -> str:
        """What a pipeline file's connection says about the client, in lines."""
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in self.client_settings.items())

    def pipeline(self, topic: str, failed: str, **more: Any) -> dict[str, Any]:
        """Return what `engine_folders` must know of a topic and where it is; the group has the topic's name."""
        names = {"topic": topic, "group": topic, "failed": failed}
        return {"address": self.address, "connection": self.connection, **names, **more}

    def config(self, **settings: Any) -> KafkaConfig:
        """Return a connection; a rebalance is noticed at the next heartbeat, so that these come often."""
        classic = {"heartbeat_interval_ms": 300}
        chosen = {"bootstrap_servers": self.address, **classic, **self.client_settings, **settings}
        if chosen.get("group_protocol") == "consumer":
            # The broker decides: it has the same heartbeats, and sessions of six seconds.
            chosen = {name: value for name, value in chosen.items() if name not in DECIDED_BY_BROKERS}
        return KafkaConfig(**chosen)

    def source(
        self,
        topic: str,
        group: str,
        *,
        starting_position: StartingPosition = TRIM_HORIZON,
        records_ahead_max: int = RECORDS_AHEAD_MAX,
        **settings: Any,
    ) -> StreamSource:
        """Return a source, not opened."""
        return connector.open_stream(
            self.request(
                topic, group, starting_position=starting_position, records_ahead_max=records_ahead_max, **settings
            )
        )

    def request(
        self,
        topic: str,
        group: str,
        *,
        starting_position: StartingPosition = TRIM_HORIZON,
        records_ahead_max: int = RECORDS_AHEAD_MAX,
        **settings: Any,
    ) -> StreamRequest:
        """Return what a connector is told of a source."""
        return StreamRequest(
            reference=Reference("kafka", "local", topic),
            connection=self.config(**settings),
            mapping=group,
            starting_position=starting_position,
            consumer_group_id=group,
            records_ahead_max=records_ahead_max,
            context=CONTEXT,
        )

    def range_source(self, topic: str) -> RangeSource:
        """Return what reads a topic's ranges, not opened."""
        return connector.open_range(Reference("kafka", "local", topic), self.config())


@asynccontextmanager
async def open_admin(address: str, *, request_timeout_ms: int = 40_000) -> AsyncIterator[AIOKafkaAdminClient]:
    """Connect to a broker, to ask about topics and groups and to change them."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address, request_timeout_ms=request_timeout_ms)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


@asynccontextmanager
async def open_cluster(address: str, *, request_timeout_ms: int = 40_000) -> AsyncIterator[KafkaCluster]:
    """Connect to a broker."""
    async with open_admin(address, request_timeout_ms=request_timeout_ms) as admin:
        producer = AIOKafkaProducer(bootstrap_servers=address, request_timeout_ms=request_timeout_ms)
        await producer.start()
        try:
            yield KafkaCluster(address, admin, producer)
        finally:
            await producer.stop()


class KafkaStream:
    """A topic of three partitions for the stream kit; a mapping is a consumer group."""

    def __init__(self, cluster: KafkaCluster, topic: str, restart: object) -> None:
        self._cluster = cluster
        self._topic = topic
        self._restart = restart
        self.shards = [f"{topic}-{partition}" for partition in range(3)]

    def source(self, *, mapping: str = "first", starting_position: StartingPosition = TRIM_HORIZON) -> StreamSource:
        return self._cluster.source(self._topic, self._group(mapping), starting_position=starting_position)

    def missing_source(self) -> tuple[StreamSource, Sequence[str]]:
        missing = f"{self._topic}-missing"
        return self._cluster.source(missing, "nobody"), [missing, self._cluster.address]

    def range_source(self) -> RangeSource:
        return self._cluster.range_source(self._topic)

    def missing_range(self) -> tuple[RangeSource, Sequence[str]]:
        missing = f"{self._topic}-missing"
        return self._cluster.range_source(missing), [missing, self._cluster.address]

    async def send(
        self,
        shard: str,
        bodies: Sequence[bytes],
        *,
        key: bytes | None = None,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> Sequence[int]:
        partition = self.shards.index(shard)
        return await self._cluster.send(self._topic, bodies, partition=partition, key=key, headers=headers)

    async def checkpoint(self, shard: str, *, mapping: str = "first") -> tuple[int, ShardState]:
        mark = await self._cluster.committed(self._group(mapping), self._topic, partition=self.shards.index(shard))
        return (-1, EMPTY) if mark is None else (mark.offset, decode_state(mark.metadata))

    async def pass_time(self, ms: int) -> None:
        await anyio.sleep(ms / 1000)

    async def trim(self, shard: str, before: int) -> None:
        await self._cluster.trim(self._topic, before, partition=self.shards.index(shard))

    async def restart(self) -> None:
        await anyio.to_thread.run_sync(self._restart)

    def _group(self, mapping: str) -> str:
        return f"{self._topic}-{mapping}"
