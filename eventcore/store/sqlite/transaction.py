"""What the operations of one transaction work with. Runs on the writer's thread alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from eventcore.store.rules import TOKEN_KEPT_MS, TOKENS_SWEPT_MAX
from eventcore.store.sqlite.ledger import Ledger
from eventcore.store.sqlite.rows import RowBuffer
from eventcore.store.sqlite.segments import SegmentBuffer


class Buffers:
    """Rows that wait to be written, by table; empty between transactions."""

    def __init__(self) -> None:
        self.messages = SegmentBuffer()
        self.hidden = RowBuffer(
            "hidden", "queue", "visible_ms", "first_key", "end_key", "receive_count", "first_receive_ms"
        )
        self.ready = RowBuffer("ready", "first_key", "end_key", "receive_count", "first_receive_ms", "visible_ms")
        self.aside = RowBuffer(
            "aside",
            "first_key",
            "end_key",
            "receive_count",
            "first_receive_ms",
            "visible_ms",
            "queue",
            "message_group",
        )
        self.records = RowBuffer("record", "key", "arrived_ms", "record_key", "headers", "body")

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write every row."""
        if self.messages:
            self.messages.flush(connection)
        for buffer in (self.hidden, self.ready, self.records):
            if buffer.values:
                buffer.flush(connection)

    def clear(self) -> None:
        """Forget every row."""
        self.messages.clear()
        for buffer in (self.hidden, self.ready, self.aside, self.records):
            buffer.values.clear()


class Transaction:
    """One open transaction: the connection, the small rows, and what is to be done when it ends."""

    def __init__(self, connection: sqlite3.Connection, ledger: Ledger, buffers: Buffers) -> None:
        self.connection = connection
        self.ledger = ledger
        self.buffers = buffers
        #: Who is to be woken after the commit; ordered, so that a run can be repeated.
        self.topics: dict[str, None] = {}
        self._tokens_ms = 0

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        """Run a statement."""
        return self.connection.execute(sql, parameters)

    def execute_named(self, sql: str, parameters: Mapping[str, Any]) -> sqlite3.Cursor:
        """Run a statement whose parameters have names."""
        return self.connection.execute(sql, parameters)

    def scalar(self, sql: str, *parameters: Any) -> Any:
        """Return the first column of a statement's first row; None without one."""
        row = self.connection.execute(sql, parameters).fetchone()
        return row[0] if row else None

    def wake(self, topic: str) -> None:
        """Wake those who watch a topic, once this is durable."""
        self.topics[topic] = None

    def take_token(self, scope: str, token: str, *, now_ms: int, forget_ms: int | None = None) -> bool:
        """Take a token until ``forget_ms``, or for as long as tokens are kept; return whether it was free."""
        self._tokens_ms = max(self._tokens_ms, now_ms)
        taken = self.execute(
            "INSERT INTO token VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET forget_ms = excluded.forget_ms WHERE forget_ms <= ?",
            scope,
            token,
            now_ms + TOKEN_KEPT_MS if forget_ms is None else forget_ms,
            now_ms,
        )
        return taken.rowcount == 1

    def finish(self) -> None:
        """Write what operations have left to the end."""
        self.buffers.flush(self.connection)
        self.ledger.flush(self.connection)
        if self._tokens_ms:
            self.execute(
                "DELETE FROM token WHERE (scope, token) IN"
                " (SELECT scope, token FROM token WHERE forget_ms <= ? ORDER BY forget_ms LIMIT ?)",
                self._tokens_ms,
                TOKENS_SWEPT_MAX,
            )


#: Carries out one operation and returns its result.
Handler = Callable[[Transaction, Any], Any]
