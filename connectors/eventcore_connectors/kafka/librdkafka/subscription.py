"""Whether a member is in its group, and for which topics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaException

from eventcore_connectors.kafka.librdkafka.topics import NamedTopics

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
        self._found = topics.certain
        self._subscribed: frozenset[str] = frozenset()

    @property
    def is_in(self) -> bool:
        """Whether it takes part in the group, or is about to."""
        return bool(self._subscribed)

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
        """
        idle_since = self._idle_since
        is_away = idle_since is not None and self._now_s() > idle_since + self._max_poll_interval_s
        if not is_away and self._topics.is_pattern:
            self._look(kafka)
        wanted = frozenset[str]() if is_away else self._found
        if wanted == self._subscribed:
            return
        if not wanted:
            self._subscribed = wanted
            kafka.unsubscribe()
        elif self._subscribed or not has_partitions:
            self._subscribed = wanted
            kafka.subscribe(sorted(wanted), **hooks)

    def _look(self, kafka: Consumer) -> None:
        now_s = self._now_s()
        if now_s < self._next_look:
            return
        try:
            found = self._topics.among(kafka.list_topics(timeout=LOOK_S).topics.values())
        except KafkaException:
            self._next_look = now_s + min(_LOOK_AGAIN_S, self._look_every_s)
            return
        self._next_look = now_s + self._look_every_s
        self._found = frozenset(found)
        self.knows_topics = bool(found)

    def note_missing(self) -> bool:
        """Note that the brokers do not have a topic; tell whether that ends the reading."""
        if self._topics.is_pattern:
            return False
        self.knows_topics = False
        return True
