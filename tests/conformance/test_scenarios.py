"""Every recorded case of event source mappings has a class, and what is called passed is played.

Source: `esm_scenarios.jsonl` of the recorded cases; the rules stand in Lambda semantics §2-§5, §12.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from eventcore.errors import ConfigError
from tests.conformance.recorded_summary import summarise
from tests.conformance.scenarios import dynamodb, events, fifo, filters, kafka, kinesis, sqs, windows
from tests.conformance.scenarios.stage import Stage
from tests.conformance.scenarios.table import CONFORMANCE, SCENARIOS, Line, find_kinds, read_classes, read_lines

#: The families of the issue that built the rules; every other one awaits what it is about.
FAMILIES = [
    "sqs",
    "sqs-fifo",
    "sqs-core",
    "kinesis",
    "dynamodb",
    "dynamodb-stream",
    "windows",
    "bisect",
    "parallelization",
    "kafka",
    "async",
    "concurrency",
]
#: Modules that register scenarios.
PLAYED = (sqs, fifo, kinesis, dynamodb, filters, kafka, events, windows)
LINES = read_lines()
CLASSES = read_classes()


def _cases() -> list[object]:
    cases: list[object] = []
    for line in LINES:
        scenario = SCENARIOS.get(line.name)
        for source in scenario.on if scenario is not None and scenario.on else ("",):
            cases.append(pytest.param(line, source, id=f"{line.name}{'-on-' * bool(source)}{source}"))
    return cases or [pytest.param(None, "", id="no-recorded-cases")]


@pytest.mark.skipif(not LINES, reason=f"no recorded cases at {CONFORMANCE}: set EVENTCORE_CONFORMANCE")
@pytest.mark.parametrize(("line", "source"), _cases())
def test_recorded_case(line: Line, source: str, record_property: Callable[[str, object], None]) -> None:
    kinds = find_kinds(line, CLASSES)
    assert len(kinds) == 1, f"{line.name} ({line.family}) has {len(kinds)} classes, and wants one: {kinds}"
    ((kind, reason),) = kinds
    family = f"kafka, by lines of {line.family}" if source == "kafka" else line.family
    is_whole = kind != "passed" or not SCENARIOS[line.name].awaits
    # Before it is played: one that fails has to stand in the summary too.
    record_property("conformance", f"{family}|{kind if is_whole else 'passed in part'}")
    if kind == "passed":
        scenario = SCENARIOS[line.name]
        assert all(1 <= fact <= len(line.facts) for fact in scenario.awaits), "a fact that the line does not have"
        assert set(scenario.awaits.values()) <= set(CLASSES.capabilities), "a capability that nobody has named"
        if source:
            scenario.play(Stage(source))
        else:
            scenario.play()
    if kind in {"awaiting", "not applicable"}:
        pytest.skip(f"{kind}: {reason}")


needs_cases = pytest.mark.skipif(not LINES, reason="no recorded cases")


@needs_cases
def test_every_class_names_a_line_and_a_capability() -> None:
    names = {line.name for line in LINES}
    written = {*CLASSES.awaiting, *CLASSES.refused, *CLASSES.not_applicable, *SCENARIOS}
    assert written - names == set()
    awaited = {*CLASSES.awaiting.values(), *CLASSES.families.values()}
    assert awaited <= set(CLASSES.capabilities)


@needs_cases
def test_every_family_is_known() -> None:
    families = {line.family for line in LINES}
    assert families <= {*FAMILIES, *CLASSES.families}
    assert not set(FAMILIES) & set(CLASSES.families)


@pytest.mark.parametrize(
    "line", [line for line in LINES if line.family in CLASSES.refused_on_kafka], ids=lambda line: line.name
)
def test_recorded_case_that_kafka_refuses(line: Line, record_property: Callable[[str, object], None]) -> None:
    with pytest.raises(ConfigError, match=CLASSES.refused_on_kafka[line.family]):
        Stage("kafka").app(tumbling_window_in_seconds=10).loaded()
    record_property("conformance", f"kafka, by lines of {line.family}|refused")


@needs_cases
def test_few_lines_do_not_apply() -> None:
    """At most a tenth of a family, or one line."""
    size = Counter(line.family for line in LINES)
    left_out = Counter(line.family for line in LINES if line.name in CLASSES.not_applicable)
    assert all(count <= max(1, size[family] // 10) for family, count in left_out.items()), left_out


def test_a_line_without_a_class_and_one_with_two_are_found() -> None:
    line = Line("sqs/new-line", "sqs", ("something",))
    assert find_kinds(line, CLASSES) == []
    name = next(iter(CLASSES.awaiting))
    twice = CLASSES._replace(refused={name: "twice"})
    assert len(find_kinds(Line(name, "sqs", ()), twice)) == 2
    assert find_kinds(Line("news/line", "news", ()), CLASSES) == []


def test_the_summary_counts_a_case_that_fails() -> None:
    def report(family: str, kind: str, outcome: str, when: str = "call") -> SimpleNamespace:
        properties = [("conformance", f"{family}|{kind}")]
        return SimpleNamespace(when=when, failed=outcome == "failed", user_properties=properties)

    reports = [
        report("sqs", "passed", "passed"),
        report("sqs", "passed in part", "failed"),
        report("async", "awaiting", "skipped"),
        report("async", "awaiting", "skipped", when="teardown"),
    ]
    rows = [line.split() for line in summarise(reports)[1:]]
    assert rows == [
        ["async", "-", "-", "-", "1", "-", "-"],
        ["sqs", "1", "-", "-", "-", "-", "1"],
        ["all", "1", "-", "-", "1", "-", "1"],
    ]
