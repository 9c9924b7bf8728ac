"""Wakes those who wait for commits, by topic. For one event loop: every call is made on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import anyio

OUTBOX_TOPIC = "outbox"


def queue_topic(queue: str) -> str:
    """Return the topic of a queue."""
    return f"queue:{queue}"


def stream_topic(stream: str) -> str:
    """Return the topic of a stream."""
    return f"stream:{stream}"


class TopicWatch:
    """Remembers that its topic was woken until somebody has waited for it; wake-ups coalesce."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    async def wait(self) -> None:
        """Return at once if the topic was woken since the last return, else when it is; cancelled, forget nothing."""
        await self._event.wait()
        self._event = anyio.Event()

    def wake(self) -> None:
        """Let the next `wait` return."""
        self._event.set()


class Watches:
    """Every open watch of a store."""

    def __init__(self) -> None:
        # Ordered, unlike sets: who is woken first must not differ from run to run.
        self._by_topic: dict[str, dict[TopicWatch, None]] = {}

    @asynccontextmanager
    async def open(self, topic: str) -> AsyncIterator[TopicWatch]:
        """Watch a topic from here on, for the length of the context."""
        watch = TopicWatch()
        self._by_topic.setdefault(topic, {})[watch] = None
        try:
            yield watch
        finally:
            watches = self._by_topic[topic]
            del watches[watch]
            if not watches:
                del self._by_topic[topic]

    def wake(self, topics: Iterable[str]) -> None:
        """Wake the watches of topics."""
        for topic in topics:
            for watch in self._by_topic.get(topic, ()):
                watch.wake()
