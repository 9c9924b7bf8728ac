"""Checkpoints, on the ledger; and notes, which are as simple."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from eventcore.delivery.ordering import EMPTY, decode_state
from eventcore.ports import store as port
from eventcore.ports.store import Checkpoint
from eventcore.store.sqlite.ledger import CheckpointRow
from eventcore.store.sqlite.transaction import Transaction


def take(tx: Transaction, operation: port.TakeShard) -> Checkpoint:
    """Carry out `TakeShard`."""
    return _raised(tx, operation.mapping, operation.shard).snapshot()


def save(tx: Transaction, operation: port.SaveCheckpoint) -> None:
    """Carry out `SaveCheckpoint`."""
    row = tx.ledger.checkpoints[operation.mapping, operation.shard]
    row.position = operation.position
    row.state = operation.state
    tx.ledger.change(row)


def seek(tx: Transaction, operation: port.SeekCheckpoint) -> int:
    """Carry out `SeekCheckpoint`."""
    row = _raised(tx, operation.mapping, operation.shard)
    row.position = operation.position
    row.state = EMPTY
    return row.epoch


def _raised(tx: Transaction, mapping: str, shard: str) -> CheckpointRow:
    """Return a checkpoint with a new, higher epoch."""
    epoch, position = tx.ledger.progress(mapping, shard)
    row = tx.ledger.checkpoints.setdefault((mapping, shard), CheckpointRow(mapping, shard, epoch, position))
    row.epoch += 1
    tx.ledger.change(row)
    return row


def put_note(tx: Transaction, operation: port.PutNote) -> None:
    """Carry out `PutNote`."""
    tx.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", operation.name, operation.value)


# -- reads, on the reading connection ----------------------------------------------------------------------------------


def checkpoints(connection: sqlite3.Connection, mapping: str | None) -> Sequence[Checkpoint]:
    """Return checkpoints, of one mapping or of all, by mapping and shard."""
    rows = connection.execute(
        "SELECT mapping, shard, epoch, position, state FROM checkpoint WHERE :mapping IS NULL"
        " OR mapping = :mapping ORDER BY mapping, shard",
        {"mapping": mapping},
    )
    return [
        Checkpoint(mapping=owner, shard=shard, epoch=epoch, position=position, state=decode_state(state))
        for owner, shard, epoch, position, state in rows
    ]


def note(connection: sqlite3.Connection, name: str) -> bytes | None:
    """Return a small named value."""
    row = connection.execute("SELECT value FROM note WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None
