"""Idempotency keys: a row a key, whether it is claimed or completed."""

from __future__ import annotations

from eventcore.ports import keys as port
from eventcore.ports.keys import CLAIMED, KeyKind, KeyState
from eventcore.store.sqlite.transaction import Transaction

_CLAIM = """
INSERT INTO idempotency_key (key, owner, expires_ms, payload, result) VALUES (?, ?, ?, x'', x'')
ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, expires_ms = excluded.expires_ms, payload = x'', result = x''
WHERE expires_ms <= ?
"""
_COMPLETE = """
INSERT INTO idempotency_key (key, owner, expires_ms, payload, result) VALUES (?, '', ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET owner = '', expires_ms = excluded.expires_ms, payload = excluded.payload,
  result = excluded.result
WHERE owner = ? OR expires_ms <= ?
"""
_RELEASE = "DELETE FROM idempotency_key WHERE key = ? AND owner = ?"


def claim(tx: Transaction, operation: port.ClaimKeys) -> list[KeyState]:
    """Carry out `ClaimKeys`."""
    owner, until_ms, now_ms = operation.owner, operation.until_ms, operation.now_ms
    rows = [(key, owner, until_ms, now_ms) for key in operation.keys]
    if tx.connection.executemany(_CLAIM, rows).rowcount == len(rows):
        return [CLAIMED] * len(rows)
    states = [_read(tx, key, owner) for key in operation.keys]
    if operation.is_ordered:
        _stop_at_progress(tx, operation, states)
    return states


def _read(tx: Transaction, key: bytes, owner: str) -> KeyState:
    (row,) = tx.execute("SELECT owner, expires_ms, payload, result FROM idempotency_key WHERE key = ?", key)
    held_by, expires_ms, payload, result = row
    if held_by == owner:
        return CLAIMED
    if held_by:
        return KeyState(KeyKind.IN_PROGRESS, until_ms=expires_ms)
    return KeyState(KeyKind.COMPLETED, payload=payload, result=result)


def _stop_at_progress(tx: Transaction, operation: port.ClaimKeys, states: list[KeyState]) -> None:
    """Undo the claims behind the first key that is somebody else's."""
    first = next((at for at, state in enumerate(states) if state.kind is KeyKind.IN_PROGRESS), len(states))
    behind = [key for key, state in zip(operation.keys[first:], states[first:], strict=True) if state is CLAIMED]
    tx.connection.executemany(_RELEASE, [(key, operation.owner) for key in behind])
    states[first:] = [states[first]] * (len(states) - first) if first < len(states) else []


def complete(tx: Transaction, operation: port.CompleteKeys) -> int:
    """Carry out `CompleteKeys`."""
    rows = [
        (each.key, operation.expires_ms, each.payload, each.result, operation.owner, operation.now_ms)
        for each in operation.completions
    ]
    return max(0, tx.connection.executemany(_COMPLETE, rows).rowcount)


def release(tx: Transaction, operation: port.ReleaseKeys) -> None:
    """Carry out `ReleaseKeys`."""
    tx.connection.executemany(_RELEASE, [(key, operation.owner) for key in operation.keys])


def sweep(tx: Transaction, operation: port.SweepKeys) -> int:
    """Carry out `SweepKeys`."""
    return tx.execute(
        "DELETE FROM idempotency_key WHERE key IN"
        " (SELECT key FROM idempotency_key WHERE expires_ms <= ? ORDER BY expires_ms LIMIT ?)",
        operation.now_ms,
        operation.count_max,
    ).rowcount
