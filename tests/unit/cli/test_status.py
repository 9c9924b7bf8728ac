"""What `status` prints of a report."""

from __future__ import annotations

import pytest

from eventcore.cli.options import Options
from eventcore.cli.output import Output
from eventcore.cli.status import show_status
from eventcore.engine.status import Blocked, BreakerStatus, MappingState, MappingStatus, Pause, ShardStatus
from eventcore.http.contract import StatusReport
from eventcore.ports.store import QueueDepth

TRACEBACK = 'Traceback (most recent call last):\n  File "orders.py", line 1\nZeroDivisionError: division by zero'


def shown(capsys: pytest.CaptureFixture[str], report: StatusReport, config: str = "") -> str:
    show_status(Output("table"), report, Options(config=config).repeat_in)
    return capsys.readouterr().out


def make_report(**mapping: object) -> StatusReport:
    fields = {"mapping": "m", "source": "queue:orders", "function": "f", "state": MappingState.ENABLED} | mapping
    return StatusReport(
        is_running=True,
        now_ms=5900,
        started_ms=3000,
        pid=7,
        version="1",
        mappings=[MappingStatus(**fields)],  # type: ignore[arg-type]
        queues=[QueueDepth(queue="orders", visible=1000, hidden=20, delayed=3)],
    )


def test_the_age_of_a_draining_engine_is_not_how_long_it_drains(capsys: pytest.CaptureFixture[str]) -> None:
    draining = StatusReport(is_running=True, now_ms=5900, started_ms=3000, pid=7, version="1", is_draining=True)
    assert "eventcore 1 draining (up 2.9 s), process 7" in shown(capsys, draining)


def test_a_queues_lag_is_what_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    row = next(line for line in shown(capsys, make_report()).splitlines() if line.startswith("m "))
    assert "1,023" in row


def test_of_a_problem_the_error_alone_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, make_report(state=MappingState.PROBLEM, reason=TRACEBACK))
    assert "PROBLEM: ZeroDivisionError: division by zero" in text
    assert "m: ZeroDivisionError: division by zero" in text
    assert "Traceback" not in text


def test_the_last_result_carries_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    blocked = Blocked(
        position=1,
        since_ms=1,
        attempt=2,
        error_type="ValueError",
        error_message="bad",
        location="a.py:1",
        next_try_ms=6000,
    )
    shard = ShardStatus(shard="orders-0", checkpoint=1, lag=1, buffered=0, blocked=blocked)
    report = make_report(source="stream:s", last_result="PROBLEM: Function call failed", shards=[shard])
    assert "PROBLEM: ValueError: bad" in shown(capsys, report)


def test_a_paused_shard_that_is_blocked_promises_no_next_try(capsys: pytest.CaptureFixture[str]) -> None:
    blocked = Blocked(
        position=1, since_ms=1, attempt=2, error_type="E", error_message="bad", location="", next_try_ms=6000
    )
    pause = Pause(by="ann", since_ms=3900)
    shard = ShardStatus(shard="orders-0", checkpoint=1, lag=1, buffered=0, blocked=blocked, pause=pause)
    text = shown(capsys, make_report(source="stream:s", shards=[shard]))
    assert "BLOCKED at 1 since" in text
    assert "attempt 2, E: bad, PAUSED by ann since" in text
    assert "next try" not in text


def test_what_ends_a_pause_and_gives_parked_records_back_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    shard = ShardStatus(shard="orders-0", checkpoint=1, lag=1, buffered=0, parked=2)
    report = make_report(source="stream:s", shards=[shard], pause=Pause(by="ann", since_ms=3900))
    text = shown(capsys, report, "shop")
    assert "PAUSED by ann since" in text
    assert ": eventcore -c shop mapping resume m\n" in text
    assert "2 keys parked: eventcore -c shop mapping redrive m\n" in text


def test_an_open_circuit_breaker_says_why_and_until_when(capsys: pytest.CaptureFixture[str]) -> None:
    breaker = BreakerStatus(state="open", since_ms=3900, next_probe_ms=8900, why="ConnectionError: down")
    text = shown(capsys, make_report(pause=Pause(by="its circuit breaker", since_ms=3900), breaker=breaker))
    assert "(2.0 s), ConnectionError: down, one batch is tried in 3.0 s: eventcore mapping resume m\n" in text


def test_without_an_engine_the_hint_names_the_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    stopped = StatusReport(is_running=False, now_ms=0, version="1")
    assert "`eventcore -c shop run` starts one" in shown(capsys, stopped, "shop")
