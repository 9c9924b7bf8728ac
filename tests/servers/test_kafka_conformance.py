"""The kit for streams, on a real broker."""

from __future__ import annotations

import pytest
from kafka_cluster import KafkaCluster, KafkaStream
from kafka_server import KafkaServer

from eventcore.testing.conformance.stream import StreamConformance


class TestKafkaStream(StreamConformance):
    """A topic of three partitions."""

    @pytest.fixture
    async def stream(self, kafka: KafkaCluster, kafka_server: KafkaServer) -> KafkaStream:
        topic = await kafka.create_topic(partitions=3)
        return KafkaStream(kafka, topic, kafka_server.restart)
