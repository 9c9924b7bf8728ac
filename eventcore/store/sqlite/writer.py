"""Group commit: many callers, one transaction at a time.

While one transaction is on its way, callers gather for the next. Each caller waits for its own transaction and gets its
own outcome. Nothing here knows SQL.

A caller waits on a future of its own, which holds the outcome: half a microsecond less a caller than an event of the
group's, of eleven for a whole send. Half of the callers writing while the other half gathers was measured, and is
slower (11 and 15 µs a message for 1,024 and 256 senders, not 10 and 11): the threads wait for each other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio
import anyio.lowlevel

from eventcore.errors import ProgrammingError, StoreError, StoreUnavailable
from eventcore.ports.keys import ClaimKeys, CompleteKeys, ReleaseKeys, SweepKeys
from eventcore.ports.store import (
    OPERATIONS_MAX,
    AppendRecords,
    ChangeVisibility,
    DeleteMessages,
    KeepFailure,
    MoveMessages,
    Operation,
    PutOutbox,
    ReceiveMessages,
    SendMessages,
    StoreStatistics,
    TrimStream,
)
from eventcore.store.sqlite.apply import Outcome

#: Rows of one transaction, beyond which the next caller waits for the next one: about 50 ms.
ROWS_MAX = 8192
#: Bytes of bodies of one transaction: they are held twice while they are written.
BYTES_MAX = 16 * 1024 * 1024
#: A transaction that takes longer than this, seconds, is left to its own: far above SQLite's wait for a lock.
TRANSACTION_GRACE_S = 60.0
_CLOSED = "the store was closed before it could write"


class _Group:
    """Callers whose lists go into one transaction: the lists, and the future of each."""

    __slots__ = ("callers", "lists", "rows", "size_bytes")

    def __init__(self) -> None:
        self.lists: list[Sequence[Operation]] = []
        self.callers: list[asyncio.Future[list[Any]]] = []
        self.rows = 0
        self.size_bytes = 0


class Writer:
    """Gathers lists of operations and has them carried out, in the order they came. `run` is its one task."""

    def __init__(self, transact: Callable[[Sequence[Sequence[Operation]]], Awaitable[list[Outcome]]]) -> None:
        """Write through ``transact``: it makes one transaction of lists, and raises `StoreError` when it can't."""
        self._transact = transact
        self._loop = asyncio.get_running_loop()
        self._groups: deque[_Group] = deque()
        self._wake = anyio.Event()
        self._is_closed = False
        self._commits = 0
        self._operations = 0

    async def commit(self, operations: Sequence[Operation]) -> list[Any]:
        """Carry out operations in order, all or none; see `Store.commit`."""
        if len(operations) > OPERATIONS_MAX:
            raise ValueError(f"a commit holds at most {OPERATIONS_MAX} operations, not {len(operations)}")
        if self._is_closed:
            raise ProgrammingError("the store is closed")
        group = self._find_group(operations)
        lists, place = group.lists, len(group.lists)
        lists.append(operations)
        done: asyncio.Future[list[Any]] = self._loop.create_future()
        group.callers.append(done)
        try:
            return await done
        except asyncio.CancelledError:
            # In a transaction that has not begun, this takes the list out.
            lists[place] = ()
            raise

    def _find_group(self, operations: Sequence[Operation]) -> _Group:
        """Return the group that takes a list, and count the list in it."""
        rows = size_bytes = 0
        for operation in operations:
            if type(operation) is SendMessages:
                # What most callers bring.
                for message in operation.messages:
                    rows += 1
                    size_bytes += len(message.body)
            else:
                own_rows, own_bytes = _WEIGHTS.get(type(operation), _weigh_row)(operation)
                rows += own_rows
                size_bytes += own_bytes
        groups = self._groups
        group = groups[-1] if groups else None
        if group is None or group.rows + rows > ROWS_MAX or group.size_bytes + size_bytes > BYTES_MAX:
            group = _Group()
            groups.append(group)
            self._wake.set()
        group.rows += rows
        group.size_bytes += size_bytes
        return group

    async def run(self) -> None:
        """Write until it is closed and everything that waits is written."""
        try:
            while True:
                while self._groups:
                    await self._write(self._groups.popleft())
                    # Callers that were woken just now come back before the next transaction begins, if they do.
                    await anyio.lowlevel.checkpoint()
                if self._is_closed:
                    return
                self._wake = anyio.Event()
                await self._wake.wait()
        finally:
            self.close()
            for group in self._groups:
                _tell(group, [StoreUnavailable(_CLOSED) for _ in group.lists])

    async def _write(self, group: _Group) -> None:
        lists = group.lists
        outcomes: Sequence[Outcome] = ()
        try:
            # Not ended by a cancellation: what has begun has an outcome, and each caller is told.
            with anyio.fail_after(TRANSACTION_GRACE_S, shield=True):
                outcomes = await self._transact(tuple(lists))
        except StoreError as error:
            outcomes = [_again(error) for _ in lists]
        except TimeoutError:
            outcomes = [StoreUnavailable("the store does not answer; it may yet write this") for _ in lists]
        finally:
            self._commits += 1
            self._operations += sum(map(len, lists))
            _tell(group, outcomes or [StoreUnavailable(_CLOSED) for _ in lists])

    def close(self) -> None:
        """Take no more; `run` returns when what waits is written."""
        self._is_closed = True
        self._wake.set()

    def statistics(self) -> StoreStatistics:
        """Return a snapshot."""
        waiting = sum(len(group.lists) for group in self._groups)
        return StoreStatistics(commits=self._commits, operations=self._operations, waiting=waiting)


def _tell(group: _Group, outcomes: Sequence[Outcome]) -> None:
    """Let each caller go on with its outcome; one that was cancelled hears nothing."""
    for caller, outcome in zip(group.callers, outcomes, strict=True):
        if caller.done():
            continue
        if isinstance(outcome, list):
            caller.set_result(outcome)
        else:
            caller.set_exception(outcome)


def _weigh_row(operation: Operation) -> tuple[int, int]:
    del operation
    return 1, 0


def _weigh_records(operation: AppendRecords) -> tuple[int, int]:
    return len(operation.records), sum([len(record.body) for record in operation.records])


def _weigh_count(operation: ReceiveMessages | MoveMessages | TrimStream | SweepKeys) -> tuple[int, int]:
    return operation.count_max, 0


def _weigh_receipts(operation: DeleteMessages | ChangeVisibility) -> tuple[int, int]:
    return len(operation.receipts), 0


def _weigh_outbox(operation: PutOutbox) -> tuple[int, int]:
    return 1, len(operation.row.payload)


def _weigh_failure(operation: KeepFailure) -> tuple[int, int]:
    return 1, len(operation.failure.event) + len(operation.failure.records)


def _weigh_keys(operation: ClaimKeys | ReleaseKeys) -> tuple[int, int]:
    return len(operation.keys), 0


def _weigh_completions(operation: CompleteKeys) -> tuple[int, int]:
    return len(operation.completions), sum([len(each.result) for each in operation.completions])


#: By type, as every send and every receive passes here; what is not listed is one row.
_WEIGHTS: Mapping[type[Operation], Callable[[Any], tuple[int, int]]] = {
    AppendRecords: _weigh_records,
    ReceiveMessages: _weigh_count,
    MoveMessages: _weigh_count,
    TrimStream: _weigh_count,
    DeleteMessages: _weigh_receipts,
    ChangeVisibility: _weigh_receipts,
    PutOutbox: _weigh_outbox,
    KeepFailure: _weigh_failure,
    ClaimKeys: _weigh_keys,
    CompleteKeys: _weigh_completions,
    ReleaseKeys: _weigh_keys,
    SweepKeys: _weigh_count,
}


def _again(error: StoreError) -> StoreError:
    """Return an error of its own for each caller: one that is raised in many tasks gathers all their frames."""
    own = type(error)(error.message)
    own.__cause__ = error.__cause__
    return own
