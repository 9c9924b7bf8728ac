"""Handlers take Lambda's event, a native batch, or one typed record a call (issue 3, section 4)."""

from __future__ import annotations

from typing import Any

from eventcore import Batch, Record
from eventcore.testing.harness import Harness
from tests.behaviours.orders import Order, play, queue_app, stream_app


async def _send_orders(harness: Harness) -> None:
    orders = [{"id": 1}, {"id": 2, "poison": True}, {"id": 3}]
    await harness.send("stream:orders", orders, key="k")
    await harness.run_until_idle()


def test_a_batch_handler_gets_the_records_as_they_are() -> None:
    seen: list[bytes | None] = []

    async def work(batch: Batch) -> None:
        assert batch.source == "stream:orders"
        seen.extend(record.body for record in batch)

    play(stream_app(work), _send_orders)
    assert seen == [b'{"id":1}', b'{"id":2,"poison":true}', b'{"id":3}']


def test_a_batch_handler_returns_the_records_that_failed() -> None:
    """Design §12: None, a list of failed records, or it raises; a stream goes on at the lowest one."""
    seen: list[list[bytes | None]] = []

    async def work(batch: Batch) -> list[Record]:
        seen.append([record.body for record in batch])
        return [record for record in batch if record.body == b"2"]

    async def scenario(harness: Harness) -> None:
        await harness.send("stream:orders", ["1", "2", "3"], key="k")
        await harness.run_until_idle()

    harness = play(stream_app(work, maximum_retry_attempts=0), scenario)
    assert seen == [[b"1", b"2", b"3"], [b"2", b"3"]]
    assert harness.discarded[0].count == 2


def test_a_typed_handler_settles_what_came_before_the_record_that_failed() -> None:
    """Issue 3, section 4: the first failing record stops its shard there; the earlier ones are settled."""
    seen: list[int] = []

    async def work(order: Order) -> None:
        seen.append(order.id)
        if order.poison:
            raise ValueError("poison")

    app = stream_app(work, maximum_retry_attempts=1, bisect_batch_on_function_error=True)
    harness = play(app, _send_orders)
    assert seen in ([1, 2, 2, 2, 2, 3], [1, 2, 2, 2, 3])
    (discarded,) = harness.discarded
    assert (discarded.count, discarded.reason) == (1, "RetryAttemptsExhausted")


def test_a_record_that_is_not_what_the_handler_wants_is_discarded_and_nothing_else() -> None:
    """Issue 3, section 6: a discard `Undecodable`, not a crash, not a loss."""
    seen: list[int] = []

    async def work(order: Order) -> None:
        seen.append(order.id)

    async def scenario(harness: Harness) -> None:
        await harness.send("stream:orders", ['{"id": 1}', "not json", '{"id": "three"}', '{"id": 4}'], key="k")
        await harness.run_until_idle()

    harness = play(stream_app(work), scenario)
    assert seen == [1, 4]
    assert [(entry.count, entry.reason) for entry in harness.discarded] == [(1, "Undecodable")] * 2


def test_a_message_that_cannot_be_read_is_discarded_and_deleted() -> None:
    """Design §5: from a queue, what can't be decoded goes to `queue:discards`."""
    seen: list[int] = []

    async def work(order: Order) -> None:
        seen.append(order.id)

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:orders", ['{"id": 1}', "not json", '{"id": 3}'])
        await harness.run_until_idle()
        assert len(await harness.messages("discards")) == 1

    harness = play(queue_app(work), scenario)
    assert sorted(seen) == [1, 3]
    assert [entry.reason for entry in harness.discarded] == ["Undecodable"]


def test_a_typed_handler_of_a_queue_fails_alone() -> None:
    """A queue has no order to keep: the messages behind a failing one go on."""
    seen: list[int] = []

    async def work(order: Order, context: Any) -> None:
        seen.append(order.id)
        if order.poison and seen.count(order.id) == 1:
            raise ValueError("first time")

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:orders", [{"id": 1}, {"id": 2, "poison": True}, {"id": 3}])
        await harness.run_until_idle()

    play(queue_app(work, queue={"visibility_timeout": 5}), scenario)
    assert seen == [1, 2, 3, 2]


def test_each_message_of_a_queue_has_its_own_fault() -> None:
    """In one batch one message can't be read and one raises: the first is given up, the other comes back."""
    seen: list[int] = []

    async def work(order: Order) -> None:
        seen.append(order.id)
        if order.poison and seen.count(order.id) == 1:
            raise ValueError("first time")

    errors: dict[str, str] = {}

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:orders", ["not json", {"id": 2, "poison": True}, {"id": 3}])
        await harness.advance(1)
        errors.update({failure.reason: failure.error_message for failure in await harness.failures()})
        await harness.run_until_idle()

    harness = play(queue_app(work, queue={"visibility_timeout": 5}), scenario)
    assert seen == [2, 3, 2]
    assert errors["Failing"] == "first time"
    assert "first time" not in errors["Undecodable"]
    assert [entry.reason for entry in harness.discarded] == ["Undecodable"]
    assert "first time" not in harness.discarded[0].error, "what is told live is the record's own, too"


def test_the_last_result_of_a_typed_handler_that_failed_is_a_problem() -> None:
    """The call as such succeeds: what counts for people is its record."""
    results: list[str] = []

    async def work(order: Order) -> None:
        if order.poison:
            raise ValueError("poison")

    async def scenario(harness: Harness) -> None:
        for order in ({"id": 1, "poison": True}, {"id": 2}):
            await harness.send("stream:orders", [order], key="k")
            await harness.run_until_idle()
            (mapping,) = (await harness.status()).mappings
            results.append(mapping.last_result)

    play(stream_app(work, maximum_retry_attempts=0), scenario)
    assert results == ["PROBLEM: Function call failed", "OK"]
