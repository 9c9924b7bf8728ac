"""The store's kit: one write of every kind, and everything that can be read."""

from __future__ import annotations

from eventcore.ports.store import (
    AppendRecords,
    DefineQueue,
    DefineStream,
    KeepFailure,
    MoveMessages,
    NewRecord,
    Operation,
    PurgeQueue,
    PutNote,
    PutOutbox,
    QueueSettings,
    ReceiveMessages,
    SaveCheckpoint,
    SendMessages,
    Store,
    StreamSettings,
    TakeShard,
)
from eventcore.testing.conformance.store_kit import NOW_MS, at, define_queue, define_stream, new_messages, read, send
from eventcore.testing.conformance.store_outbox import failure, row
from eventcore.testing.conformance.store_streams import FAILING

#: An operation of every kind that writes, on what `prepare` has made.
WRITES: tuple[Operation, ...] = (
    DefineQueue(queue="new", settings=QueueSettings()),
    SendMessages(queue="orders", messages=new_messages(["x", "y"], idempotency_token="t"), now_ms=NOW_MS),
    SendMessages(queue="orders", messages=new_messages(["z"], delay_s=5), now_ms=NOW_MS),
    ReceiveMessages(queue="orders", count_max=1, now_ms=NOW_MS),
    MoveMessages(source="orders", target="other", count_max=1, now_ms=NOW_MS),
    PurgeQueue(queue="orders"),
    DefineStream(stream="new", settings=StreamSettings()),
    AppendRecords(stream="clicks", records=(NewRecord(shard=0, body=b"x", idempotency_token="t"),), now_ms=NOW_MS),
    TakeShard(mapping="new", shard="s"),
    SaveCheckpoint(mapping="m", shard="s", epoch=1, position=9, state=FAILING),
    PutOutbox(row=row("new")),
    KeepFailure(failure=failure("new")),
    PutNote(name="new", value=b"x"),
)


async def prepare(store: Store) -> None:
    """Make what `WRITES` needs."""
    await define_queue(store)
    await define_queue(store, "other")
    await define_stream(store, shards=1)
    await send(store, "a", "b", "c")
    await store.commit([TakeShard(mapping="m", shard="s")])


async def look(store: Store) -> list[object]:
    """Return everything that can be read."""
    return [
        await store.queue_depths(),
        await store.peek("orders", count_max=100),
        await store.peek("other", count_max=100),
        await store.streams(),
        await store.extents("clicks"),
        await read(store),
        await store.checkpoints(),
        await store.outbox_depths(),
        await store.due_outbox("kafka:local/failed", now_ms=at(10**6), count_max=100),
        await store.failures(),
        await store.note("new"),
    ]
