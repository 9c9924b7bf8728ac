"""A mapping that fails shows why, is tried again, and takes no other down (issue 3, section 2)."""

from __future__ import annotations

from typing import Any

import pytest

import eventcore
from eventcore import Batch
from eventcore.testing.harness import Harness
from tests.behaviours.orders import Order, play


def test_a_handler_that_is_not_there_is_that_mappings_problem_alone() -> None:
    seen: list[str] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        seen.extend(record["body"] for record in event["Records"])

    app = eventcore.App()
    app.queue("good")
    app.queue("bad")
    app.function("work", runtime="inline")(work)
    app.function("missing", runtime="inline", handler="no_such_module.handler")
    app.mapping("good", source="queue:good", function="work")
    app.mapping("bad", source="queue:bad", function="missing")

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:good", ["1"])
        await harness.advance(10)
        states = {mapping.mapping: mapping for mapping in (await harness.status()).mappings}
        assert states["good"].state == "Enabled"
        assert states["bad"].state == "Problem"
        assert "no_such_module" in states["bad"].reason

    play(app, scenario)
    assert seen == ["1"]


def test_a_disabled_mapping_does_nothing() -> None:
    """kinesis/disabled-mapping-does-not-invoke."""
    seen: list[Any] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        seen.append(event)

    app = eventcore.App()
    app.queue("orders")
    app.function("work", runtime="inline")(work)
    app.mapping("orders", source="queue:orders", function="work", enabled=False)

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:orders", ["1"])
        await harness.advance(60)
        assert [mapping.state for mapping in (await harness.status()).mappings] == ["Disabled"]

    play(app, scenario)
    assert seen == []


@pytest.mark.parametrize("source", ["queue:orders", "stream:lines"])
@pytest.mark.parametrize("form", [Batch, Order])
def test_reports_that_a_handler_of_records_never_makes_are_refused(source: str, form: type) -> None:
    """It says what has failed by what it returns or raises: `batchItemFailures` would be read out of nothing."""
    seen: list[Any] = []

    async def work(records: Any) -> None:
        seen.append(records)

    work.__annotations__["records"] = form
    app = eventcore.App()
    app.queue("orders")
    app.stream("lines")
    app.function("work", runtime="inline")(work)
    settings: dict[str, Any] = {"starting_position": "TRIM_HORIZON"} if source.startswith("stream") else {}
    types = ["ReportBatchItemFailures"]
    app.mapping("orders", source=source, function="work", function_response_types=types, **settings)

    async def scenario(harness: Harness) -> None:
        await harness.send(source, ['{"id": 1}'])
        await harness.advance(10)
        (mapping,) = (await harness.status()).mappings
        assert mapping.state == "Problem"
        assert "Take function_response_types out of mappings.orders" in mapping.reason

    play(app, scenario)
    assert seen == []
