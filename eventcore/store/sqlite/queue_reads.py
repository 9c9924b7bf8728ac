"""Reads of queues, on the reading connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from eventcore.ports.store import QueueDepth, StoredMessage
from eventcore.store.rules import SEQUENCE_BITS, SEQUENCE_MASK, expired_ms, first_key
from eventcore.store.sqlite.codec import decode_headers, decode_queue_settings


def depths(connection: sqlite3.Connection) -> Sequence[QueueDepth]:
    """Return all queues by name."""
    rows = connection.execute(
        "SELECT name, settings, visible, hidden, delayed, coalesce((SELECT sent_ms FROM message"
        " WHERE key >= number << :bits AND key < (number + 1) << :bits ORDER BY key LIMIT 1), 0)"
        " FROM queue ORDER BY name",
        {"bits": SEQUENCE_BITS},
    )
    return [
        QueueDepth(
            queue=name,
            visible=visible,
            hidden=hidden,
            delayed=delayed,
            oldest_ms=oldest_ms,
            settings=decode_queue_settings(settings),
        )
        for name, settings, visible, hidden, delayed, oldest_ms in rows
    ]


def peek(
    connection: sqlite3.Connection, name: str, *, count_max: int, after_number: int, now_ms: int
) -> Sequence[StoredMessage]:
    """Return messages in the order they were sent; see `Store.peek`."""
    found = connection.execute("SELECT number, settings FROM queue WHERE name = ?", (name,)).fetchone()
    if found is None:
        raise KeyError(f"there is no queue {name}")
    number, settings = found[0], decode_queue_settings(found[1])
    rows = connection.execute(
        "SELECT message.key, id, sent_ms, message_group, headers, body, receive_count, first_receive_ms"
        " FROM message LEFT JOIN ready USING (key)"
        " WHERE message.key > ? AND message.key < ? AND sent_ms > ? ORDER BY message.key LIMIT ?",
        (first_key(number) + after_number, first_key(number + 1), expired_ms(settings, now_ms), count_max),
    ).fetchall()
    hidden = _hidden_between(connection, number, rows[0][0], rows[-1][0]) if rows else {}
    return [_peeked(row, hidden.get(row[0]), now_ms) for row in rows]


_Hidden = tuple[int, int, int]  #: end of visibility, receive count, first receive


def _hidden_between(connection: sqlite3.Connection, queue: int, first: int, last: int) -> dict[int, _Hidden]:
    """Return what is hidden between two keys. Reads all that the queue hides: it stands in order of time."""
    rows = connection.execute(
        "SELECT key, visible_ms, receive_count, first_receive_ms FROM hidden WHERE queue = ? AND key BETWEEN ? AND ?",
        (queue, first, last),
    )
    return {key: (visible_ms, count, first_ms) for key, visible_ms, count, first_ms in rows}


def _peeked(row: tuple[Any, ...], hidden: _Hidden | None, now_ms: int) -> StoredMessage:
    key, message_id, sent_ms, group, headers, body, ready_count, ready_first_ms = row
    visible_ms, count, first_ms = hidden or (0, ready_count or 0, ready_first_ms or 0)
    return StoredMessage(
        number=key & SEQUENCE_MASK,
        id=message_id,
        body=body,
        headers=decode_headers(headers),
        group=group,
        sent_ms=sent_ms,
        receive_count=count,
        first_receive_ms=first_ms,
        visible_ms=visible_ms if visible_ms > now_ms else 0,
    )
