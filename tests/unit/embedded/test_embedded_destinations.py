"""Embedded queues and streams as destinations: one row a result, in the settling transaction.

Source: design §3.
"""

from collections.abc import Awaitable, Callable

import pytest

from eventcore.clock import LoopClock
from eventcore.delivery.hash_keys import share_of
from eventcore.embedded.destinations import QueueDestination, StreamDestination
from eventcore.errors import FencedOut
from eventcore.ids import SeededIds
from eventcore.ports.destinations import Dispatch
from eventcore.ports.store import (
    BODY_BYTES_MAX,
    DefineQueue,
    DefineStream,
    QueueSettings,
    SaveCheckpoint,
    StoredRecord,
    StreamSettings,
)
from eventcore.store.memory import MemoryStore
from eventcore.testing.virtual_loop import run_virtual

SHARDS = 4
DISPATCH = Dispatch(
    key="k-1", payload=b'{"a": 1}', lane="orders/0", attributes={"eventcore-failure-id": "f-1"}, created_ms=5
)


def virtually(scenario: Callable[[MemoryStore], Awaitable[None]]) -> None:
    async def body() -> None:
        store = MemoryStore()
        await store.commit(
            [
                DefineQueue(queue="failed", settings=QueueSettings(maximum_message_size=1024)),
                DefineStream(stream="audit", settings=StreamSettings(shards=SHARDS)),
            ]
        )
        await scenario(store)

    run_virtual(body)


def queue() -> QueueDestination:
    return QueueDestination("failed", clock=LoopClock(), ids=SeededIds(1))


def stream() -> StreamDestination:
    return StreamDestination("audit", shards=SHARDS, clock=LoopClock())


async def records(store: MemoryStore) -> dict[int, list[StoredRecord]]:
    found = {}
    for shard in range(SHARDS):
        found[shard] = list(await store.read("audit", shard, 0, count_max=100, size_bytes_max=10**9))
    return {shard: entries for shard, entries in found.items() if entries}


def test_references_are_those_of_the_pipeline_file() -> None:
    assert queue().reference == "queue:failed"
    assert stream().reference == "stream:audit"


def test_a_queue_gets_the_payload_with_its_attributes_now() -> None:
    async def scenario(store: MemoryStore) -> None:
        await store.commit(queue().operations(DISPATCH))
        (message,) = await store.peek("failed", count_max=10)
        assert (message.body, message.headers) == (b'{"a": 1}', (("eventcore-failure-id", b"f-1"),))
        # The retention of a message begins when it gets there.
        assert message.sent_ms == LoopClock.START_MS
        assert len(message.id) == 36

    virtually(scenario)


def test_a_stream_gets_the_payload_with_its_key_and_attributes() -> None:
    async def scenario(store: MemoryStore) -> None:
        dispatch = Dispatch(key="k", payload=b"{}", lane="orders/0", record_key=b"customer", attributes={"a": "ü"})
        await store.commit(stream().operations(dispatch))
        ((shard, (record,)),) = (await records(store)).items()
        assert shard == share_of(b"customer", SHARDS)
        assert (record.body, record.key, record.headers) == (b"{}", b"customer", (("a", "ü".encode()),))
        assert record.arrived_ms == LoopClock.START_MS

    virtually(scenario)


def test_results_of_a_lane_without_keys_stay_in_order() -> None:
    """They go to one shard; lanes together use several."""

    async def scenario(store: MemoryStore) -> None:
        for number in range(60):
            dispatch = Dispatch(key=f"k-{number}", payload=b"%d" % number, lane=f"orders/{number % 10}")
            await store.commit(stream().operations(dispatch))
        found = await records(store)
        assert len(found) > 1
        for lane in range(10):
            homes = [
                [int(record.body) for record in entries if int(record.body) % 10 == lane] for entries in found.values()
            ]
            assert [numbers for numbers in homes if numbers] == [[lane + 10 * turn for turn in range(6)]]

    virtually(scenario)


@pytest.mark.parametrize("destination", [queue(), stream()])
def test_a_result_that_is_written_again_changes_nothing(destination: QueueDestination | StreamDestination) -> None:
    """A redelivered batch writes its discard once; another key is another result."""

    async def scenario(store: MemoryStore) -> None:
        for key in ("k-1", "k-1", "k-2", "k-1"):
            await store.commit(destination.operations(Dispatch(key=key, payload=b"{}", lane="orders/0")))
        kept = len(await store.peek("failed", count_max=10)) + sum(map(len, (await records(store)).values()))
        assert kept == 2

    virtually(scenario)


@pytest.mark.parametrize("destination", [queue(), stream()])
def test_nothing_is_written_when_the_settling_transaction_is_refused(
    destination: QueueDestination | StreamDestination,
) -> None:
    async def scenario(store: MemoryStore) -> None:
        fenced = SaveCheckpoint(mapping="m", shard="s", epoch=7, position=1)
        with pytest.raises(FencedOut):
            await store.commit([*destination.operations(DISPATCH), fenced])
        assert not await store.peek("failed", count_max=10)
        assert not await records(store)
        await store.commit(destination.operations(DISPATCH))
        assert len(await store.peek("failed", count_max=10)) + len(await records(store)) == 1

    virtually(scenario)


def test_a_queue_takes_what_its_senders_may_not_send() -> None:
    """Its `maximum_message_size` would otherwise block the shard that gives up."""

    async def scenario(store: MemoryStore) -> None:
        large = Dispatch(key="k", payload=b"x" * BODY_BYTES_MAX, lane="orders/0")
        await store.commit(queue().operations(large))
        assert len(await store.peek("failed", count_max=10)) == 1

    virtually(scenario)
