"""A circuit breaker stops pulling while what the function needs is down, and burns no attempts meanwhile.

Lambda has none; what must not change is what an attempt is: §3.2 receive counts, §4 retries.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import anyio
import pytest

from eventcore.errors import CommandError
from eventcore.telemetry.events import BatchInvoked, BreakerChanged, RecordsReceived
from eventcore.testing.harness import Harness
from tests.behaviours.control import Control
from tests.behaviours.orders import numbers, play, queue_app, send_numbers, stream_app
from tests.behaviours.scripted_source import ScriptedStream, play_scripted, record, scripted_app


class Dependency:
    """What a function needs: down until it is up."""

    def __init__(self) -> None:
        self.is_up = False
        self.error: type[Exception] = ConnectionError
        self.done: list[int] = []
        self.counts: list[int] = []

    async def work(self, event: dict[str, Any], context: Any) -> None:
        for each in event["Records"]:
            self.counts.append(int(each.get("attributes", {}).get("ApproximateReceiveCount", "0")))
        if not self.is_up:
            raise self.error("down")
        self.done += numbers(event)


def _states(harness: Harness) -> list[str]:
    return [event.state for event in harness.events(BreakerChanged)]


def test_a_queue_is_not_read_while_it_is_open_and_no_receive_is_burnt() -> None:
    dependency = Dependency()
    queue = {"visibility_timeout": 20, "redrive_policy": {"dead_letter_queue": "dead", "max_receive_count": 3}}
    breaker = {"failures": 2, "pause": 30, "maximum_pause": 40}
    app = queue_app(dependency.work, queue=queue, batch_size=1, maximum_concurrency=2, circuit_breaker=breaker)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 20, source="queue:orders")
        await harness.advance(2)
        before = len(harness.events(RecordsReceived))
        await harness.advance(25)
        assert len(harness.events(RecordsReceived)) == before
        assert len(harness.invocations) <= 3
        await harness.advance(10_000)
        assert await harness.messages("dead") == []
        # Two opened it; a few were received beside them, and every probe since then costs nothing.
        assert len(harness.invocations) > 200
        dependency.is_up = True
        await harness.run_until_idle()
        assert await harness.messages("dead") == []

    harness = play(app, scenario)
    assert sorted(dependency.done) == list(range(1, 21))
    assert max(dependency.counts) <= 2
    assert _states(harness)[:4] == ["open", "half-open", "open", "half-open"]
    assert _states(harness)[-1] == "closed"


def test_a_streams_probes_come_after_longer_and_longer_pauses_and_cost_no_attempts() -> None:
    dependency = Dependency()
    breaker = {"failures": 2, "pause": 10, "maximum_pause": 35}
    app = stream_app(dependency.work, maximum_retry_attempts=2, circuit_breaker=breaker)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 3)
        await harness.advance(200)
        dependency.is_up = True
        await harness.run_until_idle()

    harness = play(app, scenario)
    pauses = [round(later - earlier) for earlier, later in pairwise(harness.times(BatchInvoked))]
    assert pauses[1:6] == [10, 20, 35, 35, 35]
    assert dependency.done == [1, 2, 3]
    assert harness.discarded == []
    assert {event.attempt for event in harness.invocations} == {1, 2, 3}


@pytest.mark.parametrize("settings", [{"lanes": 4}, {"parallelization_factor": 4}, {}])
def test_half_open_one_batch_alone_is_tried(settings: dict[str, Any]) -> None:
    dependency = Dependency()
    breaker = {"failures": 1, "pause": 100, "maximum_pause": 100}
    app = stream_app(dependency.work, shards=4, batch_size=1, circuit_breaker=breaker, **settings)

    async def scenario(harness: Harness) -> None:
        for number in range(12):
            await harness.send("stream:orders", [str(number)], key=str(number))
        await harness.advance(90)
        before = len(harness.invocations)
        await harness.advance(100)
        assert len(harness.invocations) == before + 1
        await harness.advance(100)
        assert len(harness.invocations) == before + 2
        dependency.is_up = True
        await harness.run_until_idle()

    play(app, scenario)
    assert sorted(dependency.done) == list(range(12))


def test_only_the_named_error_types_count() -> None:
    dependency = Dependency()
    dependency.error = ValueError
    breaker = {"failures": 1, "error_types": ["ConnectionError"]}

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(5)
        assert _states(harness) == []
        dependency.error = ConnectionError
        await harness.advance(60)
        assert _states(harness)[0] == "open"

    play(stream_app(dependency.work, circuit_breaker=breaker), scenario)


def test_a_success_between_failures_starts_the_count_anew() -> None:
    calls: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append(1)
        if len(calls) % 2:
            raise ConnectionError("now and then")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 10)
        await harness.run_until_idle()

    harness = play(stream_app(work, batch_size=1, circuit_breaker={"failures": 2}), scenario)
    assert _states(harness) == []


def test_its_state_is_shown_while_it_is_open() -> None:
    dependency = Dependency()

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(10)
        (status,) = (await harness.status()).mappings
        assert status.breaker is not None
        assert (status.breaker.state, status.breaker.why) == ("open", "ConnectionError: down")
        assert status.breaker.next_probe_ms - status.breaker.since_ms == 30_000
        assert status.pause is not None
        assert status.pause.by == "its circuit breaker"

    play(stream_app(dependency.work, circuit_breaker={"failures": 1}), scenario)


def test_a_person_closes_it_by_resuming_the_mapping() -> None:
    dependency = Dependency()
    app = stream_app(dependency.work, circuit_breaker={"failures": 1, "pause": 3600, "maximum_pause": 3600})

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await send_numbers(harness, 1)
        await harness.advance(10)
        assert _states(harness) == ["open"]
        dependency.is_up = True
        await control.resume()
        await harness.advance(10)
        assert dependency.done == [1]
        assert _states(harness) == ["open", "closed"]
        with pytest.raises(CommandError, match="is not paused"):
            await control.resume()

    play(app, scenario)


def test_a_probe_whose_shard_is_lost_lets_the_next_batch_be_the_probe() -> None:
    calls: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("down")
        await anyio.sleep(2)

    app = scripted_app(work, circuit_breaker={"failures": 1, "pause": 10})
    stream = ScriptedStream({"orders-0": [record(0)]})

    async def scenario(harness: Harness) -> None:
        await harness.advance(11)
        assert len(calls) == 2
        await stream.lose()
        await stream.source.take()
        await harness.advance(30)

    harness = play_scripted(app, scenario, stream)
    assert len(calls) == 3
    assert _states(harness) == ["open", "half-open", "closed"]
