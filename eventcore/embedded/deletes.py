"""Deletes of an embedded queue that wait for a commit to carry them, and who of them sees to it."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from eventcore.errors import EventcoreError

#: Receipts that one commit carries beside its own work: ten full receives.
CARRIED_RECEIPTS_MAX = 10_000


class Delete:
    """Receipts that one caller wants deleted, and what became of them."""

    def __init__(self, receipts: Sequence[str]) -> None:
        self.receipts = receipts
        #: It sees to it that the deletes that wait are carried: one timer for all of them.
        self.leads = False
        self.turn = anyio.Event()  #: to lead, or to go on: it is done
        self.taken = anyio.Event()
        self.done = anyio.Event()
        self._spent: list[str] = []
        self._failure: EventcoreError | None = None

    def finish(self, spent: frozenset[str]) -> None:
        """Note that it is done, but for receipts that no longer own their messages."""
        self._spent = [receipt for receipt in self.receipts if receipt in spent]
        self._end()

    def fail(self, failure: EventcoreError) -> None:
        """Note a failure, unless it is finished."""
        if not self.done.is_set():
            self._failure = failure
            self._end()

    def lead(self) -> None:
        """Make it the one that the others wait for."""
        self.leads = True
        self.turn.set()

    def _end(self) -> None:
        self.done.set()
        self.turn.set()

    def result(self) -> Sequence[str]:
        """Return the receipts that were not deleted, or raise what went wrong."""
        if self._failure is not None:
            raise self._failure
        return self._spent


class DeleteBuffer:
    """Deletes that wait to be carried by a commit, in order. The first of them leads."""

    def __init__(self) -> None:
        self._waiting: list[Delete] = []

    def add(self, receipts: Sequence[str]) -> Delete:
        """Let receipts wait for a commit."""
        delete = Delete(receipts)
        self._waiting.append(delete)
        self._appoint()
        return delete

    def withdraw(self, delete: Delete) -> None:
        """Take a delete out whose caller no longer waits, if no commit has it yet."""
        if not delete.taken.is_set():
            self._waiting.remove(delete)
            self._appoint()

    def take(self) -> list[Delete]:
        """Take what one commit carries: the oldest, at least one if there is one."""
        count = size = 0
        for delete in self._waiting:
            size += len(delete.receipts)
            if count and size > CARRIED_RECEIPTS_MAX:
                break
            delete.taken.set()
            count += 1
        taken = self._waiting[:count]
        del self._waiting[:count]
        self._appoint()
        return taken

    def _appoint(self) -> None:
        if self._waiting and not self._waiting[0].leads:
            self._waiting[0].lead()
