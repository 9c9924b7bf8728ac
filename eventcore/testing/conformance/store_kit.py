"""What the parts of the store's kit share: how a store is opened, and the words their scenarios use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from eventcore.ports.store import (
    AppendRecords,
    DefineQueue,
    DefineStream,
    NewMessage,
    NewRecord,
    Operation,
    QueueDepth,
    QueueSettings,
    ReceiveMessages,
    ReceiveResult,
    SendMessages,
    Store,
    StoredMessage,
    StoredRecord,
    StreamSettings,
    Watch,
)

#: The wall time at which every scenario begins; a store reads no clock.
NOW_MS = 1_767_225_600_000
#: Visibility timeout of the queues that a test does not define otherwise: the default of `QueueSettings`, seconds.
VISIBILITY_S = 30
DAY_S = 86_400
#: Whatever a test waits for has happened by then, seconds.
HAPPENS_WITHIN_S = 30.0
#: Turns of the event loop after which a task that could run has run.
TURNS = 50

Scenario = Callable[[Store], Awaitable[None]]


class StoreKit:
    """Opens a store for each test. Not collected itself."""

    folder: Path  #: of this test, empty at its beginning

    @pytest.fixture(autouse=True)
    def _own_folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def open_store(self) -> AbstractAsyncContextManager[Store]:
        """Open the store that lives in `folder`; override. A durable one is opened again by some tests."""
        raise NotImplementedError

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        """Run a coroutine to its end; override for another kind of loop."""
        anyio.run(body)

    def check(self, *scenarios: Scenario) -> None:
        """Run scenarios one after another, the store closed and opened again between them."""

        async def body() -> None:
            for scenario in scenarios:
                async with self.open_store() as store:
                    await scenario(store)

        self.run(body)

    def check_restart(self, before: Scenario, after: Scenario) -> None:
        """Run two scenarios with a restart between them; skip where the store does not outlive one."""

        async def is_durable() -> None:
            async with self.open_store() as store:
                durable.append(store.capabilities.is_durable)

        durable: list[bool] = []
        self.run(is_durable)
        if not durable[0]:
            pytest.skip("capability not claimed: is_durable")
        self.check(before, after)


# -- words -------------------------------------------------------------------------------------------------------------


async def commit_one(store: Store, operation: Operation) -> Any:
    """Commit one operation and return its result."""
    (result,) = await store.commit([operation])
    return result


async def define_queue(store: Store, queue: str = "orders", **settings: Any) -> None:
    """Define a queue."""
    await store.commit([DefineQueue(queue=queue, settings=QueueSettings(**settings))])


def new_messages(ids: Iterable[str], **fields: Any) -> tuple[NewMessage, ...]:
    """Return messages whose bodies are their ids."""
    return tuple(NewMessage(id=message_id, body=message_id.encode(), **fields) for message_id in ids)


async def send(store: Store, *ids: str, queue: str = "orders", after_s: float = 0, **fields: Any) -> list[str]:
    """Send messages; return the ids of the new ones."""
    operation = SendMessages(queue=queue, messages=new_messages(ids, **fields), now_ms=at(after_s))
    new: list[str] = await commit_one(store, operation)
    return new


async def receive(
    store: Store,
    *,
    queue: str = "orders",
    count_max: int = 100,
    after_s: float = 0,
    timeout_s: int | None = None,
) -> ReceiveResult:
    """Receive messages."""
    result: ReceiveResult = await commit_one(
        store,
        ReceiveMessages(queue=queue, count_max=count_max, now_ms=at(after_s), visibility_timeout_s=timeout_s),
    )
    return result


async def received_ids(store: Store, **arguments: Any) -> list[str]:
    """Receive messages; return their ids."""
    return ids((await receive(store, **arguments)).messages)


async def depth(store: Store, queue: str = "orders") -> QueueDepth:
    """Return a queue's depth."""
    (found,) = [entry for entry in await store.queue_depths() if entry.queue == queue]
    return found


async def counts(store: Store, queue: str = "orders") -> tuple[int, int, int]:
    """Return how many messages of a queue are visible, hidden and delayed."""
    found = await depth(store, queue)
    return found.visible, found.hidden, found.delayed


async def define_stream(store: Store, stream: str = "clicks", **settings: Any) -> None:
    """Define a stream."""
    await store.commit([DefineStream(stream=stream, settings=StreamSettings(**settings))])


async def append(
    store: Store, *bodies: bytes, stream: str = "clicks", shard: int = 0, after_s: float = 0, **fields: Any
) -> list[int]:
    """Append records to one shard; return their positions."""
    records = tuple(NewRecord(shard=shard, body=body, **fields) for body in bodies)
    positions: list[int] = await commit_one(store, AppendRecords(stream=stream, records=records, now_ms=at(after_s)))
    return positions


async def read(store: Store, position: int = 0, *, shard: int = 0, **bounds: int) -> Sequence[StoredRecord]:
    """Read records of the stream `clicks`."""
    limits = {"count_max": 1000, "size_bytes_max": 1_000_000, **bounds}
    return await store.read("clicks", shard, position, **limits)


def ids(messages: Iterable[StoredMessage]) -> list[str]:
    """Return the ids of messages, in order."""
    return [message.id for message in messages]


def receipts(result: ReceiveResult) -> tuple[str, ...]:
    """Return the receipts of a receive, in order."""
    return tuple(message.receipt for message in result.messages)


def at(after_s: float) -> int:
    """Return the wall time a number of seconds after the scenario's beginning, in milliseconds."""
    return NOW_MS + round(after_s * 1000)


class Woken:
    """Counts how often a watch has woken its task."""

    def __init__(self) -> None:
        self.count = 0

    async def settle(self) -> int:
        """Let every task run that can; return the count."""
        for _ in range(TURNS):
            await anyio.lowlevel.checkpoint()
        return self.count

    async def follow(self, watch: Watch) -> None:
        """Wait again and again."""
        while True:
            await watch.wait()
            self.count += 1


@asynccontextmanager
async def watched(store: Store, topic: str) -> AsyncIterator[Woken]:
    """Watch a topic in a task of its own."""
    woken = Woken()
    async with store.watch(topic) as watch, anyio.create_task_group() as tasks:
        tasks.start_soon(woken.follow, watch)
        await woken.settle()
        yield woken
        tasks.cancel_scope.cancel()
