"""Handlers of every form, good and bad, for the runtimes' kit. Handlers that harm their process are not here."""

# ruff: noqa: ARG001, ARG002 - a handler is given what Lambda gives, whether it looks or not
# ruff: noqa: ASYNC230, ASYNC240 - as users write them

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec

from eventcore.model import Batch, Record

_calls = 0


def echo(event: Any, context: Any) -> Any:
    """Return the event."""
    return event


def echo_alone(event: Any) -> Any:
    """Return the event, without taking a context."""
    return event


async def echo_later(event: Any, context: Any) -> Any:
    """Return the event after the loop had its turn."""
    await anyio.sleep(0.001)
    return event


def _decorate(handler: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(handler)
    def call(*arguments: Any) -> Any:
        return handler(*arguments)

    return call


@_decorate
async def echo_decorated(event: Any, context: Any) -> Any:
    """Return the event: a coroutine function behind a wrapper that is none."""
    await anyio.sleep(0.001)
    return event


class _Echo:
    def __call__(self, event: Any, context: Any) -> Any:
        return event


echo_object = _Echo()


def count(event: Any, context: Any) -> int:
    """Return how many times this module's handler was called, by this one."""
    global _calls  # noqa: PLW0603 - what outlives an invocation is the point
    _calls += 1
    return _calls


def describe_context(event: Any, context: Any) -> dict[str, Any]:
    """Return everything that the context tells."""
    return {
        "aws_request_id": context.aws_request_id,
        "client_context": context.client_context,
        "function_name": context.function_name,
        "function_version": context.function_version,
        "identity": context.identity,
        "invoked_function_arn": context.invoked_function_arn,
        "log_group_name": context.log_group_name,
        "log_stream_name": context.log_stream_name,
        "memory_limit_in_mb": context.memory_limit_in_mb,
        "remaining_ms": context.get_remaining_time_in_millis(),
        "tenant_id": context.tenant_id,
    }


def describe_environment(event: Any, context: Any) -> dict[str, Any]:
    """Return the environment variables and the working folder."""
    return {"variables": dict(os.environ), "folder": str(Path.cwd())}


class CustomError(Exception):
    """Raised by `fail`."""


def fail(event: Any, context: Any) -> None:
    """Raise, two frames deep."""
    _fail_deeper()


def _fail_deeper() -> None:
    raise CustomError("some error occurred")


async def fail_later(event: Any, context: Any) -> None:
    """Raise after the loop had its turn."""
    await anyio.sleep(0.001)
    _fail_deeper()


async def sleep(event: Any, context: Any) -> str:
    """Sleep for as many seconds as the event says."""
    await anyio.sleep(event)
    return "slept"


def return_set(event: Any, context: Any) -> set[int]:
    """Return what JSON can't write."""
    return {1}


def return_nan(event: Any, context: Any) -> float:
    """Return what JSON writers write and readers refuse."""
    return float("nan")


def return_cycle(event: Any, context: Any) -> list[Any]:
    """Return a list that holds itself."""
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


def return_generator(event: Any, context: Any) -> Iterator[int]:
    """Return a generator."""
    yield 1


def return_bytes_of_json(event: int, context: Any) -> str:
    """Return text whose JSON is exactly as long as the event says, in bytes."""
    return "x" * (event - 2)


# -- native forms ------------------------------------------------------------------------------------------------------


def take_batch(batch: Batch) -> list[Record]:
    """Report the records whose body is `bad`, last first."""
    return [record for record in reversed(batch.records) if record.body == b"bad"]


async def take_batch_later(batch: Batch, context: Any) -> None:
    """Write down what came into the file that the first record names."""
    await anyio.sleep(0.001)
    lines = [
        f"{batch.source} {batch.shard} {batch.mapping} {batch.attempt} {batch.request_id} {context.aws_request_id}",
        *(f"{record.position} {record.key!r} {record.headers} {dict(record.attributes)}" for record in batch),
    ]
    Path((batch.first.body or b"").decode()).write_text("\n".join(lines))


def fail_batch(batch: Batch) -> None:
    """Raise for the batch."""
    _fail_deeper()


def answer_batch(batch: Batch) -> Any:
    """Return what is no list of failed records."""
    return {"batchItemFailures": []}


def blame_stranger(batch: Batch) -> list[Record]:
    """Report a record that is not in the batch."""
    return [Record(position=batch.last.position + 1, body=b"")]


class Order(msgspec.Struct):
    """A typed record."""

    number: int
    journal: str  #: a file in which its number is written
    must_fail: bool = False


def take_order(order: Order) -> None:
    """Write down an order, and fail if it says so."""
    with Path(order.journal).open("a") as journal:
        journal.write(f"{order.number}\n")
    if order.must_fail:
        _fail_deeper()


async def take_order_later(order: Order, context: Any) -> None:
    """Write down an order with the request id."""
    await anyio.sleep(0.001)
    with Path(order.journal).open("a") as journal:
        journal.write(f"{order.number} {context.aws_request_id}\n")


async def take_order_forever(order: Order) -> None:
    """Write down an order, and never come to an end with it."""
    with Path(order.journal).open("a") as journal:
        journal.write(f"{order.number}\n")
    await anyio.sleep_forever()


class Cancel(msgspec.Struct, tag=True):
    """One of two kinds of record."""

    number: int


class Refund(msgspec.Struct, tag=True):
    """The other."""

    number: int


def take_either(record: Cancel | Refund | None, retries: int = 3) -> None:
    """Take either kind or a tombstone; the second parameter is the author's own."""
    assert retries == 3
    assert record is None or isinstance(record, Cancel | Refund)


def take_record(record: Record) -> None:
    """Take records as they are, and fail for those whose body is `bad`."""
    if record.body == b"bad":
        _fail_deeper()
