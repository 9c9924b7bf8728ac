"""The lines of `eventcore run`: the name of what happened, and its facts as `name=value`."""

from __future__ import annotations

import logging
import sys

from eventcore.cli.run_log import FactsFormatter
from eventcore.telemetry.engine_log import facts
from eventcore.telemetry.events import BatchRetried, MappingStateChanged


def format_record(message: str, extra: dict[str, object], level: int = logging.INFO, exc_info: object = None) -> str:
    record = logging.getLogger("eventcore").makeRecord(
        "eventcore",
        level,
        __file__,
        1,
        message,
        (),
        exc_info,
        extra=extra,  # type: ignore[arg-type]
    )
    return FactsFormatter().format(record)


def test_an_event_is_one_line_with_its_facts_by_their_short_names() -> None:
    event = BatchRetried(
        mapping="m",
        shard="orders-0",
        first=1,
        last=2,
        count=2,
        attempt=1,
        delay_ms=2,
        error="E: a b",
        location="a.py:3",
    )
    line = format_record(event.NAME, facts(event), logging.WARNING)
    assert " WARNING batch.retried " in line
    assert line.endswith(
        'mapping=m shard=orders-0 first=1 last=2 count=2 attempt=1 delay_ms=2 error="E: a b" location=a.py:3 '
        "is_returned=false"
    )


def test_whatever_a_fact_holds_it_stays_on_its_line() -> None:
    line = format_record("x", {"eventcore.error": 'two\nlines "quoted" \x1b[2J', "eventcore.empty": ""})
    assert "\n" not in line
    assert "\x1b" not in line
    assert 'empty=""' in line


def test_a_traceback_stands_behind_its_line() -> None:
    try:
        raise LookupError("of ours")
    except LookupError:
        lines = format_record("mapping.failed", {"eventcore.mapping": "m"}, exc_info=sys.exc_info()).splitlines()
    assert lines[0].endswith("mapping=m")
    assert lines[-1] == "LookupError: of ours"


def test_a_mappings_problem_says_what_went_wrong_then_where_then_what_to_do() -> None:
    event = MappingStateChanged(mapping="m", state="Problem", why='Traceback:\n  File "a.py", line 3\nE: x y\n')
    first, *rest = format_record(event.NAME, facts(event), logging.ERROR).splitlines()
    assert first.endswith('mapping=m state=Problem why="E: x y"')
    assert rest == [
        "  Traceback:",
        '    File "a.py", line 3',
        "  E: x y",
        "  it is tried again by itself: mend the file",
    ]
