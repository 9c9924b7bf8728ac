"""Queues as a whole: defining, sending, and what is done to them by hand. Source: Lambda semantics §3.2."""

from __future__ import annotations

from eventcore.ports import store as port
from eventcore.store.rules import first_key, is_expired
from eventcore.store.sqlite.codec import encode_headers, encode_list
from eventcore.store.sqlite.ledger import QueueRow
from eventcore.store.sqlite.transaction import Transaction
from eventcore.store.sqlite.visible import FETCHED_MAX, erase, oldest_visible, show_due, take_out, transfer


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
    rows, delay_s = tx.buffers.messages.values, queue.settings.delay
    first = key = queue.next_key
    ids, delayed = [], 0
    for new in operation.messages:
        if new.idempotency_token and not tx.take_token(queue.topic, new.idempotency_token, now_ms=now_ms):
            continue
        message_delay_s = delay_s if new.delay_s is None else new.delay_s
        is_delayed = message_delay_s > 0
        if is_delayed:
            tx.buffers.hidden.values += (queue.number, now_ms + message_delay_s * 1000, key, 0, 0)
            delayed += 1
            if queue.fresh_key == key:
                # Nothing before it waits: so it need not be skipped later.
                queue.fresh_key = key + 1
        headers = encode_headers(new.headers) if new.headers else None
        rows += (key, new.id, now_ms, is_delayed, new.group, headers, new.body)
        key += 1
        ids.append(new.id)
    queue.next_key = key
    queue.delayed += delayed
    queue.visible += key - first - delayed
    tx.ledger.change(queue)
    tx.wake(queue.topic)
    return ids


def purge(tx: Transaction, operation: port.PurgeQueue) -> int:
    """Carry out `PurgeQueue`."""
    queue = tx.ledger.queues[operation.queue]
    count = queue.visible + queue.hidden + queue.delayed
    tx.execute("DELETE FROM message WHERE key >= ? AND key < ?", queue.low, queue.high)
    tx.execute("DELETE FROM ready WHERE key >= ? AND key < ?", queue.low, queue.high)
    tx.execute("DELETE FROM hidden WHERE queue = ?", queue.number)
    queue.visible = queue.ready = queue.hidden = queue.delayed = 0
    tx.ledger.change(queue)
    return count


def move(tx: Transaction, operation: port.MoveMessages) -> int:
    """Carry out `MoveMessages`."""
    queue, target = tx.ledger.queues[operation.source], tx.ledger.queues[operation.target]
    show_due(tx, queue, operation.now_ms)
    # What is visible now: source and target may be the same.
    left = min(operation.count_max, queue.visible)
    moved = 0
    while left:
        limit = min(left, FETCHED_MAX)
        rows = oldest_visible(tx, queue, limit)
        take_out(tx, queue, rows, is_all=len(rows) == queue.visible)
        expired = [row[0] for row in rows if is_expired(row[2], queue.settings, operation.now_ms)]
        if expired:
            erase(tx, expired)
        kept = [row[0] for row in rows if not is_expired(row[2], queue.settings, operation.now_ms)]
        if kept:
            transfer(tx, target, kept, sent_ms=operation.now_ms)
        moved += len(kept)
        left -= len(rows)
    return moved


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
