"""Queues in SQL. Source: Lambda semantics §3.2. What stands where is told in `migrations/0001_first.sql`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from eventcore.ports import store as port
from eventcore.ports.store import MovedMessage, QueueDepth, ReceiveResult, StoredMessage
from eventcore.store.rules import (
    DUE_STEP_MAX,
    EXAMINED_MAX,
    SEQUENCE_BITS,
    SEQUENCE_MASK,
    expired_ms,
    first_key,
    is_exhausted,
    is_expired,
    read_receipt,
    write_receipt,
)
from eventcore.store.sqlite.codec import (
    decode_headers,
    decode_keys,
    decode_queue_settings,
    encode_headers,
    encode_list,
)
from eventcore.store.sqlite.ledger import QueueRow
from eventcore.store.sqlite.transaction import Transaction

#: A visible message: key, id, time sent, group, headers, body, receive count, time of the first receive, and whether it
#: stands in `ready`.
_Visible = tuple[int, str, int, str, bytes | None, bytes, int, int, int]
# CROSS JOIN keeps SQLite from walking all messages to look for each in `ready`.
_READY = (
    "SELECT message.key, id, sent_ms, message_group, headers, body, receive_count, first_receive_ms, 1"
    " FROM ready CROSS JOIN message ON message.key = ready.key"
    " WHERE ready.key >= ? AND ready.key < ? ORDER BY ready.key LIMIT ?"
)
_FRESH = (
    "SELECT key, id, sent_ms, message_group, headers, body, 0, 0, 0"
    " FROM message WHERE key >= ? AND key < ? AND NOT is_delayed ORDER BY key LIMIT ?"
)

# -- defining and sending ----------------------------------------------------------------------------------------------


def define(tx: Transaction, operation: port.DefineQueue) -> None:
    """Carry out `DefineQueue`."""
    queue = tx.ledger.queues.get(operation.queue)
    if queue is None:
        number = len(tx.ledger.queues) + 1
        key = first_key(number) + 1
        queue = QueueRow(number, operation.queue, operation.settings, next_key=key, fresh_key=key)
        tx.ledger.queues[operation.queue] = queue
    queue.settings = operation.settings
    tx.ledger.change(queue)


def send(tx: Transaction, operation: port.SendMessages) -> list[str]:
    """Carry out `SendMessages`. Rows are left in the buffers."""
    queue, now_ms = tx.ledger.queues[operation.queue], operation.now_ms
    messages = tx.buffers.messages.values
    key, delay_s = queue.next_key, queue.settings.delay
    ids = []
    for new in operation.messages:
        if new.idempotency_token and not tx.take_token(queue.topic, new.idempotency_token, now_ms=now_ms):
            continue
        message_delay_s = delay_s if new.delay_s is None else new.delay_s
        is_delayed = message_delay_s > 0
        if is_delayed:
            tx.buffers.hidden.values += (queue.number, now_ms + message_delay_s * 1000, key, 0, 0)
            queue.delayed += 1
            if queue.fresh_key == key:
                # Nothing before it waits: so it need not be skipped later.
                queue.fresh_key = key + 1
        else:
            queue.visible += 1
        headers = encode_headers(new.headers) if new.headers else None
        messages += (key, new.id, now_ms, is_delayed, new.group, headers, new.body)
        key += 1
        ids.append(new.id)
    queue.next_key = key
    tx.ledger.change(queue)
    tx.wake(queue.topic)
    return ids


# -- what is visible ---------------------------------------------------------------------------------------------------


def _earliest_ms(tx: Transaction, queue: QueueRow) -> int:
    """Return when the next hidden message shows; 0 when none is hidden."""
    if not queue.hidden + queue.delayed:
        return 0
    earliest_ms: int = tx.scalar(
        "SELECT visible_ms FROM hidden WHERE queue = ? ORDER BY visible_ms LIMIT 1", queue.number
    )
    return earliest_ms


def _show_due(tx: Transaction, queue: QueueRow, now_ms: int) -> int:
    """Make messages visible whose time has come, a step of them; return when the next one shows."""
    earliest_ms = _earliest_ms(tx, queue)
    if not earliest_ms or earliest_ms > now_ms:
        return earliest_ms
    last = tx.execute(
        "SELECT visible_ms, key FROM hidden WHERE queue = ? AND visible_ms <= ? ORDER BY visible_ms, key"
        " LIMIT 1 OFFSET ?",
        *(queue.number, now_ms, DUE_STEP_MAX - 1),
    ).fetchone()
    due = (queue.number, *(last or (now_ms, queue.high)))
    count, delayed = tx.execute(
        "SELECT count(*), sum(receive_count = 0) FROM hidden WHERE queue = ? AND (visible_ms, key) <= (?, ?)", *due
    ).fetchone()
    tx.execute(
        "INSERT INTO ready SELECT key, receive_count, first_receive_ms, visible_ms FROM hidden"
        " WHERE queue = ? AND (visible_ms, key) <= (?, ?)",
        *due,
    )
    tx.execute("DELETE FROM hidden WHERE queue = ? AND (visible_ms, key) <= (?, ?)", *due)
    queue.visible += count
    queue.ready += count
    queue.hidden -= count - delayed
    queue.delayed -= delayed
    tx.ledger.change(queue)
    return _earliest_ms(tx, queue)


def _visible(tx: Transaction, queue: QueueRow, limit: int) -> list[_Visible]:
    """Return the oldest visible messages: those that stand in `ready`, and those that were never received."""
    rows = tx.execute(_READY, queue.low, queue.high, limit).fetchall() if queue.ready else []
    if queue.visible > queue.ready:
        # Two queries, not one with UNION ALL: merging in SQL takes 30 µs longer. Only messages whose delay has ended
        # can stand in `ready` behind a fresh one.
        older = sum([row[0] < queue.fresh_key for row in rows])
        if older < limit:
            fresh = tx.execute(_FRESH, queue.fresh_key, queue.high, limit - older).fetchall()
            rows = sorted(rows + fresh)[:limit] if len(rows) > older else rows + fresh
    return rows


def _take_out(tx: Transaction, queue: QueueRow, rows: Sequence[_Visible], *, is_all: bool) -> None:
    """Take the oldest visible messages out of what is visible; where they go is the caller's.

    Args:
        tx: the transaction.
        queue: theirs.
        rows: as `_visible` has returned them, from the first on.
        is_all: nothing else is visible.
    """
    last_key = rows[-1][0] if rows else 0
    of_ready = sum([row[-1] for row in rows])
    if of_ready:
        tx.execute("DELETE FROM ready WHERE key >= ? AND key <= ?", queue.low, last_key)
    queue.ready -= of_ready
    queue.fresh_key = queue.next_key if is_all else max(queue.fresh_key, last_key + 1)
    queue.visible -= len(rows)
    tx.ledger.change(queue)


def _transfer(tx: Transaction, target: QueueRow, keys: Sequence[int], *, sent_ms: int | None = None) -> None:
    """Give messages that were taken out of their queue to another, as new ones with their id, and wake that.

    ``sent_ms`` None keeps the time they were sent.
    """
    tx.execute(
        "INSERT INTO message"
        " SELECT ? + list.key, message.id, coalesce(?, sent_ms), 0, message_group, headers, body"
        " FROM json_each(?) AS list CROSS JOIN message ON message.key = list.value",
        *(target.next_key, sent_ms, encode_list(keys)),
    )
    target.next_key += len(keys)
    target.visible += len(keys)
    tx.ledger.change(target)
    tx.wake(target.topic)
    _erase(tx, keys)


def _erase(tx: Transaction, keys: Sequence[int]) -> None:
    """Delete messages that stand in neither `ready` nor `hidden` any more."""
    tx.execute("DELETE FROM message WHERE key IN (SELECT value FROM json_each(?))", encode_list(keys))


# -- receiving ---------------------------------------------------------------------------------------------------------


def receive(tx: Transaction, operation: port.ReceiveMessages) -> ReceiveResult:
    """Carry out `ReceiveMessages`."""
    return _Receive(tx, operation).run()


class _Receive:
    """One receive: looks at visible messages, oldest first, until it has enough."""

    def __init__(self, tx: Transaction, operation: port.ReceiveMessages) -> None:
        self._tx = tx
        self._queue = tx.ledger.queues[operation.queue]
        self._operation = operation
        self._taken: list[_Visible] = []
        self._exhausted: list[_Visible] = []
        self._expired: list[_Visible] = []

    def run(self) -> ReceiveResult:
        queue, now_ms = self._queue, self._operation.now_ms
        earliest_ms = _show_due(self._tx, queue, now_ms)
        is_cut = self._examine()
        if self._expired:
            _erase(self._tx, [row[0] for row in self._expired])
        moved = self._redrive() if self._exhausted else []
        messages = self._hide()
        if messages and (not earliest_ms or messages[0].visible_ms < earliest_ms):
            # Who waits until the next message shows must wait less.
            earliest_ms = messages[0].visible_ms
            self._tx.wake(queue.topic)
        return ReceiveResult(messages, moved, [row[1] for row in self._expired], now_ms if is_cut else earliest_ms)

    def _examine(self) -> bool:
        """Sort visible messages into those to take, move and drop; return whether it stopped before it had enough."""
        count_max = self._operation.count_max
        left = count_max + EXAMINED_MAX
        while left and not 0 < count_max == len(self._taken):
            limit = min(count_max - len(self._taken), left) if count_max else left
            rows = _visible(self._tx, self._queue, limit)
            examined = rows[: self._sort(rows)]
            if examined:
                _take_out(self._tx, self._queue, examined, is_all=len(examined) < limit and len(examined) == len(rows))
            if len(examined) < limit:
                return False
            left -= limit
        return not left

    def _sort(self, rows: Sequence[_Visible]) -> int:
        """Sort messages; return how many: a receive of none stops at the first that is not expired."""
        settings, now_ms = self._queue.settings, self._operation.now_ms
        for index, row in enumerate(rows):
            if is_expired(row[2], settings, now_ms):
                self._expired.append(row)
            elif not self._operation.count_max:
                return index
            elif is_exhausted(row[6], settings):
                self._exhausted.append(row)
            else:
                self._taken.append(row)
        return len(rows)

    def _redrive(self) -> list[MovedMessage]:
        target = self._tx.ledger.queues[self._queue.settings.dead_letter_queue]
        # The time it was sent stays: the dead-letter queue's retention counts from it (Lambda semantics §3.2).
        _transfer(self._tx, target, [row[0] for row in self._exhausted])
        return [MovedMessage(row[1], row[6], target.name) for row in self._exhausted]

    def _hide(self) -> list[StoredMessage]:
        queue, now_ms = self._queue, self._operation.now_ms
        timeout_s = self._operation.visibility_timeout_s
        until_ms = now_ms + (queue.settings.visibility_timeout if timeout_s is None else timeout_s) * 1000
        hidden = self._tx.buffers.hidden.values
        messages = []
        for key, message_id, sent_ms, group, headers, body, receive_count, first_receive_ms, _ in self._taken:
            count, first_ms = receive_count + 1, first_receive_ms or now_ms
            hidden += (queue.number, until_ms, key, count, first_ms)
            messages.append(
                StoredMessage(
                    number=key & SEQUENCE_MASK,
                    id=message_id,
                    body=body,
                    headers=decode_headers(headers),
                    group=group,
                    sent_ms=sent_ms,
                    receive_count=count,
                    first_receive_ms=first_ms,
                    visible_ms=until_ms,
                    receipt=write_receipt(key, count, until_ms),
                )
            )
        queue.hidden += len(messages)
        return messages


# -- receipts ----------------------------------------------------------------------------------------------------------


class _Owned:
    """Messages that receipts of one receive still own: nobody has received them since."""

    def __init__(self, tx: Transaction, queue: QueueRow, receive: tuple[int, int], receipts: dict[int, str]) -> None:
        self.receive_count, self.visible_ms = receive
        self.receipts = receipts  #: by key
        self.hidden = decode_keys(
            tx.scalar(
                "SELECT json_group_array(key) FROM hidden WHERE queue = ? AND visible_ms = ? AND receive_count = ?"
                " AND key IN (SELECT value FROM json_each(?))",
                *(queue.number, self.visible_ms, self.receive_count, encode_list([*receipts])),
            )
        )
        self.ready: list[int] = []
        if len(self.hidden) < len(receipts):
            # Visible again, but nobody has received them: the receipt is still good (Lambda semantics §3.2).
            self.ready = decode_keys(
                tx.scalar(
                    "SELECT json_group_array(key) FROM ready WHERE visible_ms = ? AND receive_count = ?"
                    " AND key IN (SELECT value FROM json_each(?))",
                    *(self.visible_ms, self.receive_count, encode_list([*receipts])),
                )
            )

    def leave_hidden(self, tx: Transaction, queue: QueueRow) -> None:
        """Take the hidden ones out of `hidden`."""
        tx.execute(
            "DELETE FROM hidden WHERE queue = ? AND visible_ms = ? AND key IN (SELECT value FROM json_each(?))",
            *(queue.number, self.visible_ms, encode_list(self.hidden)),
        )
        queue.hidden -= len(self.hidden)
        tx.ledger.change(queue)

    def leave_ready(self, tx: Transaction, queue: QueueRow) -> None:
        """Take the visible ones out of `ready`."""
        tx.execute("DELETE FROM ready WHERE key IN (SELECT value FROM json_each(?))", encode_list(self.ready))
        queue.visible -= len(self.ready)
        queue.ready -= len(self.ready)
        tx.ledger.change(queue)


def _owned(tx: Transaction, queue: QueueRow, receipts: Sequence[str]) -> Iterator[_Owned]:
    """Find what receipts own, receive by receive: nearly always all of them come from one."""
    by_receive: dict[tuple[int, int], dict[int, str]] = {}
    for receipt in receipts:
        lease = read_receipt(receipt, queue.number)
        if lease is not None:
            key, receive_count, visible_ms = lease
            by_receive.setdefault((receive_count, visible_ms), {})[key] = receipt
    for receive, by_key in by_receive.items():
        yield _Owned(tx, queue, receive, by_key)


def delete(tx: Transaction, operation: port.DeleteMessages) -> list[str]:
    """Carry out `DeleteMessages`."""
    queue = tx.ledger.queues[operation.queue]
    stale = dict.fromkeys(operation.receipts)
    for owned in _owned(tx, queue, operation.receipts):
        if owned.hidden:
            owned.leave_hidden(tx, queue)
        if owned.ready:
            owned.leave_ready(tx, queue)
        keys = owned.hidden + owned.ready
        if keys:
            _erase(tx, keys)
        for key in keys:
            del stale[owned.receipts[key]]
    return list(stale)


def change_visibility(tx: Transaction, operation: port.ChangeVisibility) -> dict[str, str]:
    """Carry out `ChangeVisibility`."""
    queue = tx.ledger.queues[operation.queue]
    until_ms = operation.now_ms + operation.timeout_s * 1000
    renewed = {}
    for owned in _owned(tx, queue, operation.receipts):
        if operation.timeout_s:
            _hide_again(tx, queue, owned, until_ms)
        else:
            _release(tx, queue, owned, until_ms)
        if until_ms < owned.visible_ms or not operation.timeout_s:
            tx.wake(queue.topic)
        for key in owned.hidden + owned.ready:
            renewed[owned.receipts[key]] = write_receipt(key, owned.receive_count, until_ms)
    return renewed


def _hide_again(tx: Transaction, queue: QueueRow, owned: _Owned, until_ms: int) -> None:
    if owned.hidden:
        tx.execute(
            "UPDATE hidden SET visible_ms = ? WHERE queue = ? AND visible_ms = ?"
            " AND key IN (SELECT value FROM json_each(?))",
            *(until_ms, queue.number, owned.visible_ms, encode_list(owned.hidden)),
        )
    if owned.ready:
        tx.execute(
            "INSERT INTO hidden SELECT ?, ?, key, receive_count, first_receive_ms FROM ready"
            " WHERE key IN (SELECT value FROM json_each(?))",
            *(queue.number, until_ms, encode_list(owned.ready)),
        )
        owned.leave_ready(tx, queue)
        queue.hidden += len(owned.ready)


def _release(tx: Transaction, queue: QueueRow, owned: _Owned, now_ms: int) -> None:
    if owned.ready:
        tx.execute(
            "UPDATE ready SET visible_ms = ? WHERE key IN (SELECT value FROM json_each(?))",
            *(now_ms, encode_list(owned.ready)),
        )
    if owned.hidden:
        tx.execute(
            "INSERT INTO ready SELECT key, receive_count, first_receive_ms, ? FROM hidden"
            " WHERE queue = ? AND visible_ms = ? AND key IN (SELECT value FROM json_each(?))",
            *(now_ms, queue.number, owned.visible_ms, encode_list(owned.hidden)),
        )
        owned.leave_hidden(tx, queue)
        queue.visible += len(owned.hidden)
        queue.ready += len(owned.hidden)


# -- by hand -----------------------------------------------------------------------------------------------------------


def purge(tx: Transaction, operation: port.PurgeQueue) -> int:
    """Carry out `PurgeQueue`."""
    queue = tx.ledger.queues[operation.queue]
    count = queue.visible + queue.hidden + queue.delayed
    tx.execute("DELETE FROM message WHERE key >= ? AND key < ?", queue.low, queue.high)
    tx.execute("DELETE FROM ready WHERE key >= ? AND key < ?", queue.low, queue.high)
    tx.execute("DELETE FROM hidden WHERE queue = ?", queue.number)
    queue.fresh_key = queue.next_key
    queue.visible = queue.ready = queue.hidden = queue.delayed = 0
    tx.ledger.change(queue)
    return count


def move(tx: Transaction, operation: port.MoveMessages) -> int:
    """Carry out `MoveMessages`."""
    queue, target = tx.ledger.queues[operation.source], tx.ledger.queues[operation.target]
    _show_due(tx, queue, operation.now_ms)
    rows = _visible(tx, queue, operation.count_max)
    if not rows:
        return 0
    _take_out(tx, queue, rows, is_all=len(rows) < operation.count_max)
    expired = [row[0] for row in rows if is_expired(row[2], queue.settings, operation.now_ms)]
    if expired:
        _erase(tx, expired)
    kept = [row[0] for row in rows if not is_expired(row[2], queue.settings, operation.now_ms)]
    if kept:
        _transfer(tx, target, kept, sent_ms=operation.now_ms)
    return len(kept)


def drop(tx: Transaction, operation: port.DropMessages) -> int:
    """Carry out `DropMessages`. Reads the whole queue: an index of ids would cost every message a random page."""
    queue = tx.ledger.queues[operation.queue]
    keys = tx.scalar(
        "SELECT json_group_array(key) FROM message"
        " WHERE key >= ? AND key < ? AND id IN (SELECT value FROM json_each(?))",
        *(queue.low, queue.high, encode_list(operation.ids)),
    )
    delayed = tx.execute(
        "DELETE FROM hidden WHERE queue = ? AND receive_count = 0 AND key IN (SELECT value FROM json_each(?))",
        *(queue.number, keys),
    ).rowcount
    hidden = tx.execute(
        "DELETE FROM hidden WHERE queue = ? AND key IN (SELECT value FROM json_each(?))", queue.number, keys
    ).rowcount
    ready = tx.execute("DELETE FROM ready WHERE key IN (SELECT value FROM json_each(?))", keys).rowcount
    count = tx.execute("DELETE FROM message WHERE key IN (SELECT value FROM json_each(?))", keys).rowcount
    queue.delayed -= delayed
    queue.hidden -= hidden
    queue.visible -= count - delayed - hidden
    queue.ready -= ready
    tx.ledger.change(queue)
    return count


# -- reads, on the reading connection ----------------------------------------------------------------------------------


def depths(connection: sqlite3.Connection) -> Sequence[QueueDepth]:
    """Return all queues by name."""
    rows = connection.execute(
        "SELECT name, settings, visible, hidden, delayed, coalesce((SELECT sent_ms FROM message"
        " WHERE key >= number << ?1 AND key < (number + 1) << ?1 ORDER BY key LIMIT 1), 0) FROM queue ORDER BY name",
        (SEQUENCE_BITS,),
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
