"""Groups of FIFO queues: which may be asked, and what of them waits. Source: `migrations/0003_fifo.sql`.

A group is *open* while none of its messages is in flight and the first of those that wait is not delayed.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from eventcore.store.fifo_rules import GROUPS_STEP
from eventcore.store.rules import DUE_STEP_MAX
from eventcore.store.sqlite.codec import encode_list
from eventcore.store.sqlite.ledger import QueueRow
from eventcore.store.sqlite.transaction import Transaction

#: Where a message stands.
WAITING, IN_FLIGHT, DELAYED = 0, 1, 2


class Waiting(NamedTuple):
    """A message that waits."""

    key: int
    group_number: int
    receive_count: int
    first_receive_ms: int
    arrived_ms: int
    id: str
    sent_ms: int
    group: str
    deduplication_id: str
    headers: bytes | None  #: msgpack
    body: bytes


class GroupChanges:
    """What happens to groups in one operation; `write` keeps their rows in step with their messages."""

    def __init__(self, tx: Transaction, queue: QueueRow) -> None:
        self._tx = tx
        self._queue = queue
        self._depth: dict[int, int] = defaultdict(int)
        self._in_flight: dict[int, int] = defaultdict(int)

    def note(self, group: int, *, depth: int = 0, in_flight: int = 0) -> None:
        """Note that messages of a group came or went, or began or ceased to be in flight."""
        self._depth[group] += depth
        self._in_flight[group] += in_flight

    def write(self) -> bool:
        """Write the groups' rows; return whether one of them is open now."""
        if not self._depth:
            return False
        connection, groups = self._tx.connection, encode_list(list(self._depth))
        connection.executemany(
            "UPDATE fifo_group SET depth = depth + ?, in_flight = in_flight + ? WHERE number = ?",
            [(depth, self._in_flight[group], group) for group, depth in self._depth.items()],
        )
        connection.execute(
            "DELETE FROM fifo_group WHERE number IN (SELECT value FROM json_each(?)) AND depth = 0", (groups,)
        )
        # The first of a group has no other before it that could be in flight.
        connection.execute(
            "UPDATE fifo_group SET head_key = CASE in_flight WHEN 0 THEN (SELECT CASE place WHEN 0 THEN key END"
            " FROM fifo_place WHERE group_number = number ORDER BY key LIMIT 1) END"
            " WHERE number IN (SELECT value FROM json_each(?))",
            (groups,),
        )
        self._tx.ledger.change(self._queue)
        self._depth.clear()
        self._in_flight.clear()
        found = connection.execute(
            "SELECT 1 FROM fifo_group WHERE number IN (SELECT value FROM json_each(?)) AND head_key IS NOT NULL"
            " LIMIT 1",
            (groups,),
        )
        return found.fetchone() is not None


def next_visible_ms(tx: Transaction, queue: QueueRow) -> int:
    """Return when the next message of a queue shows that is hidden or delayed; 0 when none is."""
    if not queue.hidden + queue.delayed:
        return 0
    earliest_ms: int = tx.scalar(
        "SELECT visible_ms FROM fifo_place WHERE queue = ? AND place > 0 ORDER BY visible_ms LIMIT 1", queue.number
    )
    return earliest_ms


def show_due(tx: Transaction, queue: QueueRow, now_ms: int) -> int:
    """Let messages wait again whose time has come, a step of them; return when the next one shows."""
    earliest_ms = next_visible_ms(tx, queue)
    if not earliest_ms or earliest_ms > now_ms:
        return earliest_ms
    due = tx.execute(
        "SELECT key, group_number, place FROM fifo_place WHERE queue = ? AND place > 0 AND visible_ms <= ?"
        " ORDER BY visible_ms, key LIMIT ?",
        *(queue.number, now_ms, DUE_STEP_MAX),
    ).fetchall()
    keys = encode_list([key for key, _, _ in due])
    tx.execute("UPDATE fifo_place SET place = 0 WHERE key IN (SELECT value FROM json_each(?))", keys)
    changes = GroupChanges(tx, queue)
    for _key, group, place in due:
        changes.note(group, in_flight=-(place == IN_FLIGHT))
    changes.write()
    queue.show(len(due), delayed=sum([place == DELAYED for _, _, place in due]))
    return next_visible_ms(tx, queue)


def waiting(connection: sqlite3.Connection, queue: QueueRow, count: int) -> Iterator[Waiting]:
    """Yield what may be handed out: group by group, by their heads, each in order; about ``count`` are read ahead.

    None of them may be moved before all are looked at.
    """
    head = queue.low
    while True:
        groups = connection.execute(
            "SELECT head_key, number FROM fifo_group WHERE queue = ? AND head_key > ? ORDER BY head_key LIMIT ?",
            (queue.number, head, GROUPS_STEP),
        ).fetchall()
        for head, group in groups:
            yield from _line(connection, group, head, count)
        if len(groups) < GROUPS_STEP:
            return


def _line(connection: sqlite3.Connection, group: int, key: int, count: int) -> Iterator[Waiting]:
    """Yield a group's messages from one on, up to the first that is delayed."""
    while True:
        rows = connection.execute(
            "SELECT p.key, group_number, receive_count, first_receive_ms, arrived_ms, id, sent_ms, message_group,"
            " deduplication_id, headers, body, place FROM fifo_place AS p CROSS JOIN fifo_message AS m ON m.key = p.key"
            " WHERE group_number = ? AND p.key >= ? ORDER BY p.key LIMIT ?",
            (group, key, count),
        ).fetchall()
        for *row, place in rows:
            if place != WAITING:
                return
            yield Waiting(*row)
        if len(rows) < count:
            return
        key = rows[-1][0] + 1


def erase(tx: Transaction, keys: Iterable[int]) -> None:
    """Delete messages; their groups are left to `GroupChanges`."""
    wanted = encode_list(list(keys))
    tx.execute("DELETE FROM fifo_place WHERE key IN (SELECT value FROM json_each(?))", wanted)
    tx.execute("DELETE FROM fifo_message WHERE key IN (SELECT value FROM json_each(?))", wanted)
