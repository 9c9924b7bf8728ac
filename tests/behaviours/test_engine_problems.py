"""What is wrong outside, or in a connector, is shown and waited out; it ends neither engine nor loop (issue 3, §2)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from eventcore.errors import EventcoreError, SourceClosed, SourceUnavailable
from eventcore.testing.harness import Harness
from tests.behaviours.orders import play, queue_app
from tests.behaviours.scripted_source import ScriptedStream, Settled, play_scripted, record, scripted_app


async def _work(event: dict[str, Any], context: Any) -> None:
    return None


def _raise(error: EventcoreError) -> Callable[[], Any]:
    async def hook() -> None:
        raise error

    return hook


def test_a_source_that_was_deleted_stops_its_mapping() -> None:
    """There is nothing to come back to: it is not opened again."""

    async def scenario(harness: Harness) -> None:
        await harness.advance(300)
        (mapping,) = (await harness.status()).mappings
        assert (mapping.state, mapping.reason) == ("Stopped", "the topic was deleted")

    stream = ScriptedStream({"orders-0": []})
    stream.on_receive = _raise(SourceClosed("the topic was deleted"))
    play_scripted(scripted_app(_work), scenario, stream)
    assert stream.opened_count == 1


def test_a_source_that_can_not_tell_its_lag_leaves_the_status_whole() -> None:
    async def scenario(harness: Harness) -> None:
        await harness.advance(1)
        (mapping,) = (await harness.status()).mappings
        assert [(shard.shard, shard.lag) for shard in mapping.shards] == [("orders-0", -1)]

    stream = ScriptedStream({"orders-0": []})
    stream.on_lag = _raise(SourceUnavailable("away"))
    play_scripted(scripted_app(_work), scenario, stream)


def test_a_source_that_asks_to_come_again_at_once_is_not_opened_without_pause() -> None:
    async def scenario(harness: Harness) -> None:
        await harness.advance(20)

    stream = ScriptedStream({"orders-0": []})
    stream.on_open = _raise(SourceUnavailable("no", retry_after_s=0.0))
    play_scripted(scripted_app(_work), scenario, stream)
    assert 5 <= stream.opened_count <= 20


def test_a_defect_of_one_mappings_connector_leaves_the_others_alone(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its traceback, shown as a problem, and tried again."""
    seen: list[str] = []

    async def other(event: dict[str, Any], context: Any) -> None:
        seen.extend(entry["body"] for entry in event["Records"])

    async def break_down(settled: Settled) -> None:
        raise RuntimeError("a defect of the connector")

    async def scenario(harness: Harness) -> None:
        for number in range(10):
            await harness.send("queue:others", [str(number)])
            await harness.advance(5)
        mappings = {mapping.mapping: mapping for mapping in (await harness.status()).mappings}
        assert mappings["orders"].state == "Problem"
        assert "a defect of the connector" in mappings["orders"].reason
        assert mappings["others"].state == "Enabled"

    app = scripted_app(_work)
    app.queue("others")
    app.function("other", runtime="inline")(other)
    app.mapping("others", source="queue:others", function="other")
    stream = ScriptedStream({"orders-0": [record(0)]})
    stream.on_settle = break_down
    with caplog.at_level(logging.ERROR):
        play_scripted(app, scenario, stream)
    assert seen == [str(number) for number in range(10)]
    assert stream.opened_count > 1
    (defect, *_) = [entry for entry in caplog.records if entry.message == "engine.defect"]
    assert defect.exc_info is not None


def test_a_source_that_writes_no_checkpoints_any_more_is_opened_anew() -> None:
    """In silence, hours of what was settled would come again with the next start."""

    async def end_after_a_minute() -> None:
        await anyio.sleep(60)

    async def scenario(harness: Harness) -> None:
        await harness.advance(59.5)
        assert stream.opened_count == 1
        await harness.advance(1)
        (mapping,) = (await harness.status()).mappings
        assert (mapping.state, mapping.reason) == ("Problem", "checkpoints are not written any more")
        stream.on_write_behind = anyio.sleep_forever
        await harness.advance(60)
        assert [mapping.state for mapping in (await harness.status()).mappings] == ["Enabled"]

    stream = ScriptedStream({"orders-0": [record(0)]})
    stream.on_write_behind = end_after_a_minute
    play_scripted(scripted_app(_work), scenario, stream)
    assert stream.opened_count == 2


@pytest.mark.parametrize("error", [None, ValueError("half a character: \ud800")])
def test_a_message_that_is_not_text_is_no_problem_of_the_mapping(error: Exception | None) -> None:
    """It is its function's to judge; one that can't be written as text can still be kept, shown and given up."""
    calls: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append(len(event["Records"]))
        if error is not None:
            raise error

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:orders", [b"\xff\xfe", "1"])
        with anyio.fail_after(100):
            while sum(
                depth.visible + depth.hidden for depth in await harness.store.queue_depths() if depth.queue == "orders"
            ):
                await harness.advance(1)
        (mapping,) = (await harness.status()).mappings
        assert mapping.state == "Enabled", mapping.reason
        assert len(await harness.messages("dead")) == (0 if error is None else 2)

    policy = {"dead_letter_queue": "dead", "max_receive_count": 2}
    play(queue_app(work, queue={"visibility_timeout": 5, "redrive_policy": policy}, batch_size=10), scenario)
    assert calls
