"""Hops 2 and 3 for a queue: how many messages may be received, and those that wait for their invocation.

Each of them is hidden from others until its visibility timeout ends; one that waited for longer is not begun.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from eventcore.engine.batcher import BUFFER_BYTES_MAX, RecordBuffer
from eventcore.engine.gate import ALL
from eventcore.engine.lease_keeper import Lease
from eventcore.engine.queue_context import QueueContext
from eventcore.loop import loop_time
from eventcore.model import Record
from eventcore.ports.sources import Received
from eventcore.ports.store import BODY_BYTES_MAX

#: Messages hidden by one receive: large leases are handed out in batches.
RECEIVE_MAX = 1000
#: Messages are received ahead for so long, at the rate at which they were last handed out, seconds: long enough that
#: nobody waits for the store, and short beside any visibility timeout but 0.
AHEAD_S = 0.25
#: So many messages wait when more are received, at most, or less than a batch. Where handlers never wait, they and the
#: store's thread take the interpreter from each other while both work: done one after the other, with large receives,
#: 80,000 messages a second became 106,000. With 250 and 450 it was the same; at half of a full receive, 500, it is not.
REFILL_AT = 400
#: Messages that were handed out and whose deletion is not durable yet, at most: ten full receives.
UNSETTLED_MAX = 10_000


class QueueIntake:
    """Messages of one mapping between their receive and their invocation."""

    def __init__(self, context: QueueContext) -> None:
        self._context = context
        self._batch_size = context.batching.batch_size
        self._buffer = RecordBuffer(context.batching)
        self._keeps_groups = context.source.capabilities.keeps_groups
        self._is_awaited = False  #: somebody has a free slot, and nothing to do
        self._rest: list[Record] = []  #: of a receive of a FIFO queue, whose batch was full before
        self._leases: dict[str, tuple[int, int]] = {}  #: receipt: received, hidden until; both wall ms
        self._pace = _Pace(self._batch_size)
        #: How large the next message is taken to be: the largest there may be, until some have come.
        self._message_bytes = BODY_BYTES_MAX
        self._unsettled = 0  #: messages
        self._changed = anyio.Event()

    # -- receiving -----------------------------------------------------------------------------------------------------

    def room(self, free_slots: int) -> int:
        """Return how many messages fit: a batch for every free slot, and some ahead, within the bounds.

        None while a batch waits, and more than half of those ahead or than `REFILL_AT`: a receive costs the same for
        one message as for many. Of a FIFO queue a batch, when somebody waits for it: what is received ahead would keep
        its groups from others.
        """
        if self._keeps_groups:
            wanted = self._batch_size if self._is_awaited and not self._buffer else 0
            return min(wanted, self._rate_room())
        ahead = self._pace.ahead()
        count = free_slots * self._batch_size + ahead - len(self._buffer)
        # A batch that waits for its window fills up, whoever is busy.
        refill_at = max(self._batch_size - 1, min(ahead // 2, REFILL_AT))
        if count < ahead - refill_at:
            return 0
        bytes_left = BUFFER_BYTES_MAX - self._buffer.size_bytes
        fitting = min(count, bytes_left // self._message_bytes, UNSETTLED_MAX - self._unsettled, RECEIVE_MAX)
        return min(fitting, self._rate_room())

    def _rate_room(self) -> int:
        """Return how many messages more may begin soon: others would wait, and their visibility timeouts end."""
        rate = self._context.rate
        return RECEIVE_MAX if rate is None else rate.room(AHEAD_S) - len(self._buffer)

    def has_waiting(self) -> bool:
        """Whether a message that was received waits for its invocation."""
        return bool(self._buffer)

    def has_unsettled(self) -> bool:
        """Whether a message that was received is not settled yet."""
        return bool(self._buffer) or self._unsettled > 0

    def note_change(self) -> None:
        """Wake whoever waits for a change."""
        self._changed.set()

    async def wait_change(self) -> None:
        """Wait until there may be more room."""
        self._changed = anyio.Event()
        rate = self._context.rate
        pause_s = rate.pause_s(len(self._buffer) + 1, AHEAD_S) if rate is not None else 0
        # Not for a single message: what comes together is received together.
        with anyio.move_on_after(max(pause_s, AHEAD_S / 2) if pause_s > 0 else None):
            await self._changed.wait()

    def pass_by(self, count: int) -> None:
        """Note that messages were received that no filter lets in: they are to be deleted like those handed out."""
        self._unsettled += count

    def put(self, received: Received) -> None:
        """Take what a receive brought."""
        records = received.records
        sizes = [record.size_bytes for record in records]
        # Half of what was assumed, half of what came: one large message makes the next receives small for a while.
        self._message_bytes = max(1, (self._message_bytes + max(sizes)) // 2)
        lease = (self._context.clock.now_ms(), received.hidden_until_ms)
        self._leases |= dict.fromkeys([record.receipt for record in records], lease)
        self._buffer.put(records)

    # -- handing out ---------------------------------------------------------------------------------------------------

    async def take(self) -> Sequence[Record]:
        """Wait for a batch and take it; empty when closed."""
        self._is_awaited = True
        if self._keeps_groups:
            self._changed.set()
        try:
            return self._taken(await self._buffer.take())
        finally:
            self._is_awaited = False

    def take_ready(self) -> Sequence[Record]:
        """Take the next batch; empty when none is ready, or none may be begun."""
        if self._context.gate.find(ALL) is not None:
            return ()
        return self._taken(self._buffer.take_ready())

    def _taken(self, records: Sequence[Record]) -> Sequence[Record]:
        if records:
            self._pace.count(len(records))
            self._unsettled += len(records)
            if self._keeps_groups:
                # A second batch of these groups would run at the same time.
                while more := self._buffer.take_ready():
                    self._rest += more
            self._changed.set()
        return records

    def take_rest(self) -> Sequence[str]:
        """Return the receipts of messages that are to be shown again at once: their batch was full before, by bytes."""
        rest, self._rest = self._rest, []
        for record in rest:
            del self._leases[record.receipt]
        return [record.receipt for record in rest]

    def take_all(self) -> Sequence[str]:
        """Return the receipts of all that waits for its invocation; it is the caller's to give back."""
        records = [*self._buffer.take_everything(), *self._rest]
        self._rest = []
        for record in records:
            del self._leases[record.receipt]
        return [record.receipt for record in records]

    def give_back(self, records: Sequence[Record]) -> None:
        """Put messages that were taken back in front."""
        self._buffer.give_back(records)
        self.done(len(records))

    def lease(self, records: Sequence[Record]) -> Lease | None:
        """Return the right to those messages of a batch whose visibility timeout has not ended while they waited."""
        now_ms = self._context.clock.now_ms()
        pop = self._leases.pop
        times = [pop(record.receipt) for record in records]
        first = times[0]
        if first[1] > now_ms and times.count(first) == len(times):  # of one receive, as nearly all are
            return Lease(records, received_ms=first[0], hidden_until_ms=first[1])
        held = [record for record, (_, until_ms) in zip(records, times, strict=True) if until_ms > now_ms]
        lost_count = len(records) - len(held)
        self._context.reporter.returned("", lost_count, "the visibility timeout ended before the invocation")
        self.done(lost_count)
        if not held:
            return None
        return Lease(
            held,
            received_ms=min(times)[0],
            hidden_until_ms=min([until_ms for _, until_ms in times if until_ms > now_ms]),
        )

    def done(self, count: int) -> None:
        """Note that messages that were taken are settled, or another's."""
        self._unsettled -= count
        self._changed.set()

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let every `take` return nothing, now and later."""
        self._buffer.close()

    def give_up(self) -> Sequence[str]:
        """Return the receipts of all that is not begun, once."""
        receipts = list(self._leases)
        self._leases.clear()
        return receipts


class _Pace:
    """How many messages to receive ahead: what is handed out within `AHEAD_S`, at least a batch."""

    def __init__(self, batch_size: int) -> None:
        self._least = self._ahead = batch_size
        self._counted = 0
        self._since = loop_time()

    def count(self, messages: int) -> None:
        """Note that messages were handed out."""
        self._counted += messages

    def ahead(self) -> int:
        """Return the number, from what was handed out since it was last asked for."""
        now = loop_time()
        elapsed_s = now - self._since
        if self._counted and elapsed_s > 0:
            self._ahead = max(self._least, min(int(self._counted / elapsed_s * AHEAD_S), RECEIVE_MAX))
            self._counted, self._since = 0, now
        return self._ahead
