"""Carries out lists of operations in one transaction. Runs on the writer's thread alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from eventcore.errors import FencedOut, ProgrammingError
from eventcore.ports import keys as key_port
from eventcore.ports import store as port
from eventcore.ports.store import Operation
from eventcore.store.admission import Admission
from eventcore.store.sqlite import checkpoints, failures, keys, leases, outbox, queues, receive, streams
from eventcore.store.sqlite.faults import store_error
from eventcore.store.sqlite.ledger import Ledger
from eventcore.store.sqlite.transaction import Buffers, Handler, Transaction

#: What became of a list: its results, or why nothing of it was written.
Outcome = list[Any] | Exception

HANDLERS: Mapping[type[Operation], Handler] = {
    port.DefineQueue: queues.define,
    port.SendMessages: queues.send,
    port.ReceiveMessages: receive.receive,
    port.DeleteMessages: leases.delete,
    port.ChangeVisibility: leases.change_visibility,
    port.PurgeQueue: queues.purge,
    port.MoveMessages: queues.move,
    port.DropMessages: queues.drop,
    port.DefineStream: streams.define,
    port.AppendRecords: streams.append,
    port.TrimStream: streams.trim,
    port.SplitShard: streams.split,
    port.MergeShards: streams.merge,
    port.TakeShard: checkpoints.take,
    port.SaveCheckpoint: checkpoints.save,
    port.SeekCheckpoint: checkpoints.seek,
    port.PutOutbox: outbox.put,
    port.MarkSent: outbox.mark_sent,
    port.PostponeOutbox: outbox.postpone,
    port.KeepFailure: failures.keep,
    port.SealFailures: failures.seal,
    port.DropFailures: failures.drop,
    port.TrimFailures: failures.trim,
    port.PutNote: checkpoints.put_note,
    key_port.ClaimKeys: keys.claim,
    key_port.CompleteKeys: keys.complete,
    key_port.ReleaseKeys: keys.release,
    key_port.SweepKeys: keys.sweep,
}

#: These leave their rows in the buffers, so that the rows of many callers go in with one statement; every other
#: operation must find them written.
_BUFFERING = frozenset({port.SendMessages, port.AppendRecords})
#: What values raise that no column can hold: only our own mistake can cause them.
_UNSTORABLE = (TypeError, ValueError, OverflowError, sqlite3.Error)


def _is_send(operations: Sequence[Operation]) -> bool:
    return len(operations) == 1 and type(operations[0]) is port.SendMessages


class Applied(msgspec.Struct, frozen=True):
    """What a transaction brought."""

    outcomes: list[Outcome]  #: one a list
    topics: tuple[str, ...]  #: whose watches are to be woken


class Applier:
    """Applies lists to a file. One list's error never touches another list; an error of the file undoes them all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._buffers = Buffers()
        self._ledger: Ledger | None = None
        self._admission: Admission | None = None
        self._data_version = -1

    def apply(self, connection: sqlite3.Connection, lists: Sequence[Sequence[Operation]]) -> Applied:
        """Carry out lists in one transaction, each as a whole or not at all; durable when it returns.

        Raises:
            sqlite3.Error: the file can't be written; nothing of any list was.
        """
        try:
            return self._transact(connection, lists)
        except _UNSTORABLE as error:
            if store_error(error, self._path):
                raise
            if len(lists) == 1:
                refusal = ProgrammingError(f"an operation holds a value that can't be stored: {error}")
                refusal.__cause__ = error
                return Applied([refusal], ())
        # One of them is at fault: each gets a transaction of its own. It happens once per mistake in a program.
        alone = [self._apply_alone(connection, operations) for operations in lists]
        return Applied(
            [outcome for applied in alone for outcome in applied.outcomes],
            tuple([topic for applied in alone for topic in applied.topics]),
        )

    def _apply_alone(self, connection: sqlite3.Connection, operations: Sequence[Operation]) -> Applied:
        try:
            return self.apply(connection, [operations])
        except (sqlite3.Error, msgspec.DecodeError) as error:
            # Lists before it were written: so this is its own outcome, not that of all.
            meaning = store_error(error, self._path)
            if meaning is None:
                raise
            meaning.__cause__ = error
            return Applied([meaning], ())

    def _transact(self, connection: sqlite3.Connection, lists: Sequence[Sequence[Operation]]) -> Applied:
        if connection.in_transaction:
            # Rolling back the one before did not succeed; here it succeeds, or says why.
            connection.execute("ROLLBACK")
        connection.execute("BEGIN IMMEDIATE")
        try:
            ledger, admission = self._load(connection)
            tx = Transaction(connection, ledger, self._buffers)
            outcomes: list[Outcome] = []
            for is_send, similar in groupby(lists, _is_send):
                if is_send:
                    outcomes += self._send(tx, admission, [operations[0] for operations in similar])
                else:
                    outcomes += [self._carry_out(tx, admission, operations) for operations in similar]
            tx.finish()
            connection.execute("COMMIT")
        except BaseException:
            self._undo(connection)
            raise
        return Applied(outcomes, tuple(tx.topics))

    def _load(self, connection: sqlite3.Connection) -> tuple[Ledger, Admission]:
        """Return the small rows, read again when somebody else has written to the file."""
        ((data_version,),) = connection.execute("PRAGMA data_version")
        if self._ledger is None or self._admission is None or data_version != self._data_version:
            self._ledger = Ledger(connection)
            self._admission = Admission(self._ledger, partial(self._owns, connection, self._ledger))
            self._data_version = data_version
        return self._ledger, self._admission

    def _owns(self, connection: sqlite3.Connection, ledger: Ledger, operation: port.DeleteMessages) -> bool:
        # What lists before it have done must be found written.
        self._buffers.flush(connection)
        return leases.owns(connection, ledger.queues[operation.queue], operation)

    def _send(self, tx: Transaction, admission: Admission, operations: Sequence[Any]) -> list[Outcome]:
        """Carry out lists of one send each: what most callers bring, all at once."""
        refusals = admission.refuse_sends(operations)
        if not refusals:
            return [[ids] for ids in queues.send_each(tx, operations)]
        results = iter(queues.send_each(tx, [each for at, each in enumerate(operations) if at not in refusals]))
        return [refusals[at] if at in refusals else [next(results)] for at in range(len(operations))]

    def _carry_out(self, tx: Transaction, admission: Admission, operations: Sequence[Operation]) -> Outcome:
        try:
            admission.admit(operations)
        except (FencedOut, KeyError, ValueError, ProgrammingError) as error:
            return error
        results = []
        for operation in operations:
            kind = type(operation)
            if kind not in _BUFFERING:
                tx.buffers.flush(tx.connection)
            results.append(HANDLERS[kind](tx, operation))
        return results

    def _undo(self, connection: sqlite3.Connection) -> None:
        self._buffers.clear()
        self._ledger = None
        # SQLite may have rolled back by itself; where it can't roll back, the next transaction tries again.
        with suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
