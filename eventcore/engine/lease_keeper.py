"""Lengthens the visibility timeout of messages that are being worked on, while their environment is alive.

Most batches never need it: a mapping's function timeout is not longer than its queue's visibility timeout. It matters
for messages that waited before their invocation began. Rules: `delivery.visibility`.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import count

import anyio

from eventcore.clock import Clock
from eventcore.delivery.visibility import extension_s, renew_at_ms
from eventcore.model import Record
from eventcore.ports.runtime import Runtime
from eventcore.ports.sources import QueueSource

#: A lease whose environment is not alive is looked at again after so long, milliseconds.
RECHECK_MS = 100


class Lease:
    """The right to a batch of messages, from their receive until they are settled."""

    def __init__(self, records: Sequence[Record], *, received_ms: int, hidden_until_ms: int) -> None:
        self.records = records
        self.received_ms = received_ms
        self.hidden_until_ms = hidden_until_ms
        #: When the messages would have come back without an extension.
        self.returns_ms = hidden_until_ms
        self.request_id = ""
        self.deadline_ms = 0
        self.is_over = False
        #: Set while an extension is on its way: its receipts are about to be replaced.
        self.extended: anyio.Event | None = None
        self._renewed: dict[str, str] | None = None  #: receipts by those of the receive; None before an extension

    @property
    def is_extended(self) -> bool:
        """Whether the messages would come back later than their visibility timeout says."""
        return self.hidden_until_ms != self.returns_ms

    def receipt(self, record: Record) -> str:
        """Return the receipt that owns a record now; empty when another receive may own it."""
        return record.receipt if self._renewed is None else self._renewed[record.receipt]

    def receipts(self) -> Sequence[str]:
        """Return the receipts that own their messages now."""
        if self._renewed is None:
            return [record.receipt for record in self.records]
        return [receipt for receipt in self._renewed.values() if receipt]

    def replace(self, renewed: dict[str, str]) -> None:
        """Take the receipts that an extension returned; a message that is not among them is lost to another."""
        self._renewed = {record.receipt: renewed.get(self.receipt(record), "") for record in self.records}


class LeaseKeeper:
    """Keeps the leases of one mapping."""

    def __init__(
        self, source: QueueSource, runtime: Runtime, clock: Clock, *, timeout_s: int, visibility_timeout_s: int
    ) -> None:
        self._source = source
        self._runtime = runtime
        self._clock = clock
        self._timeout_s = timeout_s
        self._visibility_timeout_s = visibility_timeout_s
        self._due: list[tuple[int, int, Lease]] = []
        self._order = count()
        self._changed = anyio.Event()

    def hold(self, lease: Lease, request_id: str) -> None:
        """Keep a lease from now on, until `drop`."""
        lease.request_id = request_id
        lease.deadline_ms = self._clock.now_ms() + self._timeout_s * 1000
        if lease.hidden_until_ms < lease.deadline_ms:
            self._schedule(lease)

    async def drop(self, lease: Lease) -> None:
        """Let a lease be; returns when its receipts are final."""
        lease.is_over = True
        if lease.extended is not None:
            await lease.extended.wait()

    async def run(self) -> None:
        """Extend what is due until cancelled.

        Raises:
            SourceUnavailable: the queue can't be reached.
        """
        while True:
            while self._due and (self._due[0][2].is_over or self._due[0][0] <= self._clock.now_ms()):
                lease = heapq.heappop(self._due)[2]
                if not lease.is_over:
                    lease.extended = anyio.Event()
                    try:
                        await self._extend(lease)
                    finally:
                        lease.extended.set()
            pause_s = max(0.0, (self._due[0][0] - self._clock.now_ms()) / 1000) if self._due else None
            self._changed = anyio.Event()
            with anyio.move_on_after(pause_s):
                await self._changed.wait()

    def _schedule(self, lease: Lease) -> None:
        at_ms = renew_at_ms(hidden_until_ms=lease.hidden_until_ms, visibility_timeout_s=self._visibility_timeout_s)
        heapq.heappush(self._due, (at_ms, next(self._order), lease))
        self._changed.set()

    async def _extend(self, lease: Lease) -> None:
        now_ms = self._clock.now_ms()
        if not self._runtime.is_alive(lease.request_id):
            # Not yet, or no more: an environment that starts becomes alive, one that ended ends the invocation.
            if now_ms + RECHECK_MS < lease.hidden_until_ms:
                heapq.heappush(self._due, (now_ms + RECHECK_MS, next(self._order), lease))
            return
        timeout_s = extension_s(
            received_ms=lease.received_ms,
            hidden_until_ms=lease.hidden_until_ms,
            deadline_ms=lease.deadline_ms,
            timeout_s=self._timeout_s,
            visibility_timeout_s=self._visibility_timeout_s,
            now_ms=now_ms,
        )
        if not timeout_s:
            return
        renewed = await self._source.change_visibility(lease.receipts(), timeout_s)
        lease.replace(dict(renewed))
        lease.hidden_until_ms = now_ms + timeout_s * 1000
        if lease.hidden_until_ms < lease.deadline_ms:
            self._schedule(lease)
