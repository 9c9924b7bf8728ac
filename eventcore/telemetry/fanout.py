"""Handing one thing to many listeners, at once and in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from eventcore.errors import ProgrammingError

#: One a mapping for its counters, and logging, live views, tests, a user's own: more is a leak of subscriptions.
SUBSCRIBERS_MAX = 1_000

T = TypeVar("T")


class FanOut(Generic[T]):
    """Listeners, each to everything or to one topic.

    They are called in the engine's loop and must neither wait nor raise: an exception ends the part of the engine that
    told the thing.
    """

    def __init__(self) -> None:
        # The tuples are replaced, never changed: a listener may unsubscribe while something is being handed out.
        self._to_all: tuple[Callable[[T], None], ...] = ()
        self._to_one: dict[str, tuple[Callable[[T], None], ...]] = {}
        self._count = 0

    def subscribe(self, listener: Callable[[T], None], topic: str = "") -> Callable[[], None]:
        """Hand every later thing to ``listener``; return what ends that. Ending it twice is harmless.

        Args:
            listener: what to call.
            topic: only what is told under it; empty for everything.

        Raises:
            ProgrammingError: `SUBSCRIBERS_MAX` are there already.
        """
        if self._count >= SUBSCRIBERS_MAX:
            raise ProgrammingError(f"more than {SUBSCRIBERS_MAX} subscribers: some are not unsubscribed")
        self._count += 1
        self._put(topic, (*self._get(topic), listener))
        is_subscribed = True

        def unsubscribe() -> None:
            nonlocal is_subscribed
            if is_subscribed:
                is_subscribed = False
                self._count -= 1
                left = list(self._get(topic))
                left.remove(listener)
                self._put(topic, tuple(left))

        return unsubscribe

    def tell(self, thing: T, topic: str = "") -> None:
        """Hand something to those who hear everything, in the order of subscription, then to those of its topic."""
        for listener in self._to_all:
            listener(thing)
        if topic:
            for listener in self._to_one.get(topic, ()):
                listener(thing)

    def tell_all(self, things: Iterable[T], topic: str = "") -> None:
        """Hand several things out, one after another."""
        if self._count:
            for thing in things:
                self.tell(thing, topic)

    def _get(self, topic: str) -> tuple[Callable[[T], None], ...]:
        return self._to_one.get(topic, ()) if topic else self._to_all

    def _put(self, topic: str, listeners: tuple[Callable[[T], None], ...]) -> None:
        if not topic:
            self._to_all = listeners
        elif listeners:
            self._to_one[topic] = listeners
        else:
            del self._to_one[topic]
