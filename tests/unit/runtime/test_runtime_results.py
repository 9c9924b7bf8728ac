"""What handlers of records return is sent on where a mapping wants it (`results`), and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import eventcore
from eventcore.clock import SystemClock
from eventcore.ids import SeededIds
from eventcore.model import Batch, Invocation, Outcome, OutcomeKind, OutgoingRecord, Record
from eventcore.ports.runtime import FunctionSpec
from eventcore.runtime.inline import open_inline_runtime
from eventcore.runtime.results import RESULT_BYTES_MAX


class Order(msgspec.Struct):
    id: int


async def run(handler: Callable[..., Any], *ids: int, wants_results: bool = True) -> Outcome:
    records = tuple(Record(position=number, body=b'{"id": %d}' % number, key=b"k%d" % number) for number in ids)
    batch = Batch(source="kafka:local/orders", shard="orders-0", records=records)
    invocation = Invocation(request_id="r", build_event=dict, batch=batch, wants_results=wants_results)
    spec = FunctionSpec(name="f", handler="made.up", code=Path.cwd(), arn="arn:", target=handler)
    async with open_inline_runtime(SystemClock(), SeededIds(1), lambda _: None) as runtime:
        return await runtime.invoke(spec, invocation)


READY = OutgoingRecord(body=b"own", key=b"other", headers=(("h", b"1"),))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),
        (b"raw", [OutgoingRecord(body=b"raw", key=b"k7")]),
        ("text", [OutgoingRecord(body=b"text", key=b"k7")]),
        (Order(7), [OutgoingRecord(body=b'{"id":7}', key=b"k7")]),
        ([1, 2], [OutgoingRecord(body=b"[1,2]", key=b"k7")]),
        ([], [OutgoingRecord(body=b"[]", key=b"k7")]),
        (READY, [READY]),
        ([READY, READY], [READY, READY]),
    ],
)
async def test_a_typed_handlers_value_is_a_record_under_its_records_key(value: Any, expected: list[Any]) -> None:
    async def handle(order: Order) -> Any:
        return value

    outcome = await run(handle, 7)
    assert outcome.kind is OutcomeKind.SUCCESS
    assert [record for _, record in outcome.results] == expected


async def test_each_result_belongs_to_its_record_up_to_the_one_that_fails() -> None:
    def handle(order: Order) -> str:
        if order.id == 3:
            raise ValueError("poison")
        return f"made {order.id}"

    outcome = await run(handle, 1, 2, 3, 4)
    assert outcome.failed == (2,)
    assert [(index, record.body) for index, record in outcome.results] == [(0, b"made 1"), (1, b"made 2")]


async def test_a_batch_handler_returns_records_for_the_batch_as_a_whole() -> None:
    def handle(batch: eventcore.Batch) -> Any:
        return [READY, READY]

    outcome = await run(handle, 1, 2, 3)
    assert (outcome.failed, outcome.results) == ((), ((2, READY), (2, READY)))


async def test_failed_records_and_results_can_not_be_mixed() -> None:
    def handle(batch: eventcore.Batch) -> Any:
        return [READY, batch.first]

    outcome = await run(handle, 1)
    assert outcome.fault is not None
    assert "eventcore.OutgoingRecord" in outcome.fault.message


async def test_where_nothing_is_sent_on_values_are_left_alone() -> None:
    def handle(order: Order) -> Any:
        return object()

    outcome = await run(handle, 1, wants_results=False)
    assert (outcome.kind, outcome.failed, outcome.results) == (OutcomeKind.SUCCESS, (), ())


@pytest.mark.parametrize(
    ("value", "words"), [(object(), "object"), (b"x" * (RESULT_BYTES_MAX + 1), "at most 1,000,000 bytes")]
)
async def test_what_can_not_be_sent_on_fails_its_record(value: Any, words: str) -> None:
    """So that retries, bisect and on_failure apply, and no producer chokes on it without end."""

    def handle(order: Order) -> Any:
        return value

    outcome = await run(handle, 1)
    assert outcome.failed == (0,)
    assert outcome.fault is not None
    assert words in outcome.fault.message


async def test_more_results_than_may_be_handed_back_fail_the_invocation() -> None:
    def handle(order: Order) -> bytes:
        return b"x" * RESULT_BYTES_MAX

    outcome = await run(handle, *range(8))
    assert outcome.kind is OutcomeKind.FAILURE
    assert outcome.fault is not None
    assert outcome.fault.error_type == "Function.ResponseSizeTooLarge"
