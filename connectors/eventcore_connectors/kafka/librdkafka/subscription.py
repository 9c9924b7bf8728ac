"""Whether a member is in its group, and for which topics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException

from eventcore_connectors.kafka.librdkafka.topics import NamedTopics
from eventcore_connectors.kafka.membership import MISSING_PATIENCE_S, ClientFailed

#: One look for topics takes so long at most, seconds: nothing is read meanwhile.
LOOK_S = 1.0
#: Pause after a look that no broker answered, seconds.
_LOOK_AGAIN_S = 5.0


class Subscription:
    """In the group while somebody asks for records, for the topics that were found last. Used by the reading thread."""

    def __init__(
        self, topics: NamedTopics, *, max_poll_interval_s: float, look_every_s: float, now_s: Callable[[], float]
    ) -> None:
        """Subscribe to nothing yet.

        Args:
            topics: that are read.
            max_poll_interval_s: so long it stays in the group while nobody is active.
            look_every_s: pause between two looks for topics that match an expression.
            now_s: a clock.
        """
        self.knows_topics = True  #: whether the brokers have any of the topics, as far as is known
        self._topics = topics
        self._max_poll_interval_s = max_poll_interval_s
        self._look_every_s = look_every_s
        self._now_s = now_s
        self._idle_since: float | None = now_s()
        self._next_look = now_s()
        self._missing_since: float | None = None
        self._found = topics.certain
        self._subscribed: frozenset[str] = frozenset()

    @property
    def is_in(self) -> bool:
        """Whether it takes part in the group, or is about to."""
        return bool(self._subscribed)

    @property
    def only_topic(self) -> str:
        """The topic that all records are of; empty for an expression, which may match several."""
        return "" if self._topics.is_pattern else self._topics.text

    def set_active(self, is_active: bool) -> None:
        """Count as alive from now on, or begin to count the time of not being so. Called in the loop."""
        if is_active:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = self._now_s()

    def keep(self, kafka: Consumer, hooks: Mapping[str, Any], *, has_partitions: bool) -> None:
        """Leave the group when nobody has asked for records for too long, and come back when somebody does.

        Args:
            kafka: librdkafka's object.
            hooks: what it is to call, by its names.
            has_partitions: whether those of an earlier subscription were not given up yet.

        Raises:
            ClientFailed: the topic is not there any more.
        """
        now_s, idle_since = self._now_s(), self._idle_since
        is_away = idle_since is not None and now_s > idle_since + self._max_poll_interval_s
        if has_partitions and not self._topics.is_pattern:
            # KIP-848's brokers take those of a deleted topic away without a word: looked for as soon as none is left.
            self._next_look = now_s
        elif not is_away and now_s >= self._next_look:
            self._look(kafka, now_s)
        wanted = frozenset[str]() if is_away else self._found
        if wanted == self._subscribed:
            return
        if not wanted:
            self._subscribed = wanted
            kafka.unsubscribe()
        elif self._subscribed or not has_partitions:
            self._subscribed = wanted
            kafka.subscribe(sorted(wanted), **hooks)

    def _look(self, kafka: Consumer, now_s: float) -> None:
        try:
            topics = kafka.list_topics(self._topics.name, timeout=LOOK_S).topics
        except KafkaException:
            self._next_look = now_s + min(_LOOK_AGAIN_S, self._look_every_s)
            return
        self._next_look = now_s + self._look_every_s
        if self._topics.name is None:
            self._found = frozenset(self._topics.among(topics.values()))
            self.knows_topics = bool(self._found)
            return
        error = topics[self._topics.name].error
        if error is None or error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            self.knows_topics, self._missing_since = True, None
        elif self._missing_since is None:
            self._missing_since, self._next_look = now_s, now_s + MISSING_PATIENCE_S
        else:
            self.knows_topics = False
            raise ClientFailed("the topic does not exist any more")

    def note_missing(self) -> bool:
        """Note that the brokers do not have a topic; tell whether that ends the reading."""
        if self._topics.is_pattern:
            return False
        self.knows_topics = False
        return True
