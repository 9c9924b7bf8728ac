"""Filter criteria: what matches none is settled without an invocation (Lambda semantics §3.1, §4, §5.1, §6.4)."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

import eventcore
from eventcore.clock import LoopClock
from eventcore.embedded.sending import send_messages
from eventcore.engine.queue_intake import UNSETTLED_MAX
from eventcore.ids import SeededIds
from eventcore.model import OutgoingRecord, Record
from eventcore.patterns.criteria import DATA_KEYS, METADATA_KEYS
from eventcore.ports.store import (
    DefineQueue,
    DropFailures,
    Operation,
    QueueSettings,
    ReceiveMessages,
    Store,
)
from eventcore.store.memory import open_memory_store
from eventcore.telemetry.events import RecordsFiltered
from eventcore.testing import Scripted
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.orders import play, queue_app, stream_app
from tests.behaviours.scripted_source import ScriptedStore, ScriptedStream, Settled, play_scripted, scripted_app


def criteria(*patterns: Any) -> dict[str, Any]:
    return {"filters": [{"pattern": pattern} for pattern in patterns]}


PAID = criteria({"data": {"status": ["paid"]}})


class Work:
    """A handler that remembers the ids of each invocation, and fails with those it is told to."""

    def __init__(self, *, failing: tuple[int, ...] = ()) -> None:
        self.calls: list[list[int]] = []
        self.failing = set(failing)

    async def __call__(self, event: dict[str, Any], context: Any) -> None:
        bodies = [
            b64decode(record["kinesis"]["data"]) if "kinesis" in record else record["body"]
            for record in event["Records"]
        ]
        self.calls.append([json.loads(body)["id"] for body in bodies])
        if self.failing.intersection(self.calls[-1]):
            raise ValueError("poison")


def order(number: int, status: str) -> str:
    return json.dumps({"id": number, "status": status})


async def send(harness: Harness, *statuses: str, to: str = "stream:orders", key: str | None = "k") -> None:
    """Send orders with these statuses, numbered from 1."""
    await harness.send(to, [order(number, status) for number, status in enumerate(statuses, 1)], key=key)


async def shard(harness: Harness) -> Any:
    (mapping,) = (await harness.status()).mappings
    (found,) = mapping.shards
    return found


async def counters(harness: Harness) -> Any:
    (mapping,) = (await harness.status()).mappings
    assert mapping.counters is not None
    assert mapping.counters.is_balanced, mapping.counters
    return mapping.counters


def handler(work: Work) -> Any:
    async def run(event: dict[str, Any], context: Any) -> None:
        await work(event, context)

    return run


# -- streams -----------------------------------------------------------------------------------------------------------


def test_batches_are_made_of_what_matches() -> None:
    """A batch is full when so many match; the others are counted as filtered, and the checkpoint passes them."""
    work = Work()

    async def scenario(harness: Harness) -> None:
        await send(harness, *["paid", "open", "open"] * 4, "open")
        await harness.run_until_idle()
        seen = await counters(harness)
        assert (seen.received, seen.settled, seen.filtered, seen.in_flight) == (13, 4, 9, 0)
        assert (await shard(harness)).checkpoint == 13

    app = stream_app(handler(work), batch_size=2, maximum_batching_window_in_seconds=1, filter_criteria=PAID)
    harness = play(app, scenario)
    assert work.calls == [[1, 4], [7, 10]]
    assert sum(event.count for event in harness.events(RecordsFiltered)) == 9


@pytest.mark.parametrize("lanes", [None, 10])
def test_a_shard_of_which_nothing_matches_moves_on(lanes: int | None) -> None:
    """Its checkpoint follows what comes, without any invocation: a restart does not read it all again."""
    work = Work()

    async def scenario(harness: Harness) -> None:
        for end in (3, 6):
            await send(harness, "open", "open", "open")
            await harness.run_until_idle()
            assert (await shard(harness)).checkpoint == end
        assert (await counters(harness)).filtered == 6

    play(stream_app(handler(work), filter_criteria=PAID, lanes=lanes), scenario)
    assert work.calls == []


@pytest.mark.parametrize("lanes", [None, 10])
def test_what_fails_holds_the_checkpoint_whatever_is_filtered_behind_it(lanes: int | None) -> None:
    """And in front of it: the checkpoint stands at the first record that is not settled."""
    work = Work(failing=(3,))

    async def scenario(harness: Harness) -> None:
        await send(harness, "open", "open", "paid", "open", "open")
        await harness.advance(5)
        assert (await shard(harness)).checkpoint == 2
        await counters(harness)
        work.failing.clear()
        await harness.run_until_idle()
        assert (await shard(harness)).checkpoint == 5
        seen = await counters(harness)
        assert (seen.settled, seen.filtered, seen.retrying) == (1, 4, 0)

    play(stream_app(handler(work), filter_criteria=PAID, lanes=lanes), scenario)
    assert set(map(tuple, work.calls)) == {(3,)}


@pytest.mark.parametrize("lanes", [None, 10])
def test_retries_and_splits_go_on_as_without_a_filter(lanes: int | None) -> None:
    """The record that fails is isolated among those that match, and given up alone."""
    work = Work(failing=(5,))

    async def scenario(harness: Harness) -> None:
        await send(harness, *["paid", "open"] * 4)
        await harness.run_until_idle()
        seen = await counters(harness)
        assert (seen.settled, seen.filtered, sum(seen.discarded.values())) == (3, 4, 1)
        assert (await shard(harness)).checkpoint == 8
        (discard,) = await harness.messages("failed")
        batch = json.loads(discard.body)["KinesisBatchInfo"]
        assert batch["batchSize"] == 1

    app = stream_app(
        handler(work),
        batch_size=4,
        maximum_retry_attempts=1,
        bisect_batch_on_function_error=True,
        filter_criteria=PAID,
        lanes=lanes,
    )
    play(app, scenario)


def test_one_of_several_filters_is_enough_and_all_keys_of_one_are_needed() -> None:
    """Filters are alternatives; what one of them says of data and of the rest must hold together."""
    work = Work()

    async def scenario(harness: Harness) -> None:
        await send(harness, "paid", "open", key="a")
        await send(harness, "paid", "open", key="b")
        await harness.run_until_idle()

    first = {"partitionKey": ["a"], "data": {"status": ["open"]}}
    second = json.dumps({"partitionKey": [{"prefix": "b"}]})
    play(stream_app(handler(work), filter_criteria=criteria(first, second)), scenario)
    assert work.calls in ([[2], [1, 2]], [[2, 1, 2]])


def test_plain_data_never_matches_a_pattern_for_json() -> None:
    work = Work()

    async def scenario(harness: Harness) -> None:
        await harness.send("stream:orders", ["plain", "[]", "1", b"\xff\xfe", "", order(6, "paid")], key="k")
        await harness.run_until_idle()
        assert (await counters(harness)).filtered == 5

    play(stream_app(handler(work), filter_criteria=PAID), scenario)
    assert work.calls == [[6]]


# -- queues ------------------------------------------------------------------------------------------------------------


def test_messages_that_do_not_match_are_deleted() -> None:
    """Without an invocation (trap 15): they are not there for another mapping, nor for a later filter."""
    work = Work()

    async def scenario(harness: Harness) -> None:
        await send(harness, *["paid", "open"] * 10, to="queue:orders", key=None)
        await harness.run_until_idle()
        assert await harness.messages("orders") == []
        seen = await counters(harness)
        assert (seen.received, seen.settled, seen.filtered, seen.in_flight) == (20, 10, 10, 0)

    play(queue_app(handler(work), filter_criteria=criteria({"body": {"status": ["paid"]}})), scenario)
    assert sorted(each for call in work.calls for each in call) == [*range(1, 20, 2)]


def test_a_queue_of_which_nothing_matches_is_emptied() -> None:
    work = Work()

    async def scenario(harness: Harness) -> None:
        await send(harness, "open", "open", to="queue:orders", key=None)
        await harness.run_until_idle()
        assert await harness.messages("orders") == []
        assert (await counters(harness)).filtered == 2

    play(queue_app(handler(work), filter_criteria=criteria({"body": {"status": ["paid"]}})), scenario)
    assert work.calls == []


def test_a_plain_pattern_takes_plain_messages_alone() -> None:
    """A body that is JSON never matches it (Lambda semantics §3.1 "Filtering")."""
    bodies: list[str] = []

    async def run(event: dict[str, Any], context: Any) -> None:
        bodies.extend(record["body"] for record in event["Records"])

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:orders", ["paid: 1", "open: 2", '{"a": "paid: 3"}'])
        await harness.run_until_idle()

    play(queue_app(run, filter_criteria=criteria({"body": [{"prefix": "paid"}, {"prefix": "{"}]})), scenario)
    assert bodies == ["paid: 1"]


def test_messages_are_filtered_by_what_the_queue_says_of_them() -> None:
    """Attributes of the record, as they stand in the event."""
    groups: list[str] = []

    async def run(event: dict[str, Any], context: Any) -> None:
        groups.extend(record["attributes"]["MessageGroupId"] for record in event["Records"])

    async def scenario(harness: Harness) -> None:
        for group in ("a", "b", "c"):
            await harness.send("queue:orders", ["x"], key=group)
        await harness.run_until_idle()

    pattern = {"attributes": {"MessageGroupId": [{"anything-but": ["b"]}]}}
    play(queue_app(run, filter_criteria=criteria(pattern)), scenario)
    assert sorted(groups) == ["a", "c"]


def test_a_message_that_failed_and_then_matches_no_more_leaves_no_failure_behind() -> None:
    """The filter is of the mapping, and a mapping's settings may change between two receives."""
    work = Work(failing=(1,))

    async def scenario(harness: Harness) -> None:
        await send(harness, "paid", to="queue:orders", key=None)
        await harness.advance(1)
        (failure,) = await harness.failures()
        assert not failure.is_final
        await harness.run_until_idle()
        assert await harness.failures() == []
        assert await harness.messages("orders") == []

    # Received once, it matches; received twice, it does not.
    pattern = {"body": {"status": ["paid"]}, "attributes": {"ApproximateReceiveCount": ["1"]}}
    play(queue_app(handler(work), queue={"visibility_timeout": 5}, filter_criteria=criteria(pattern)), scenario)
    assert work.calls == [[1]]


# -- what filtering costs ----------------------------------------------------------------------------------------------


def test_a_checkpoint_moves_with_a_batch_and_not_once_more_for_what_was_filtered_before_it() -> None:
    """Records that no filter lets in cost no write of their own when one behind them is let in."""
    log = [
        Record(position=position, body=order(position, status).encode(), size_bytes=50)
        for position, status in enumerate(("open", "paid", "open", "paid", "open"))
    ]
    stream = ScriptedStream({"0": log}, receive_max=2)
    is_settling = anyio.Event()

    async def hold_second_receive() -> None:
        if stream.source.owned["0"]:
            await is_settling.wait()

    async def settle_slowly(settled: Settled) -> None:
        if settled.checkpoint == 2:
            is_settling.set()
        await anyio.sleep(1.0)

    async def scenario(harness: Harness) -> None:
        await harness.run_until_idle()
        assert work.calls == [[1], [3]]
        assert [settled.checkpoint for settled in stream.settled] == [1, 2, 5]  # 1: the first batch's mark

    work = Work()
    stream.on_receive, stream.on_settle = hold_second_receive, settle_slowly
    play_scripted(
        scripted_app(handler(work), filter_criteria=criteria({"value": {"status": ["paid"]}})), scenario, stream
    )


def test_filtered_messages_that_are_not_deleted_yet_are_bounded() -> None:
    """Received are as many as may be unsettled, whatever no filter lets in.

    Before a message is deleted that was received before, the store is asked to forget its failure: that stalls here.
    """
    count = UNSETTLED_MAX + 5000
    clock, ids = LoopClock(), SeededIds(0)

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        if any(isinstance(operation, DropFailures) for operation in operations):
            await anyio.sleep(5.0)
        return await store.commit(operations)

    async def fill(store: Store) -> None:
        await store.commit([DefineQueue(queue="orders", settings=QueueSettings())])
        bodies = [OutgoingRecord(body=order(number, "open").encode()) for number in range(1000)]
        for _ in range(count // 1000):
            await send_messages(store, "orders", bodies, clock=clock, ids=ids)
        receive = ReceiveMessages(queue="orders", count_max=1000, now_ms=clock.now_ms(), visibility_timeout_s=1)
        for _ in range(count // 1000):
            await store.commit([receive])
        await anyio.sleep(1.0)

    async def run() -> None:
        async with open_memory_store() as memory:
            await fill(memory)
            async with open_harness(app, store=ScriptedStore(memory, commit)) as harness:
                await harness.advance(4.0)
                (depth,) = [depth for depth in await memory.queue_depths() if depth.queue == "orders"]
                assert depth.hidden == UNSETTLED_MAX
                await harness.run_until_idle()
                assert (await counters(harness)).filtered == count

    app = queue_app(
        handler(Work()),
        queue={"visibility_timeout": 600},
        filter_criteria=criteria({"body": {"status": ["paid"]}}),
    )
    run_virtual(run)


def test_the_names_that_filters_may_look_for_are_those_that_records_have(eventcore_pipeline: Any) -> None:
    """A warning tells of any other (EC163)."""
    app = eventcore.App()
    app.queue("orders")
    app.stream("orders")
    app.kafka("local", bootstrap_servers="127.0.0.1:9092")
    app.function("work", handler="orders.work")
    sources = {"sqs": "queue:orders", "kinesis": "stream:orders", "kafka": "kafka:local/orders"}
    for name, source in sources.items():
        position = {} if name == "sqs" else {"starting_position": "TRIM_HORIZON"}
        app.mapping(name, source=source, function="work", **position)
    pipeline = eventcore_pipeline(app, functions={"work": Scripted()})
    for source in sources.values():
        pipeline.send(source, [1], key="k", headers={"a": "b"})
    pipeline.run_until_idle()
    for call in pipeline.invocations:
        records = call.event.get("Records") or next(iter(call.event["records"].values()))
        found = {*records[0], *records[0].get("kinesis", ())}
        assert found == METADATA_KEYS[call.mapping] | {*DATA_KEYS[call.mapping]}
    assert {call.mapping for call in pipeline.invocations} == {*sources}
