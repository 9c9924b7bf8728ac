"""The embedded queue: a queue of the store, read as a `QueueSource`.

Messages, leases, counts and redrive are the store's; here is what needs a loop: the long poll, and deletes that share
a transaction with the next receive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import anyio.lowlevel

from eventcore.clock import Clock
from eventcore.delivery.visibility import VISIBILITY_MAX_S
from eventcore.embedded.deletes import DeleteBuffer
from eventcore.embedded.sending import DELAY_MAX_S
from eventcore.embedded.shapes import SqsShape, queue_arn
from eventcore.errors import EventcoreError, SourceClosed, SourceUnavailable, StoreUnavailable
from eventcore.loop import loop_time
from eventcore.model import Record, TimestampKind
from eventcore.ports.sources import EventShape, QueueCapabilities, Received, Redrive
from eventcore.ports.store import (
    DEAD_LETTER_SOURCE,
    ChangeVisibility,
    DeleteMessages,
    Operation,
    ReceiveMessages,
    ReceiveResult,
    Store,
    StoredMessage,
    Watch,
)
from eventcore.store.rules import Headers, without_source

#: Messages of one receive: about 10 ms of the writer; larger leases would make other commits wait behind them.
RECEIVE_MAX = 1000
#: Messages of one receive of a FIFO queue: those of a group wait for each other (Lambda semantics §3.1 "BatchSize").
FIFO_RECEIVE_MAX = 10
#: Digits of a FIFO queue's sequence numbers (§3.2).
_SEQUENCE_DIGITS = 20
#: What a message of a dead-letter queue has (§3.1 "Event shape").
_SOURCE_ARN = "DeadLetterQueueSourceArn"
#: A delete waits this long for another commit of its queue to carry it, seconds (design §3).
DELETE_WAIT_S = 0.005
#: A commit that receives, or carries others' deletes, is not cancelled with its caller, for at most this long, seconds:
#: it takes milliseconds, and a store that is stuck must not keep an engine from stopping.
COMMIT_SHIELD_S = 5.0


class EmbeddedQueue:
    """One queue of the store. Open when made; `aclose` ends waiting receives; not reusable after that.

    Any number of receives, deletes and changes may run at the same time.
    """

    shape: EventShape

    def __init__(
        self, name: str, *, store: Store, clock: Clock, region: str, account_id: str, is_fifo: bool = False
    ) -> None:
        self.name = name
        self.shape = SqsShape(queue_arn(name, region=region, account_id=account_id, is_fifo=is_fifo))
        self.capabilities = QueueCapabilities(
            receive_max=FIFO_RECEIVE_MAX if is_fifo else RECEIVE_MAX,
            delay_s_max=0 if is_fifo else DELAY_MAX_S,
            survives_restart=store.capabilities.is_durable,
            keeps_groups=is_fifo,
        )
        self._store = store
        self._clock = clock
        self._region = region
        self._account_id = account_id
        self._is_closed = False
        self._pauses: list[anyio.CancelScope] = []
        self._deletes = DeleteBuffer()
        self._redriven: list[Redrive] = []
        self._expired: list[str] = []

    async def receive(self, records_max: int, *, wait_s: float, visibility_timeout_s: int | None = None) -> Received:
        """Receive up to ``records_max`` messages and hide them; see `QueueSource.receive`.

        Returns without a message before ``wait_s`` is over when its redrive policy took one away. Cancelled while the
        store works, it returns what was hidden all the same: those messages are the caller's to give back.
        """
        # The commit is shielded: who is cancelled already must not begin one.
        await anyio.lowlevel.checkpoint_if_cancelled()
        request = (max(1, min(records_max, self.capabilities.receive_max)), visibility_timeout_s)
        deadline = loop_time() + wait_s
        async with self._store.watch(f"queue:{self.name}") as watch:
            while not self._is_closed:
                result = await self._receive_once(*request)
                remaining_s = deadline - loop_time()
                if result.messages or self._redriven or remaining_s <= 0:
                    return self._report(result.messages)
                if result.next_visible_ms:
                    until_visible_s = (result.next_visible_ms - self._clock.now_ms()) / 1000
                    remaining_s = min(remaining_s, until_visible_s)
                await self._wait(watch, remaining_s)
        raise SourceClosed(f"the queue {self.name} was closed", source=self.name)

    async def _wait(self, watch: Watch, pause_s: float) -> None:
        """Wait until there may be something to receive, or the queue is closed."""
        if self._is_closed:
            return
        with anyio.move_on_after(pause_s) as pause:
            self._pauses.append(pause)
            try:
                await watch.wait()
            finally:
                self._pauses.remove(pause)

    async def _receive_once(self, count_max: int, visibility_timeout_s: int | None) -> ReceiveResult:
        operation = ReceiveMessages(
            queue=self.name,
            count_max=count_max,
            now_ms=self._clock.now_ms(),
            visibility_timeout_s=visibility_timeout_s,
        )
        result: ReceiveResult = await self._commit(operation)
        # Kept until a receive returns them: a cancelled one must not lose what happened.
        self._redriven.extend([Redrive(moved.id, moved.receive_count, moved.target) for moved in result.moved])
        self._expired.extend(result.expired)
        return result

    def _report(self, messages: Sequence[StoredMessage]) -> Received:
        received = Received(
            records=self._records(messages),
            hidden_until_ms=messages[0].visible_ms if messages else 0,
            redriven=self._redriven,
            expired=self._expired,
        )
        self._redriven, self._expired = [], []
        return received

    def _records(self, messages: Sequence[StoredMessage]) -> list[Record]:
        records: list[Record] = []
        facts: object = None
        attributes: Mapping[str, str] = {}
        for message in messages:
            key = message.group.encode() if message.group else None
            before, facts = facts, (message.sent_ms, message.receive_count, message.first_receive_ms, key)
            # Messages of one moment share theirs: making it takes as long as all the rest.
            if facts != before or message.deduplication_id:
                attributes = self._attributes(message)
            headers, own = message.headers, attributes
            if headers and (source := _dead_letter_source(headers)):
                headers, own = without_source(headers), {**attributes, _SOURCE_ARN: self._arn(source)}
            records.append(
                Record(
                    position=message.number,
                    body=message.body,
                    key=key,
                    arrived_ms=message.sent_ms,
                    headers=headers,
                    size_bytes=SqsShape.size_bytes(message.body, headers),
                    timestamp_kind=TimestampKind.LOG_APPEND_TIME,
                    id=message.id,
                    receipt=message.receipt,
                    attributes=own,
                )
            )
        return records

    def _arn(self, queue: str) -> str:
        """Return the ARN of a queue of the same type."""
        return queue_arn(
            queue, region=self._region, account_id=self._account_id, is_fifo=self.capabilities.keeps_groups
        )

    def _attributes(self, message: StoredMessage) -> Mapping[str, str]:
        attributes = {
            "ApproximateReceiveCount": str(message.receive_count),
            "SentTimestamp": str(message.sent_ms),
            "SenderId": self._account_id,
            "ApproximateFirstReceiveTimestamp": str(message.first_receive_ms),
        }
        if message.group:
            attributes["MessageGroupId"] = message.group
        if message.deduplication_id:
            attributes["MessageDeduplicationId"] = message.deduplication_id
            attributes["SequenceNumber"] = f"{message.number:0{_SEQUENCE_DIGITS}d}"
        return attributes

    async def delete(self, receipts: Sequence[str]) -> Sequence[str]:
        """Delete messages by receipt; return the receipts that no longer own theirs (those were not deleted).

        Returns when the deletion is durable. It waits up to 5 ms for a receive of this queue, whose transaction then
        carries it, and else makes its own, with what others have waiting. Cancelled, it may or may not have happened.

        Raises:
            SourceUnavailable: the store can't write; they may or may not be deleted.
            SourceClosed: the queue was deleted.
        """
        if not receipts:
            return ()
        delete = self._deletes.add(receipts)
        try:
            if not delete.leads:
                await delete.turn.wait()
            if not delete.done.is_set():
                with anyio.move_on_after(DELETE_WAIT_S):
                    await delete.taken.wait()
                while not delete.taken.is_set():
                    await self._commit()
                await delete.done.wait()
        finally:
            self._deletes.withdraw(delete)
        return delete.result()

    async def hand_back(self, receipts: Sequence[str], *, hidden_s: int = 0) -> None:
        """Show messages as if they had not been received; see `QueueSource.hand_back`.

        Raises:
            SourceUnavailable: the store can't write; nothing was changed.
            SourceClosed: the queue was deleted.
        """
        if receipts:
            await self._commit(
                ChangeVisibility(
                    queue=self.name,
                    receipts=tuple(receipts),
                    timeout_s=hidden_s,
                    now_ms=self._clock.now_ms(),
                    is_uncounted=True,
                )
            )

    async def change_visibility(self, receipts: Sequence[str], timeout_s: int) -> Mapping[str, str]:
        """Hide received messages for ``timeout_s`` seconds counted from now; see `QueueSource.change_visibility`.

        Raises:
            ValueError: ``timeout_s`` is not within 0-43,200.
            SourceUnavailable: the store can't write; nothing was changed.
            SourceClosed: the queue was deleted.
        """
        if not 0 <= timeout_s <= VISIBILITY_MAX_S:
            raise ValueError(f"a visibility timeout is 0-{VISIBILITY_MAX_S} seconds, not {timeout_s}")
        if not receipts:
            return {}
        renewed: Mapping[str, str] = await self._commit(
            ChangeVisibility(
                queue=self.name, receipts=tuple(receipts), timeout_s=timeout_s, now_ms=self._clock.now_ms()
            )
        )
        return renewed

    async def aclose(self) -> None:
        """End waiting receives with `SourceClosed`. Messages that are still hidden come back by themselves."""
        self._is_closed = True
        for pause in self._pauses:
            pause.cancel()

    async def _commit(self, *operations: Operation) -> Any:
        """Commit operations together with waiting deletes; return the last one's result."""
        carried = self._deletes.take()
        if not carried and not any(isinstance(each, ReceiveMessages) for each in operations):
            return (await self._write(operations))[-1]
        receipts = tuple([receipt for delete in carried for receipt in delete.receipts])
        failure: EventcoreError = SourceUnavailable("the store does not answer", source=self.name)
        try:
            # Others wait for their deletes in it: it must not end with this caller alone. And a receive that is
            # cancelled once the store has begun would hide messages that nobody has.
            with anyio.move_on_after(COMMIT_SHIELD_S, shield=True):
                if not carried:
                    return (await self._write(operations))[-1]
                delete = DeleteMessages(queue=self.name, receipts=receipts, now_ms=self._clock.now_ms())
                results = await self._write([delete, *operations])
                spent = frozenset(results[0])
                for each in carried:
                    each.finish(spent)
                return results[-1]
            raise failure
        except EventcoreError as error:
            failure = error
            raise
        finally:
            for each in carried:
                each.fail(failure)

    async def _write(self, operations: Sequence[Operation]) -> list[Any]:
        try:
            return await self._store.commit(operations)
        except StoreUnavailable as error:
            raise SourceUnavailable(error.message, source=self.name) from error
        except KeyError as error:
            raise SourceClosed(f"there is no queue {self.name}", source=self.name) from error


def _dead_letter_source(headers: Headers) -> str:
    """Return the queue from which a message came to its dead-letter queue; empty for one that was sent there."""
    return next((value.decode(errors="replace") for name, value in headers if name == DEAD_LETTER_SOURCE), "")
