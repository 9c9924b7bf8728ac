"""The kits for streams and destinations, on a real broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio.to_thread
import msgspec
import pytest

from eventcore.config.reference import Reference
from eventcore.ports.destinations import Destination
from eventcore.testing.conformance.destination import (
    DestinationConformance,
    DestinationTraits,
    DestinationUnderTest,
    Taken,
)
from eventcore.testing.conformance.ranges import RangeConformance
from eventcore.testing.conformance.stream import StreamConformance, reading
from eventcore_connectors.kafka import connector
from tests.servers.kafka_cluster import CONTEXT, KafkaCluster, KafkaStream, open_cluster
from tests.servers.kafka_server import ComposedKafkaServer, KafkaServer


@pytest.mark.both_clients
class TestKafkaStream(StreamConformance):
    """A topic of three partitions."""

    @pytest.fixture
    async def stream(self, kafka: KafkaCluster, kafka_server: KafkaServer | ComposedKafkaServer) -> KafkaStream:
        topic = await kafka.create_topic(partitions=3)
        return KafkaStream(kafka, topic, kafka_server.restart)


@pytest.mark.any_client
class TestKafkaRange(RangeConformance):
    """A topic of three partitions, by nobody's group."""

    @pytest.fixture
    async def stream(self, kafka: KafkaCluster, kafka_server: KafkaServer | ComposedKafkaServer) -> KafkaStream:
        topic = await kafka.create_topic(partitions=3)
        return KafkaStream(kafka, topic, kafka_server.restart)


class KafkaTopic:
    """A topic of one partition that a destination writes to."""

    #: What the broker refuses it refuses for its size, not for its key: see `test_kafka_destination.py`.
    traits = DestinationTraits(can_refuse=False)

    def __init__(self, cluster: KafkaCluster, topic: str, server: KafkaServer | ComposedKafkaServer) -> None:
        self.destination: Destination = connector.open_destination(
            Reference("kafka", "local", topic), cluster.config(), CONTEXT
        )
        self._cluster = cluster
        self._topic = topic
        self._server = server

    async def taken(self) -> Sequence[Taken]:
        marker = (await self._cluster.send(self._topic, [b"marker"]))[0]
        async with reading(self._cluster.source(self._topic, f"{self._topic}-{marker}")) as reader:
            await reader.until(lambda: reader.positions(f"{self._topic}-0")[-1:] == [marker])
            records = [record for record in reader.records[f"{self._topic}-0"] if record.body != b"marker"]
        return [
            Taken(
                key=(record.header("eventcore-idempotency-key") or b"").decode(),
                payload=msgspec.json.decode(record.body or b""),
                attributes={name: value.decode() for name, value in record.headers},
            )
            for record in records
        ]

    async def leave(self) -> None:
        await anyio.to_thread.run_sync(self._server.stop)

    async def come_back(self) -> None:
        await anyio.to_thread.run_sync(self._server.start)

    async def refuse(self, key: str) -> None:
        raise NotImplementedError(key)


@pytest.mark.any_client
class TestKafkaDestination(DestinationConformance):
    """A topic as a destination."""

    @pytest.fixture(autouse=True)
    def _server(self, kafka_server: KafkaServer | ComposedKafkaServer, client_settings: Mapping[str, str]) -> None:
        self.server = kafka_server
        self.client_settings = client_settings

    def open_destination(self) -> AbstractAsyncContextManager[DestinationUnderTest]:
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[DestinationUnderTest]:
        async with open_cluster(self.server.address) as cluster:
            cluster.client_settings = self.client_settings
            topic = KafkaTopic(cluster, await cluster.create_topic(max_message_bytes="2000000"), self.server)
            try:
                yield topic
            finally:
                await topic.destination.aclose()
