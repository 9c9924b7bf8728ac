"""Inserts many rows with few statements.

Each statement gives the interpreter's lock away and must get it back: with an event loop at work in the other thread
that costs up to its switch interval a time (measured: 3 ms a row with one statement a row). So rows go in together: up
to 16 with one statement, more by powers of two, from two dozen prepared ones.
"""

from __future__ import annotations

import sqlite3
from typing import Any

#: Up to so many rows go in with one statement: a lease of ten is the usual receive.
_EXACT_ROWS_MAX = 16
#: Rows of the largest statement: its 1,792 parameters are far below SQLite's 32,766, and its bodies are copied once.
STATEMENT_ROWS_MAX = 256


class RowBuffer:
    """Rows of one table that wait to be written."""

    def __init__(self, table: str, *columns: str) -> None:
        self.values: list[Any] = []  #: the rows' values, one after another
        self._width = len(columns)
        self._head = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "  # noqa: S608 - names of our own schema
        self._row = f"({', '.join('?' * self._width)})"
        powers = [1 << power for power in range(STATEMENT_ROWS_MAX.bit_length())]
        self._statements = {rows: self._statement(rows) for rows in (*range(1, _EXACT_ROWS_MAX + 1), *powers)}

    def _statement(self, rows: int) -> str:
        return self._head + ", ".join([self._row] * rows)

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write the rows, in order."""
        values, begin = self.values, 0
        rows_left = len(values) // self._width
        while rows_left:
            rows = rows_left
            if rows > _EXACT_ROWS_MAX:
                rows = min(1 << (rows_left.bit_length() - 1), STATEMENT_ROWS_MAX)
            end = begin + rows * self._width
            connection.execute(self._statements[rows], values[begin:end])
            begin = end
            rows_left -= rows
        values.clear()
