"""Kept failures in SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from eventcore.ports import store as port
from eventcore.ports.store import Failure
from eventcore.store.rules import FAILURE_PREFIX_MIN, failure_size_bytes
from eventcore.store.sqlite.codec import decode_failure, encode_failure_head, encode_list
from eventcore.store.sqlite.transaction import Transaction

#: The last character of Unicode: behind everything that begins with a prefix.
_BEHIND_ALL = "\U0010ffff"
#: Failures that one trim looks at in a statement.
_TRIM_STEP = 100
_ages = msgspec.json.Decoder(list[tuple[str, int, int]])


def keep(tx: Transaction, operation: port.KeepFailure) -> None:
    """Carry out `KeepFailure`."""
    failure = operation.failure
    _forget(tx, [failure.id])
    size_bytes = failure_size_bytes(failure)
    tx.execute(
        "INSERT INTO failure (id, mapping, created_ms, size_bytes, head, event, records) VALUES (?, ?, ?, ?, ?, ?, ?)",
        *(failure.id, failure.mapping, failure.created_ms, size_bytes, encode_failure_head(failure)),
        *(failure.event, failure.records),
    )
    tx.ledger.failure_total.size_bytes += size_bytes
    tx.ledger.change(tx.ledger.failure_total)


def seal(tx: Transaction, operation: port.SealFailures) -> int:
    """Carry out `SealFailures`."""
    heads = tx.execute(
        "SELECT id, head FROM failure WHERE id IN (SELECT value FROM json_each(?))", encode_list(operation.ids)
    ).fetchall()
    for key, head in heads:
        sealed = msgspec.structs.replace(decode_failure(head), reason=operation.reason, is_final=True)
        tx.execute("UPDATE failure SET head = ? WHERE id = ?", encode_failure_head(sealed), key)
    return len(heads)


def drop(tx: Transaction, operation: port.DropFailures) -> int:
    """Carry out `DropFailures`."""
    return _forget(tx, operation.ids)


def trim(tx: Transaction, operation: port.TrimFailures) -> int:
    """Carry out `TrimFailures`."""
    count = 0
    while True:
        excess_bytes = tx.ledger.failure_total.size_bytes - operation.size_bytes_max
        oldest = []
        for key, created_ms, size_bytes in _oldest(tx):
            if created_ms >= operation.before_ms and excess_bytes <= 0:
                break
            oldest.append(key)
            excess_bytes -= size_bytes
        count += _forget(tx, oldest) if oldest else 0
        if len(oldest) < _TRIM_STEP:
            return count


def _oldest(tx: Transaction) -> list[tuple[str, int, int]]:
    """Return id, time and size of the oldest failures."""
    return _ages.decode(
        tx.scalar(
            "SELECT json_group_array(json_array(id, created_ms, size_bytes))"
            " FROM (SELECT id, created_ms, size_bytes FROM failure ORDER BY created_ms, id LIMIT ?)",
            _TRIM_STEP,
        )
    )


def _forget(tx: Transaction, ids: Sequence[str]) -> int:
    """Delete failures; return how many there were."""
    sizes = tx.execute(
        "DELETE FROM failure WHERE id IN (SELECT value FROM json_each(?)) RETURNING size_bytes", encode_list(ids)
    ).fetchall()
    if sizes:
        tx.ledger.failure_total.size_bytes -= sum(size_bytes for (size_bytes,) in sizes)
        tx.ledger.change(tx.ledger.failure_total)
    return len(sizes)


# -- reads, on the reading connection ----------------------------------------------------------------------------------


def newest(connection: sqlite3.Connection, *, mapping: str | None, count_max: int, before_id: str) -> Sequence[Failure]:
    """Return failures, newest first; see `Store.failures`."""
    conditions, parameters = ["TRUE"], []
    if mapping is not None:
        conditions.append("mapping = ?")
        parameters.append(mapping)
    if before_id:
        # Empty when that failure is gone: nothing is before it.
        conditions.append("(created_ms, id) < (SELECT created_ms, id FROM failure WHERE id = ?)")
        parameters.append(before_id)
    rows = connection.execute(
        f"SELECT head FROM failure WHERE {' AND '.join(conditions)} ORDER BY created_ms DESC, id DESC LIMIT ?",  # noqa: S608
        (*parameters, count_max),
    )
    return [decode_failure(head) for (head,) in rows]


def find(connection: sqlite3.Connection, prefix: str) -> Failure | None:
    """Return one whole failure by its id or a prefix of it; see `Store.failure`."""
    rows = connection.execute("SELECT head, event, records FROM failure WHERE id = ?", (prefix,)).fetchall()
    if not rows and len(prefix) >= FAILURE_PREFIX_MIN:
        rows = connection.execute(
            "SELECT head, event, records FROM failure WHERE id >= ? AND id < ? ORDER BY id LIMIT 2",
            (prefix, prefix + _BEHIND_ALL),
        ).fetchall()
    return decode_failure(*rows[0]) if len(rows) == 1 else None
