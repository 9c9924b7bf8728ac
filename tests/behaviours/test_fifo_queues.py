"""FIFO queues: order and exclusive groups, deduplication, partial batches, dead letters (Lambda semantics §3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

import eventcore
from eventcore.errors import CommandError
from eventcore.model import Batch, Record
from eventcore.telemetry.events import BatchInvoked
from eventcore.testing.harness import Harness
from tests.behaviours.orders import Order, numbers, play


def fifo_app(
    handler: Callable[..., Any],
    *,
    queue: dict[str, Any] | None = None,
    dead: dict[str, Any] | None = None,
    timeout: int = 3,
    **mapping: Any,
) -> eventcore.App:
    """A mapping from the FIFO queue `orders`, with a FIFO dead-letter queue `dead`."""
    app = eventcore.App()
    app.queue("dead", **{"fifo_queue": True, **(dead or {})})
    app.queue("orders", **{"fifo_queue": True, "content_based_deduplication": True, **(queue or {})})
    app.function("work", runtime="inline", timeout=timeout)(handler)
    app.mapping("orders", source="queue:orders", function="work", **mapping)
    return app


async def send(harness: Harness, group: str, *sent: int, **options: Any) -> list[str]:
    return await harness.send("queue:orders", [str(number) for number in sent], key=group, **options)


def groups(event: dict[str, Any]) -> list[str]:
    return [record["attributes"]["MessageGroupId"] for record in event["Records"]]


def works(batches: list[list[int]]) -> Callable[..., Awaitable[None]]:
    """A handler that remembers its batches."""

    async def work(event: dict[str, Any], context: Any) -> None:
        batches.append(numbers(event))

    return work


def test_messages_of_a_group_come_in_order_over_many_batches() -> None:
    batches: list[list[int]] = []

    async def scenario(harness: Harness) -> None:
        await send(harness, "a", *range(25))
        await harness.run_until_idle()

    play(fifo_app(works(batches)), scenario)
    assert batches == [[*range(10)], [*range(10, 20)], [*range(20, 25)]]


def test_a_group_is_never_in_two_batches_at_a_time() -> None:
    """§3.1 FIFO: concurrency is the number of active groups."""
    running: list[str] = []
    most = 0

    async def work(event: dict[str, Any], context: Any) -> None:
        nonlocal most
        (group,) = groups(event)
        assert group not in running
        running.append(group)
        most = max(most, len(running))
        await anyio.sleep(1)
        running.remove(group)

    async def scenario(harness: Harness) -> None:
        for number in range(0, 12, 3):
            for at, group in enumerate("abc"):
                await send(harness, group, number + at)
        await harness.run_until_idle()

    harness = play(fifo_app(work, batch_size=1), scenario)
    assert most == 3
    assert len(harness.invocations) == 12


def test_maximum_concurrency_bounds_the_groups_that_are_worked_on() -> None:
    """§3.1 FIFO: min(active message groups, MaximumConcurrency)."""
    running = most = 0

    async def work(event: dict[str, Any], context: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1)
        running -= 1

    async def scenario(harness: Harness) -> None:
        for number, group in enumerate("abcdef"):
            await send(harness, group, number)
        await harness.run_until_idle()

    play(fifo_app(work, batch_size=1, maximum_concurrency=2), scenario)
    assert most == 2


def test_a_batch_may_mix_groups_each_in_order() -> None:
    batches: list[list[tuple[str, int]]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        batches.append(list(zip(groups(event), numbers(event), strict=True)))

    async def scenario(harness: Harness) -> None:
        await send(harness, "a", 1, 2)
        await send(harness, "b", 3)
        await send(harness, "a", 4)
        await harness.run_until_idle()

    app = fifo_app(work, queue={"delay": 1})
    play(app, scenario)
    assert batches == [[("a", 1), ("a", 2), ("a", 4), ("b", 3)]]


def test_a_failing_group_is_retried_before_its_newer_messages_and_holds_up_no_other() -> None:
    """§3.1 FIFO: a failed group is retried before newer messages of it are read."""
    seen: list[tuple[str, list[int], float]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        seen.append((groups(event)[0], numbers(event), anyio.current_time()))
        if groups(event)[0] == "a" and event["Records"][0]["attributes"]["ApproximateReceiveCount"] == "1":
            raise ValueError("first time")

    async def scenario(harness: Harness) -> None:
        await send(harness, "a", 1)
        await harness.advance(1)
        await send(harness, "a", 2)
        await send(harness, "b", 3)
        await harness.run_until_idle()

    play(fifo_app(work, queue={"visibility_timeout": 20}), scenario)
    assert [(group, batch) for group, batch, _ in seen] == [("a", [1]), ("b", [3]), ("a", [1, 2])]
    assert seen[1][2] - seen[0][2] < 2
    assert 20 <= seen[2][2] - seen[0][2] < 20.1


def test_a_report_keeps_what_it_names_and_the_group_waits_for_it() -> None:
    """sqs-fifo/report-batch-item-failures-retries-only-failed."""
    fail_attempts = {1: 0, 2: 1, 3: 1, 4: 2}
    batches: list[tuple[list[int], list[str]]] = []
    records: list[dict[str, Any]] = []

    async def work(event: dict[str, Any], context: Any) -> dict[str, Any]:
        counts = [record["attributes"]["ApproximateReceiveCount"] for record in event["Records"]]
        batches.append((numbers(event), counts))
        records.extend(event["Records"])
        failed = [
            {"itemIdentifier": record["messageId"]}
            for record in event["Records"]
            if fail_attempts[int(record["body"])] >= int(record["attributes"]["ApproximateReceiveCount"])
        ]
        return {"batchItemFailures": failed}

    sent: list[str] = []
    dead: list[str] = []

    async def scenario(harness: Harness) -> None:
        sent.extend(await send(harness, "g", 1, 2, 3, 4))
        await harness.run_until_idle()
        dead.extend([message.id for message in await harness.messages("dead")])

    policy = {"dead_letter_queue": "dead", "max_receive_count": 2}
    app = fifo_app(
        work,
        queue={"visibility_timeout": 8, "redrive_policy": policy},
        function_response_types=["ReportBatchItemFailures"],
    )
    harness = play(app, scenario)
    assert batches == [([1, 2, 3, 4], ["1"] * 4), ([2, 3, 4], ["2"] * 3)]
    first, second = harness.times(BatchInvoked)
    assert 8 <= second - first < 8.1
    assert dead == [sent[3]]
    attributes = records[0]["attributes"]
    assert {"MessageGroupId", "MessageDeduplicationId", "SequenceNumber"} < set(attributes)
    assert attributes["MessageGroupId"] == "g"
    assert len(attributes["SequenceNumber"]) == 20
    in_order = [record["attributes"]["SequenceNumber"] for record in records[:4]]
    assert in_order == sorted(set(in_order))
    assert records[0]["eventSourceARN"].endswith(":orders.fifo")


def test_what_a_report_does_not_name_is_deleted_even_behind_a_failure() -> None:
    """§3.1 FIFO caution: the function itself must stop at its first failure."""
    batches: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> dict[str, Any]:
        batches.append(numbers(event))
        if len(batches) > 1:
            return {}
        return {"batchItemFailures": [{"itemIdentifier": event["Records"][0]["messageId"]}]}

    async def scenario(harness: Harness) -> None:
        await send(harness, "g", 1, 2, 3)
        await harness.run_until_idle()

    play(fifo_app(work, function_response_types=["ReportBatchItemFailures"]), scenario)
    assert batches == [[1, 2, 3], [1]]


def test_a_typed_handler_stops_a_group_at_its_first_failure() -> None:
    """The documented way, done for handlers that see one record at a time; other groups of the batch go on."""
    called: list[int] = []
    failing = {2}

    async def work(order: Order) -> None:
        called.append(order.id)
        if order.id in failing:
            failing.clear()
            raise ValueError("first time")

    async def scenario(harness: Harness) -> None:
        for group, number in (("a", 1), ("a", 2), ("a", 3), ("b", 4)):
            await harness.send("queue:orders", [{"id": number}], key=group)
        await harness.run_until_idle()

    play(fifo_app(work, queue={"delay": 1}), scenario)
    assert called == [1, 2, 4, 2, 3]


def test_what_a_typed_handler_can_not_read_does_not_hold_up_its_group() -> None:
    called: list[int] = []

    async def work(order: Order) -> None:
        called.append(order.id)

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:orders", ['{"id": 1}', "no order", '{"id": 2}'], key="a")
        await harness.run_until_idle()

    harness = play(fifo_app(work), scenario)
    assert called == [1, 2]
    assert [run.reason for run in harness.discarded] == ["Undecodable"]


def test_a_batch_handler_that_names_a_record_leaves_its_group_locked() -> None:
    seen: list[list[bytes | None]] = []

    async def work(batch: Batch) -> list[Record]:
        seen.append([record.body for record in batch])
        return [batch.records[-1]] if len(seen) == 1 else []

    async def scenario(harness: Harness) -> None:
        await send(harness, "a", 1, 2)
        await harness.advance(1)
        await send(harness, "a", 3)
        await harness.run_until_idle()

    play(fifo_app(work), scenario)
    assert seen == [[b"1", b"2"], [b"2", b"3"]]


def test_a_batch_that_is_full_by_bytes_leaves_the_rest_of_its_groups_in_order() -> None:
    """§3.1 "Batch closes on": 6 MB; what did not fit is not worked on beside it."""
    batches: list[list[int]] = []
    running = 0

    async def work(event: dict[str, Any], context: Any) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await anyio.sleep(0.1)
        running -= 1
        batches.append([int(record["body"].strip()) for record in event["Records"]])

    async def scenario(harness: Harness) -> None:
        for number in range(9):
            await harness.send("queue:orders", [str(number).ljust(1_000_000)], key="a")
        await harness.run_until_idle()

    play(fifo_app(work, queue={"delay": 1}), scenario)
    assert [number for batch in batches for number in batch] == [*range(9)]
    assert max(map(len, batches)) == 6


# -- deduplication -----------------------------------------------------------------------------------------------------


def test_content_is_deduplicated_for_five_minutes_even_after_a_deletion() -> None:
    """§3.2 FIFO: ContentBasedDeduplication, the window counts from the first send."""
    batches: list[list[int]] = []
    ids: list[list[str]] = []

    async def scenario(harness: Harness) -> None:
        ids.append(await send(harness, "a", 1))
        await harness.run_until_idle()
        await harness.advance(290)
        ids.append(await send(harness, "b", 1))
        await harness.advance(10)
        ids.append(await send(harness, "a", 1))
        await harness.run_until_idle()

    play(fifo_app(works(batches)), scenario)
    assert batches == [[1], [1]]
    assert ids[0] == ids[1] != ids[2]


def test_a_scope_of_message_groups_keeps_other_groups_apart() -> None:
    """§3.2 FIFO: DeduplicationScope `messageGroup`."""
    batches: list[list[int]] = []

    async def scenario(harness: Harness) -> None:
        await send(harness, "a", 1)
        await send(harness, "b", 1)
        await send(harness, "a", 1)
        await harness.run_until_idle()

    play(fifo_app(works(batches), batch_size=1, queue={"deduplication_scope": "messageGroup"}), scenario)
    assert batches == [[1], [1]]


def test_an_own_deduplication_id_goes_before_the_content() -> None:
    batches: list[list[int]] = []

    async def scenario(harness: Harness) -> None:
        await send(harness, "a", 1, deduplication_id="x")
        await send(harness, "a", 1, deduplication_id="y")
        await send(harness, "a", 2, deduplication_id="x")
        await harness.run_until_idle()

    play(fifo_app(works(batches), batch_size=1), scenario)
    assert batches == [[1], [1]]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"key": None, "deduplication_id": "x"}, "must contain the parameter MessageGroupId"),
        ({"key": "a"}, "should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided"),
        ({"key": "a", "deduplication_id": "x", "delay_s": 1}, "Value 1 for parameter DelaySeconds is invalid"),
        ({"key": "a", "deduplication_id": "x" * 129}, "parameter MessageDeduplicationId is invalid"),
        ({"key": "ä", "deduplication_id": "x"}, "parameter MessageGroupId is invalid"),
    ],
)
def test_a_message_that_a_fifo_queue_can_not_take_is_refused_in_the_words_of_sqs(
    options: dict[str, Any], why: str
) -> None:
    async def scenario(harness: Harness) -> None:
        with pytest.raises(CommandError, match=why):
            await harness.send("queue:orders", ["1"], **options)

    play(fifo_app(works([]), queue={"content_based_deduplication": False}), scenario)


def test_a_standard_queue_knows_no_deduplication_ids() -> None:
    async def scenario(harness: Harness) -> None:
        with pytest.raises(CommandError, match="Value x for parameter MessageDeduplicationId is invalid"):
            await harness.send("queue:discards", ["1"], key="a", deduplication_id="x")

    play(fifo_app(works([])), scenario)


# -- dead letters and retention ----------------------------------------------------------------------------------------


def test_a_message_that_goes_to_the_dead_letter_queue_sets_its_group_free() -> None:
    """Trap 16: at the receive after its last."""
    batches: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        batches.append(numbers(event))
        if 1 in numbers(event):
            raise ValueError("always")

    async def scenario(harness: Harness) -> None:
        await send(harness, "a", 1)
        await harness.advance(1)
        await send(harness, "a", 2)
        await harness.run_until_idle()
        (dead,) = await harness.messages("dead")
        assert (dead.body, dead.group, dead.receive_count) == (b"1", "a", 2)
        (failure,) = await harness.failures()
        assert (failure.reason, failure.is_final, failure.attempts) == ("ReceivesExhausted", True, 2)

    policy = {"dead_letter_queue": "dead", "max_receive_count": 2}
    play(fifo_app(work, queue={"visibility_timeout": 5, "redrive_policy": policy}, batch_size=1), scenario)
    assert batches == [[1], [1], [2]]


def test_a_message_past_its_retention_sets_its_group_free() -> None:
    batches: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        batches.append(numbers(event))
        if 1 in numbers(event):
            raise ValueError("always")

    async def scenario(harness: Harness) -> None:
        await send(harness, "a", 1)
        await harness.advance(30)
        await send(harness, "a", 2)
        await harness.run_until_idle()

    play(
        fifo_app(work, batch_size=1, queue={"visibility_timeout": 20, "message_retention_period": 60}),
        scenario,
    )
    assert batches == [[1], [1], [1], [2]]


def test_a_delayed_group_waits_for_its_first_message() -> None:
    """§3.2 DelaySeconds: of a FIFO queue at queue level alone."""
    batches: list[list[int]] = []

    async def scenario(harness: Harness) -> None:
        await send(harness, "a", 1)
        await harness.advance(10)
        await send(harness, "a", 2)
        await harness.run_until_idle()

    harness = play(fifo_app(works(batches), queue={"delay": 30}), scenario)
    first, second = harness.times(BatchInvoked)
    assert batches == [[1], [2]]
    assert (30 <= first < 30.1, 40 <= second < 40.1) == (True, True)


def test_messages_of_a_stopped_mapping_are_back_in_their_order() -> None:
    batches: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        batches.append(numbers(event))
        await anyio.sleep(1)

    async def scenario(harness: Harness) -> None:
        await send(harness, "a", *range(5))
        await harness.advance(1.5)

    harness = play(fifo_app(work, batch_size=1), scenario)
    assert batches == [[number] for number in range(len(batches))]
    assert len(harness.settled) == len(batches) < 5
