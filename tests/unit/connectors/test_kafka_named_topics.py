"""Which topics a source on librdkafka subscribes to, among those that the brokers have."""

from __future__ import annotations

from confluent_kafka import KafkaError
from confluent_kafka.admin import TopicMetadata

from eventcore_connectors.kafka.librdkafka.topics import NamedTopics


def known(name: str, *, partitions: int = 1, error: int | None = None) -> TopicMetadata:
    """Return what librdkafka says of a topic."""
    topic = TopicMetadata()
    topic.topic, topic.partitions = name, dict.fromkeys(range(partitions))
    topic.error = None if error is None else KafkaError(error)
    return topic


def test_an_expression_names_what_matches_and_is_not_the_brokers_own() -> None:
    """Nor what they have an error for, as while it is being deleted."""
    topics = NamedTopics("^(__.*|orders-[a-z]+)$")
    found = topics.among(
        [
            known("orders-eu", partitions=3),
            known("orders-eu2"),
            known("orders-us", error=KafkaError.UNKNOWN_TOPIC_OR_PART),
            known("__mine"),
            known("__consumer_offsets"),
            known("__transaction_state"),
            known("__share_group_state"),
        ]
    )
    assert found == {"orders-eu": 3, "__mine": 1}
    assert (topics.is_pattern, topics.name, topics.certain) == (True, None, frozenset())


def test_a_name_is_itself() -> None:
    topics = NamedTopics("orders")
    assert topics.among([known("orders"), known("orders-eu")]) == {}
    assert (topics.is_pattern, topics.name, topics.certain) == (False, "orders", {"orders"})
