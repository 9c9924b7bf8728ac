"""A small pipeline that the behaviours share: one mapping from a source to one scripted function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

import eventcore
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual


class Order(msgspec.Struct):
    id: int
    poison: bool = False


def stream_app(handler: Callable[..., Any], *, shards: int = 1, timeout: int = 3, **mapping: Any) -> eventcore.App:
    """A mapping from the embedded stream `orders`, TRIM_HORIZON unless told otherwise."""
    app = eventcore.App()
    app.stream("orders", shards=shards)
    app.queue("failed")
    app.function("work", runtime="inline", timeout=timeout)(handler)
    settings = {"starting_position": "TRIM_HORIZON", "on_failure": "queue:failed", **mapping}
    app.mapping("orders", source="stream:orders", function="work", **settings)
    return app


def queue_app(
    handler: Callable[..., Any], *, queue: dict[str, Any] | None = None, timeout: int = 3, **mapping: Any
) -> eventcore.App:
    """A mapping from the embedded queue `orders`, with a dead-letter queue `dead`."""
    app = eventcore.App()
    app.queue("dead")
    app.queue("orders", **(queue or {}))
    app.function("work", runtime="inline", timeout=timeout)(handler)
    app.mapping("orders", source="queue:orders", function="work", **mapping)
    return app


def play(app: eventcore.App, scenario: Callable[[Harness], Awaitable[None]], *, seed: int = 0) -> Harness:
    """Run a scenario against the pipeline in virtual time and return the harness, with all that happened."""

    async def run() -> Harness:
        async with open_harness(app, seed=seed) as harness:
            await scenario(harness)
        return harness

    return run_virtual(run, seed=seed)


def numbers(event: dict[str, Any]) -> list[int]:
    """The bodies of a Kinesis- or SQS-shaped event, as numbers."""
    import base64

    return [
        int(base64.b64decode(record["kinesis"]["data"])) if "kinesis" in record else int(record["body"])
        for record in event["Records"]
    ]


async def send_numbers(harness: Harness, count: int, *, source: str = "stream:orders", first: int = 1) -> None:
    await harness.send(source, [str(number) for number in range(first, first + count)], key="k")
