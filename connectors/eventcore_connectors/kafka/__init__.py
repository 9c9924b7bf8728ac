"""Kafka: topics as sources and destinations. See `connectors/README.md`."""

from __future__ import annotations

from eventcore_connectors.kafka.connector import KafkaConnector

connector = KafkaConnector()
