"""The embedded queue: a queue of the store, read as a `QueueSource`; and how messages get into it.

Messages, leases, counts and redrive are the store's; here is what needs a loop: the long poll, and deletes that share
a transaction with the next receive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio

from eventcore.clock import Clock
from eventcore.delivery.visibility import VISIBILITY_MAX_S
from eventcore.embedded.shapes import SqsShape, queue_arn
from eventcore.errors import CommandError, EventcoreError, SourceClosed, SourceUnavailable, StoreUnavailable
from eventcore.ids import IdFactory
from eventcore.model import Record, TimestampKind
from eventcore.ports.connectors import OutgoingRecord
from eventcore.ports.sources import EventShape, QueueCapabilities, Received, Redrive
from eventcore.ports.store import (
    DEAD_LETTER_SOURCE,
    ChangeVisibility,
    DeleteMessages,
    NewMessage,
    Operation,
    ReceiveMessages,
    ReceiveResult,
    SendMessages,
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
#: The longest delay of a message, seconds (Lambda semantics §3.2).
DELAY_MAX_S = 900
#: A delete waits this long for another commit of its queue to carry it, seconds (design §3).
DELETE_WAIT_S = 0.005
#: Receipts that one commit carries beside its own work: ten full receives.
CARRIED_RECEIPTS_MAX = 10_000
#: A commit that carries others' deletes is not cancelled with its caller, for at most this long, seconds; a commit
#: takes milliseconds, and a store that is stuck must not keep an engine from stopping.
COMMIT_SHIELD_S = 5.0
#: Messages of one `send_messages`: they are one transaction, held in memory twice.
SEND_MAX = 10_000


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
        self._deletes = _DeleteBuffer()
        self._redriven: list[Redrive] = []
        self._expired: list[str] = []

    async def receive(self, records_max: int, *, wait_s: float, visibility_timeout_s: int | None = None) -> Received:
        """Receive up to ``records_max`` messages and hide them; see `QueueSource.receive`.

        Returns without a message before ``wait_s`` is over when its redrive policy took one away.
        """
        request = (max(1, min(records_max, self.capabilities.receive_max)), visibility_timeout_s)
        deadline = anyio.current_time() + wait_s
        async with self._store.watch(f"queue:{self.name}") as watch:
            while not self._is_closed:
                result = await self._receive_once(*request)
                remaining_s = deadline - anyio.current_time()
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
        if not carried:
            return (await self._write(operations))[-1]
        receipts = tuple([receipt for delete in carried for receipt in delete.receipts])
        failure: EventcoreError = SourceUnavailable("the store does not answer", source=self.name)
        try:
            # Others wait for their deletes in it: it must not end with this caller alone.
            with anyio.move_on_after(COMMIT_SHIELD_S, shield=True):
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
    return next((value.decode() for name, value in headers if name == DEAD_LETTER_SOURCE), "")


class _Delete:
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
        if self._failure is not None:
            raise self._failure
        return self._spent


class _DeleteBuffer:
    """Deletes that wait to be carried by a commit, in order. The first of them leads."""

    def __init__(self) -> None:
        self._waiting: list[_Delete] = []

    def add(self, receipts: Sequence[str]) -> _Delete:
        delete = _Delete(receipts)
        self._waiting.append(delete)
        self._appoint()
        return delete

    def withdraw(self, delete: _Delete) -> None:
        """Take a delete out whose caller no longer waits, if no commit has it yet."""
        if not delete.taken.is_set():
            self._waiting.remove(delete)
            self._appoint()

    def take(self) -> list[_Delete]:
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


async def send_messages(
    store: Store,
    queue: str,
    records: Sequence[OutgoingRecord],
    *,
    clock: Clock,
    ids: IdFactory,
    delay_s: int | None = None,
    deduplication_id: str = "",
) -> list[str]:
    """Send messages to an embedded queue, all or none, and return their ids in order once they are durable.

    A FIFO queue returns for a duplicate the id of the message that was sent before (Lambda semantics §3.2).

    Args:
        store: holds the queue.
        queue: its name.
        records: at most `SEND_MAX`; a key becomes the message group, in UTF-8.
        clock: for the time they were sent.
        ids: for the messages' ids.
        delay_s: seconds before they show, 0-900; None for the queue's own.
        deduplication_id: FIFO queues only: of every one of them; empty for that of their content.

    Raises:
        CommandError: there is no such queue; a message is longer than its `maximum_message_size`, or is not of the
            queue's type; a delay is out of range.
        StoreUnavailable: nothing was sent.
    """
    if len(records) > SEND_MAX:
        raise CommandError(f"at most {SEND_MAX} messages can be sent at once, not {len(records)}")
    if delay_s is not None and not 0 <= delay_s <= DELAY_MAX_S:
        raise CommandError(f"a delay is 0-{DELAY_MAX_S} seconds, not {delay_s}")
    if not records:
        return []
    messages = tuple([_new_message(record, ids.new_id(), delay_s, deduplication_id) for record in records])
    send = SendMessages(queue=queue, messages=messages, now_ms=clock.now_ms(), is_bounded=True)
    try:
        sent: list[str]
        (sent,) = await store.commit([send])
    except KeyError as error:
        raise CommandError(f"there is no queue {queue}") from error
    except ValueError as error:
        raise CommandError(f"One or more parameters are invalid. Reason: {error}") from error
    return sent


def _new_message(record: OutgoingRecord, message_id: str, delay_s: int | None, deduplication_id: str) -> NewMessage:
    group = record.key.decode(errors="backslashreplace") if record.key else ""
    return NewMessage(
        id=message_id,
        body=record.body,
        headers=record.headers,
        group=group,
        delay_s=delay_s,
        deduplication_id=deduplication_id,
    )
