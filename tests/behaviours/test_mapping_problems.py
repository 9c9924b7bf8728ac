"""A mapping that fails shows why, is tried again, and takes no other down (issue 3, section 2)."""

from __future__ import annotations

from typing import Any

import eventcore
from eventcore.testing.harness import Harness
from tests.behaviours.orders import play


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
