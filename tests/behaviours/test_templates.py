"""The pipelines that `eventcore init` writes, and the demo's, do what their READMEs say."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

import eventcore
import eventcore.cli
from eventcore.config.load import load_config
from eventcore.testing.harness import Harness
from tests.behaviours.orders import play

TEMPLATES = Path(eventcore.cli.__file__).parent / "templates"


def template_app(name: str) -> eventcore.App:
    """Return a template's pipeline as its files say, but that its handler runs inline, in virtual time."""
    config = load_config(TEMPLATES / name, environ={}).config
    app = eventcore.App()
    for table in ("streams", "queues", "mappings"):
        declare: Callable[..., Any] = getattr(app, table.removesuffix("s"))
        for section_name, section in getattr(config, table).items():
            declare(section_name, **msgspec.to_builtins(section))
    [(function, settings)] = config.functions.items()
    app.function(function, runtime="inline", timeout=settings.timeout)(_handler(name, settings.handler))
    return app


def _handler(name: str, handler: str) -> Callable[..., Any]:
    module_name, _, attribute = handler.rpartition(".")
    spec = importlib.util.spec_from_file_location(f"{name}_{module_name}", TEMPLATES / name / f"{module_name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, attribute)


def play_orders(name: str, source: str, orders: Sequence[dict[str, Any]]) -> tuple[Harness, list[bytes]]:
    """Send orders through a template; return the harness and what `failed-orders` holds in the end."""
    failed: list[bytes] = []

    async def scenario(harness: Harness) -> None:
        await harness.send(source, orders, key="ada")
        await harness.run_until_idle()
        failed.extend(message.body for message in await harness.messages("failed-orders"))

    return play(template_app(name), scenario), failed


def order(number: int, quantity: int = 2, **fields: Any) -> dict[str, Any]:
    return {"id": number, "customer": "ada", "quantity": quantity, **fields}


def test_stream_gives_up_the_order_that_fails_and_nothing_else() -> None:
    orders = [order(n, -1 if n == 3 else 2) | {"id": str(n)} for n in range(1, 7)]
    harness, failed = play_orders("stream", "stream:orders", orders)
    [discarded] = harness.discarded
    assert (discarded.first, discarded.count, discarded.reason) == (2, 1, "RetryAttemptsExhausted")
    assert sum(settled.count for settled in harness.settled) == 5
    [record] = map(msgspec.json.decode, failed)
    assert record["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert record["requestContext"]["approximateInvokeCount"] == 3


def test_queue_moves_the_order_that_fails_to_the_dead_letter_queue_after_three_receives() -> None:
    poison = order(2, -1)
    harness, failed = play_orders("queue", "queue:orders", [order(1), poison])
    assert [msgspec.json.decode(body) for body in failed] == [poison]
    assert len(harness.invocations) == 3


def test_demo_retries_one_order_and_gives_up_another() -> None:
    orders = [order(n) for n in range(1, 17)]
    orders[4]["quantity"] = -1
    orders[10]["currency"] = "GBP"
    harness, failed = play_orders("demo", "stream:orders", orders)
    [discarded] = harness.discarded
    assert (discarded.first, discarded.count, discarded.reason) == (4, 1, "RetryAttemptsExhausted")
    assert len(failed) == 1
    assert sum(settled.count for settled in harness.settled) == 15
    assert [(retried.first, retried.count) for retried in harness.retried] == [(4, 1), (4, 1), (10, 1)]
