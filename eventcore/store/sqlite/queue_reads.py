"""Reads of queues, on the reading connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from eventcore.ports.store import QueueDepth, StoredMessage
from eventcore.store.key_ranges import KeyRange
from eventcore.store.rules import SEQUENCE_BITS, SEQUENCE_MASK, expired_ms, first_key
from eventcore.store.sqlite import fifo
from eventcore.store.sqlite.codec import decode_queue_settings
from eventcore.store.sqlite.marks import Mark, aside_within, hidden_within, ready_within
from eventcore.store.sqlite.segments import Message, read_from

#: Keys of one step of a read.
_STEP = 500


# The oldest message is the first that is ready, hidden or fresh. In one statement for all queues: each gives the
# interpreter's lock away, and status is asked for while an engine is at work.
_OWN = f"first_key >= number << {SEQUENCE_BITS} AND first_key < (number + 1) << {SEQUENCE_BITS}"
_FIFO_OWN = f"fifo_message.key >= number << {SEQUENCE_BITS} AND fifo_message.key < (number + 1) << {SEQUENCE_BITS}"
_NONE = f"(number + 1) << {SEQUENCE_BITS}"
_DEPTHS = f"""
WITH oldest AS (
  SELECT *, min(
    coalesce((SELECT min(first_key) FROM ready WHERE {_OWN}), {_NONE}),
    coalesce((SELECT min(first_key) FROM hidden WHERE {_OWN}), {_NONE}),
    coalesce((SELECT min(first_key) FROM aside WHERE {_OWN}), {_NONE}),
    coalesce((SELECT max(first_key, fresh_key) FROM segment
      WHERE first_key >= coalesce((SELECT max(first_key) FROM segment WHERE first_key <= fresh_key), fresh_key)
      AND {_OWN} AND end_key > fresh_key AND NOT is_delayed ORDER BY first_key LIMIT 1), {_NONE})
  ) AS key FROM queue
)
SELECT name, settings, visible, hidden, delayed, next_key - 1, coalesce((
  SELECT json_extract(CAST(heads AS TEXT), '$[' || (key - first_key) || '][1]') FROM segment
  WHERE first_key <= key AND end_key > key ORDER BY first_key DESC LIMIT 1
), (SELECT sent_ms FROM fifo_message WHERE {_FIFO_OWN} ORDER BY key LIMIT 1), 0) FROM oldest ORDER BY name
"""  # noqa: S608


def depths(connection: sqlite3.Connection) -> Sequence[QueueDepth]:
    """Return all queues by name."""
    return [
        QueueDepth(
            queue=name,
            visible=visible,
            hidden=hidden,
            delayed=delayed,
            oldest_ms=oldest_ms,
            last_number=last_key & SEQUENCE_MASK,
            settings=decode_queue_settings(settings),
        )
        for name, settings, visible, hidden, delayed, last_key, oldest_ms in connection.execute(_DEPTHS).fetchall()
    ]


def peek(
    connection: sqlite3.Connection, name: str, *, count_max: int, after_number: int, now_ms: int
) -> Sequence[StoredMessage]:
    """Return messages in the order they were sent; see `Store.peek`."""
    found = connection.execute("SELECT number, settings, fresh_key FROM queue WHERE name = ?", (name,)).fetchone()
    if found is None:
        raise KeyError(f"there is no queue {name}")
    number, settings, fresh_key = found[0], decode_queue_settings(found[1]), found[2]
    if settings.fifo_queue:
        return fifo.peek(connection, number, settings=settings, count_max=count_max, after=after_number, now_ms=now_ms)
    oldest_ms = expired_ms(settings, now_ms)
    peeked: list[StoredMessage] = []
    for message, mark in _messages(connection, number, fresh_key, after_number=after_number, count=count_max):
        if len(peeked) >= count_max:
            break
        if message[2] > oldest_ms:
            peeked.append(_peeked(message, mark, now_ms))
    return peeked


def _messages(
    connection: sqlite3.Connection, queue: int, fresh_key: int, *, count: int, after_number: int = 0
) -> Iterator[tuple[Message, Mark]]:
    """Return a queue's messages, with what happened to them, about ``count`` a step."""
    key, high = first_key(queue) + after_number + 1, first_key(queue + 1)
    step = max(1, min(count, _STEP))
    while segments := read_from(connection, key, high, count=step, with_delayed=True):
        marks = _marks(connection, [(segment.first_key, segment.end_key) for segment in segments])
        for segment in segments:
            for message in segment.messages:
                number = message[0]
                if number < key:
                    continue
                mark = marks.get(number)
                if mark is not None:
                    yield message, mark
                elif number >= fresh_key and not segment.is_delayed:
                    yield message, _FRESH
        key = segments[-1].end_key


_FRESH: Mark = (0, 0, 0, 0, 0)


def _marks(connection: sqlite3.Connection, ranges: Sequence[KeyRange]) -> dict[int, Mark]:
    """Return what stands in `ready`, `aside` and `hidden`, by key; an end of visibility of 0 for what is visible."""
    visible = ready_within(connection, ranges) + aside_within(connection, ranges)
    rows = [(*row[:4], 0) for row in visible] + hidden_within(connection, ranges)
    low, high = ranges[0][0], ranges[-1][1]
    return {key: row for row in rows for key in range(max(row[0], low), min(row[1], high))}


def _peeked(message: Message, mark: Mark, now_ms: int) -> StoredMessage:
    key, message_id, sent_ms, group, headers, body = message
    _first, _end, receive_count, first_receive_ms, visible_ms = mark
    return StoredMessage(
        number=key & SEQUENCE_MASK,
        id=message_id,
        body=body,
        headers=headers,
        group=group,
        sent_ms=sent_ms,
        receive_count=receive_count,
        first_receive_ms=first_receive_ms,
        visible_ms=visible_ms if visible_ms > now_ms else 0,
    )
