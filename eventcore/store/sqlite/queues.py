"""Queues as a whole: defining, sending, and what is done to them by hand. Source: Lambda semantics §3.2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter

from eventcore.ports import store as port
from eventcore.store.key_ranges import KeyRange, gather
from eventcore.store.rules import SEQUENCE_MASK, first_key, is_expired
from eventcore.store.sqlite import fifo
from eventcore.store.sqlite.aside import put_back
from eventcore.store.sqlite.ledger import QueueRow
from eventcore.store.sqlite.marks import hidden_within, hide, ready_within, take_hidden, take_ready
from eventcore.store.sqlite.segments import Segment, read_from
from eventcore.store.sqlite.transaction import Transaction
from eventcore.store.sqlite.visible import FETCHED_MAX, erase, keys_of, oldest_visible, show_due, take_out, transfer


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
    return send_each(tx, [operation])[0]


def send_each(tx: Transaction, operations: Sequence[port.SendMessages]) -> list[list[str]]:
    """Carry out many sends, one after another; return the result of each. Rows are left in the buffers."""
    results: list[list[str]] = []
    for name, of_queue in groupby(operations, _queue_of):
        queue = tx.ledger.queues[name]
        results += (fifo.send if queue.settings.fifo_queue else _send_to)(tx, queue, of_queue)
    return results


_queue_of = attrgetter("queue")


def _send_to(tx: Transaction, queue: QueueRow, operations: Iterable[port.SendMessages]) -> list[list[str]]:
    """Carry out sends to one queue. This runs for every message that is sent."""
    delay_s, number, buffer = queue.settings.delay, queue.number, tx.buffers.messages
    first = key = queue.next_key
    run, is_delayed = buffer.run(number, key), False
    results, delayed = [], 0
    for operation in operations:
        now_ms, ids = operation.now_ms, []
        for new in operation.messages:
            if new.idempotency_token and not tx.take_token(queue.topic, new.idempotency_token, now_ms=now_ms):
                continue
            message_delay_s = delay_s if new.delay_s is None else new.delay_s
            if (message_delay_s > 0) is not is_delayed:
                is_delayed = not is_delayed
                run = buffer.run(number, key, is_delayed=is_delayed)
            if is_delayed:
                hide(tx, queue, (key, key + 1, 0, 0, now_ms + message_delay_s * 1000))
                delayed += 1
                if queue.fresh_key == key:
                    # Nothing before it waits: so it need not be skipped later.
                    queue.fresh_key = key + 1
            run.append((new.id, now_ms, new.group, new.headers, new.body))
            ids.append(new.id)
            key += 1
        results.append(ids)
    queue.next_key = key
    queue.delayed += delayed
    queue.visible += key - first - delayed
    tx.ledger.change(queue)
    tx.wake(queue.topic)
    return results


def purge(tx: Transaction, operation: port.PurgeQueue) -> int:
    """Carry out `PurgeQueue`."""
    queue = tx.ledger.queues[operation.queue]
    if queue.settings.fifo_queue:
        return fifo.purge(tx, queue)
    count = queue.visible + queue.hidden + queue.delayed
    tx.execute("DELETE FROM segment WHERE first_key >= ? AND first_key < ?", queue.low, queue.high)
    tx.execute("DELETE FROM ready WHERE first_key >= ? AND first_key < ?", queue.low, queue.high)
    tx.execute("DELETE FROM hidden WHERE queue = ?", queue.number)
    if queue.tenants.aside:
        tx.execute("DELETE FROM aside WHERE first_key >= ? AND first_key < ?", queue.low, queue.high)
    queue.tenants.clear()
    queue.visible = queue.ready = queue.hidden = queue.delayed = 0
    queue.fresh_key, queue.opened = queue.next_key, None
    tx.ledger.change(queue)
    return count


def move(tx: Transaction, operation: port.MoveMessages) -> port.MovedCount:
    """Carry out `MoveMessages`."""
    queue, target = tx.ledger.queues[operation.source], tx.ledger.queues[operation.target]
    if queue.settings.fifo_queue:
        return fifo.move(tx, operation)
    show_due(tx, queue, operation.now_ms)
    put_back(tx, queue, [(queue.low, queue.high)])
    # What is visible now: source and target may be the same.
    left = min(operation.count_max, queue.visible)
    end_key = queue.low + (operation.through_number or SEQUENCE_MASK)
    taken = moved = 0
    while left:
        limit = min(left, FETCHED_MAX)
        found = oldest_visible(tx, queue, limit)
        rows = [row for row in found if row.message[0] <= end_key]
        if not rows:
            break
        if len(rows) < len(found):
            left = len(rows)
        take_out(tx, queue, rows, is_all=len(rows) == queue.visible)
        erase(tx, queue, keys_of(rows))
        kept = [row for row in rows if not is_expired(row.message[2], queue.settings, operation.now_ms)]
        if kept:
            ids = operation.ids[moved : moved + len(kept)]
            transfer(tx, target, kept, ids=ids, sent_ms=operation.now_ms)
        moved += len(kept)
        taken += len(rows)
        left -= len(rows)
    return port.MovedCount(taken, moved)


def drop(tx: Transaction, operation: port.DropMessages) -> int:
    """Carry out `DropMessages`. Reads the whole queue: an index of ids would cost every message a random page."""
    queue, ids = tx.ledger.queues[operation.queue], frozenset(operation.ids)
    if queue.settings.fifo_queue:
        return fifo.drop(tx, queue, operation)
    put_back(tx, queue, [(queue.low, queue.high)])
    count = 0
    for segments in _steps(tx, queue, queue.low, with_delayed=True):
        count += _drop_marked(tx, queue, _keys(segments, ids))
    for segments in _steps(tx, queue, queue.fresh_key, with_delayed=False):
        for segment in segments:
            count += _drop_fresh(tx, queue, segment, ids)
    queue.opened = None
    return count


def _steps(tx: Transaction, queue: QueueRow, key: int, *, with_delayed: bool) -> Iterator[Sequence[Segment]]:
    while segments := read_from(tx.connection, key, queue.high, count=FETCHED_MAX, with_delayed=with_delayed):
        yield segments
        key = segments[-1].end_key


def _keys(segments: Sequence[Segment], ids: frozenset[str]) -> list[KeyRange]:
    return gather([message[0] for segment in segments for message in segment.messages if message[1] in ids])


def _drop_marked(tx: Transaction, queue: QueueRow, wanted: list[KeyRange]) -> int:
    """Delete what of ranges stands in `hidden` or `ready`; return how many."""
    count = 0
    if wanted and (hidden := hidden_within(tx.connection, wanted)):
        count += take_hidden(tx, queue, hidden, wanted).count
        for first, end in wanted:
            queue.tenants.release(range(first, end))
    if wanted and (ready := ready_within(tx.connection, wanted)):
        count += take_ready(tx, queue, ready, wanted).count
    if count:
        erase(tx, queue, wanted)
    return count


def _drop_fresh(tx: Transaction, queue: QueueRow, segment: Segment, ids: frozenset[str]) -> int:
    """Write a segment again without those of its messages that are fresh and to be dropped; return how many."""
    kept = [message for message in segment.messages if message[0] < queue.fresh_key or message[1] not in ids]
    count = len(segment.messages) - len(kept)
    if not count:
        return 0
    tx.execute("DELETE FROM segment WHERE first_key = ?", segment.first_key)
    for key, message_id, sent_ms, group, headers, body in kept:
        tx.buffers.messages.run(queue.number, key).append((message_id, sent_ms, group, headers, body))
    tx.buffers.messages.flush(tx.connection)
    # What is left may be of earlier receives, and settled.
    erase(tx, queue, gather([message[0] for message in kept]))
    queue.visible -= count
    tx.ledger.change(queue)
    return count
