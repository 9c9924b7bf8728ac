"""The kit for streams, on a real broker."""

from __future__ import annotations

import pytest

from eventcore.testing.conformance.stream import StreamConformance
from tests.servers.kafka_cluster import KafkaCluster, KafkaStream
from tests.servers.kafka_server import KafkaServer


class TestKafkaStream(StreamConformance):
    """A topic of three partitions."""

    @pytest.fixture
    async def stream(self, kafka: KafkaCluster, kafka_server: KafkaServer) -> KafkaStream:
        topic = await kafka.create_topic(partitions=3)
        return KafkaStream(kafka, topic, kafka_server.restart)
