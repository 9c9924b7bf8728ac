"""The outbox in SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from eventcore.ports import store as port
from eventcore.ports.store import OutboxDepth, OutboxRow
from eventcore.store.rules import FOREVER_MS, TOKEN_KEPT_MS, due_rows, outbox_size_bytes
from eventcore.store.sqlite.codec import decode_attributes, encode_attributes, encode_list
from eventcore.store.sqlite.ledger import DestinationRow
from eventcore.store.sqlite.transaction import Transaction
from eventcore.store.watches import OUTBOX_TOPIC

_COLUMNS = (
    "key, destination, lane, created_ms, due_ms, attempts, last_error, size_bytes, attributes, record_key, payload"
)

#: Rows are fetched in steps of about this, bytes: SQLite limits one value to 1 GB, and it is held twice.
FETCHED_BYTES = 16 * 1024 * 1024
#: Steps from lane to lane in the index, and from each lane to its oldest row.
_OLDEST = """
WITH RECURSIVE lanes (lane) AS (
  SELECT min(lane) FROM outbox WHERE destination = :destination
  UNION ALL
  SELECT (SELECT min(lane) FROM outbox WHERE destination = :destination AND lane > lanes.lane) FROM lanes
  WHERE lanes.lane IS NOT NULL
)
SELECT json_group_array(json_array(outbox.lane, outbox.number, outbox.due_ms))
FROM lanes CROSS JOIN outbox ON outbox.number =
  (SELECT number FROM outbox WHERE destination = :destination AND lane = lanes.lane ORDER BY number LIMIT 1)
"""
# Lists come as one value, as in `visible`.
_LANE = (
    "SELECT json_group_array(json_array(number, due_ms, json_array(number, size_bytes)))"
    " FROM (SELECT number, due_ms, size_bytes FROM outbox WHERE destination = ? AND lane = ? ORDER BY number LIMIT ?)"
)
_ROWS = (
    "SELECT json_group_array(json_array(number, key, destination, lane, created_ms, due_ms, attempts, last_error,"
    " length(attributes), length(record_key), length(payload))),"
    " CAST(group_concat(attributes || coalesce(record_key, x'') || payload, '') AS BLOB)"
    " FROM (SELECT * FROM outbox WHERE number IN (SELECT value FROM json_each(?)) ORDER BY number)"
)


class _Head(msgspec.Struct, array_like=True):
    """A row without its values."""

    number: int
    key: str
    destination: str
    lane: str
    created_ms: int
    due_ms: int
    attempts: int
    last_error: str
    attributes_bytes: int
    key_bytes: int | None  #: None without a record key
    payload_bytes: int


_oldest_rows = msgspec.json.Decoder(list[tuple[str, int, int]])
_lane = msgspec.json.Decoder(list[tuple[int, int, tuple[int, int]]])
_rows = msgspec.json.Decoder(list[_Head])


def put(tx: Transaction, operation: port.PutOutbox) -> bool:
    """Carry out `PutOutbox`."""
    row = operation.row
    if not tx.take_token(OUTBOX_TOPIC, row.key, now_ms=row.created_ms, forget_ms=FOREVER_MS):
        return False
    size_bytes = outbox_size_bytes(row)
    tx.execute(
        f"INSERT INTO outbox ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - our own columns
        *(row.key, row.destination, row.lane, row.created_ms, row.due_ms, row.attempts, row.last_error, size_bytes),
        *(encode_attributes(row.attributes), row.record_key, row.payload),
    )
    destination = tx.ledger.destinations.setdefault(row.destination, DestinationRow(row.destination))
    destination.rows += 1
    destination.size_bytes += size_bytes
    tx.ledger.change(destination)
    tx.wake(OUTBOX_TOPIC)
    return True


def mark_sent(tx: Transaction, operation: port.MarkSent) -> None:
    """Carry out `MarkSent`."""
    sent = tx.execute(
        "DELETE FROM outbox WHERE key IN (SELECT value FROM json_each(?)) RETURNING key, destination, size_bytes",
        encode_list(operation.keys),
    ).fetchall()
    for _, name, size_bytes in sent:
        destination = tx.ledger.destinations[name]
        destination.rows -= 1
        destination.size_bytes -= size_bytes
        destination.last_error = ""
        tx.ledger.change(destination)
    tx.execute(
        "UPDATE token SET forget_ms = ? WHERE scope = ? AND token IN (SELECT value FROM json_each(?))",
        *(operation.now_ms + TOKEN_KEPT_MS, OUTBOX_TOPIC, encode_list([key for key, _, _ in sent])),
    )
    tx.wake(OUTBOX_TOPIC)


def postpone(tx: Transaction, operation: port.PostponeOutbox) -> None:
    """Carry out `PostponeOutbox`."""
    name = tx.scalar(
        "UPDATE outbox SET attempts = attempts + 1, due_ms = ?, last_error = ? WHERE key = ? RETURNING destination",
        *(operation.due_ms, operation.error, operation.key),
    )
    if name is None:
        return
    destination = tx.ledger.destinations[name]
    destination.last_error = operation.error
    tx.ledger.change(destination)
    tx.wake(OUTBOX_TOPIC)


# -- reads, on the reading connection ----------------------------------------------------------------------------------


def due(connection: sqlite3.Connection, destination: str, *, now_ms: int, count_max: int) -> Sequence[OutboxRow]:
    """Return a destination's rows that may be handed over now; see `Store.due_outbox`."""
    lanes = [
        _lane.decode(connection.execute(_LANE, (destination, lane, count_max)).fetchone()[0])
        for lane, _, due_ms in _oldest(connection, destination)
        if due_ms <= now_ms
    ]
    rows: list[OutboxRow] = []
    numbers: list[int] = []
    size_bytes = 0
    for number, row_bytes in due_rows(lanes, now_ms=now_ms, count_max=count_max):
        numbers.append(number)
        size_bytes += row_bytes
        if size_bytes >= FETCHED_BYTES:
            rows += _fetch(connection, numbers)
            numbers, size_bytes = [], 0
    return rows + _fetch(connection, numbers) if numbers else rows


def _fetch(connection: sqlite3.Connection, numbers: Sequence[int]) -> list[OutboxRow]:
    """Return rows by number, in order."""
    heads, values = connection.execute(_ROWS, (encode_list(numbers),)).fetchone()
    rows = []
    begin = 0
    for head in _rows.decode(heads):
        attributes_end = begin + head.attributes_bytes
        key_end = attributes_end + (head.key_bytes or 0)
        end = key_end + head.payload_bytes
        rows.append(_row(head, values[begin:attributes_end], values[attributes_end:key_end], values[key_end:end]))
        begin = end
    return sorted(rows, key=lambda row: row.number)


def _row(head: _Head, attributes: bytes, record_key: bytes, payload: bytes) -> OutboxRow:
    return OutboxRow(
        key=head.key,
        destination=head.destination,
        lane=head.lane,
        payload=payload,
        record_key=None if head.key_bytes is None else record_key,
        attributes=decode_attributes(attributes),
        created_ms=head.created_ms,
        attempts=head.attempts,
        due_ms=head.due_ms,
        number=head.number,
        last_error=head.last_error,
    )


def next_ms(connection: sqlite3.Connection, destination: str) -> int:
    """Return when a destination's next row becomes due; 0 when none waits."""
    return min((max(1, due_ms) for _, _, due_ms in _oldest(connection, destination)), default=0)


def depths(connection: sqlite3.Connection) -> Sequence[OutboxDepth]:
    """Return what waits, by destination."""
    rows = connection.execute("SELECT name, rows, size_bytes, last_error FROM destination WHERE rows ORDER BY name")
    return [
        OutboxDepth(
            destination=name,
            rows=count,
            size_bytes=size_bytes,
            oldest_ms=_created_ms(connection, min(number for _, number, _ in _oldest(connection, name))),
            last_error=last_error,
        )
        for name, count, size_bytes, last_error in rows
    ]


def _oldest(connection: sqlite3.Connection, destination: str) -> list[tuple[str, int, int]]:
    """Return each lane with the number and the due time of its oldest row.

    One seek a lane, however many rows wait in it.
    """
    return _oldest_rows.decode(connection.execute(_OLDEST, {"destination": destination}).fetchone()[0])


def _created_ms(connection: sqlite3.Connection, number: int) -> int:
    ((created_ms,),) = connection.execute("SELECT created_ms FROM outbox WHERE number = ?", (number,))
    return int(created_ms)
