"""How messages get into an embedded queue."""

from __future__ import annotations

from collections.abc import Sequence

from eventcore.clock import Clock
from eventcore.errors import CommandError
from eventcore.ids import IdFactory
from eventcore.ports.connectors import OutgoingRecord
from eventcore.ports.store import NewMessage, SendMessages, Store

#: Messages of one `send_messages`: they are one transaction, held in memory twice.
SEND_MAX = 10_000
#: The longest delay of a message, seconds (Lambda semantics §3.2).
DELAY_MAX_S = 900


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
