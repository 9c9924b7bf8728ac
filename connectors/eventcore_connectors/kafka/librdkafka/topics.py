"""Which topics a source names, among those that the brokers have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from eventcore.patterns.topics import SIGN, TopicPattern

#: The brokers' own topics, which match no expression: librdkafka does not say which are. Source: Apache Kafka,
#: `org.apache.kafka.common.internals.Topic.INTERNAL_TOPICS`.
_INTERNAL = frozenset({"__consumer_offsets", "__transaction_state", "__share_group_state"})


class _Topic(Protocol):
    """What librdkafka knows of a topic."""

    topic: str
    partitions: Mapping[int, object]
    error: object | None


class NamedTopics:
    """A topic's name, or an expression that names match.

    librdkafka takes expressions, too, in whatever language the machine's C library has; and it is given names only.
    """

    def __init__(self, text: str) -> None:
        """Compile the expression, if it is one."""
        self.text = text
        self._pattern = TopicPattern(text) if text.startswith(SIGN) else None

    @property
    def is_pattern(self) -> bool:
        """Whether topics come and go, and none need be there."""
        return self._pattern is not None

    @property
    def name(self) -> str | None:
        """The topic; None where an expression says which."""
        return None if self._pattern is not None else self.text

    @property
    def certain(self) -> frozenset[str]:
        """The topics that are read whatever the brokers have."""
        return frozenset() if self._pattern is not None else frozenset({self.text})

    def among(self, topics: Iterable[_Topic]) -> Mapping[str, int]:
        """Return the numbers of partitions of the topics that match, among all that there are."""
        pattern = self._pattern
        return {
            each.topic: len(each.partitions)
            for each in topics
            if pattern is not None and each.error is None and each.topic not in _INTERNAL and pattern.match(each.topic)
        }
