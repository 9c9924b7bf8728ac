"""Contestants on event patterns: our `PatternSet`, and event-ruler in Java, that take turns in one run.

Both hold the same JSON texts of 900 B against the same rules, in one thread, decoding included, and must find the same
matches.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from eventcore.app import tune_collector
from eventcore.patterns import PatternSet
from tests.benchmarks.measure import Figures
from tests.benchmarks.ruler import TakesTurn, Turn, running_ruler

#: Different events: more than the processor's caches hold of what comes of them.
EVENTS = 2_000
#: Of a lot: what rules ask for is one of so many.
LOTS = 100_000
#: Corners of a lot's outline: with so many an event has 900 B.
CORNERS = 13
#: How long a turn is: a collection of garbage or two are in it, and the machine drifts little within a pair.
TURN_S = 0.2
SEED = 900

Rule = dict[str, Any]


def _lot(number: int) -> str:
    return f"{number % LOTS:07d}"


def _of_lot(rule: Any) -> Rule:
    return {"properties": {"MAPBLKLOT": [rule]}}


#: By kind, the rule of a number. Lots are spread over their range: 7,919 has no factor in common with it.
KINDS: dict[str, Callable[[int], Rule]] = {
    "exact": lambda number: _of_lot(_lot(number * 7_919)),
    "two-fields": lambda number: {
        "properties": {"STREET": [f"STREET {number % 500}"], "ODD_EVEN": ["EO"[number // 500 % 2]]}
    },
    "prefix": lambda number: _of_lot({"prefix": _lot(number * 7_919)[:6]}),
    "suffix": lambda number: _of_lot({"suffix": f"{number % 10_000:04d}"}),
    "wildcard": lambda number: _of_lot({"wildcard": f"{_lot(number * 7_919)[:4]}*{number % 10}"}),
    "anything-but": lambda number: _of_lot({"anything-but": [_lot(number * 7_919)]}),
    "numeric": lambda number: {"properties": {"AREA": [{"numeric": [">=", number * 97, "<", number * 97 + 97]}]}},
}


def make_events(count: int) -> list[str]:
    """Return texts of lots of land with their outlines, in the style of a city's open data."""
    chance = random.Random(SEED)
    return [json.dumps(_event(chance.randrange(LOTS), chance)) for _ in range(count)]


def _event(number: int, chance: random.Random) -> dict[str, Any]:
    east, north = -122.4 + chance.random() / 10, 37.7 + chance.random() / 10
    outline = [[east + chance.random() / 1e3, north + chance.random() / 1e3, 0.0] for _ in range(CORNERS)]
    properties = {
        "MAPBLKLOT": _lot(number),
        "BLKLOT": _lot(number),
        "BLOCK_NUM": f"{number // 100:04d}",
        "LOT_NUM": f"{number % 100:03d}",
        "FROM_ST": str(number % 900),
        "TO_ST": str(number % 900 + 20),
        "STREET": f"STREET {number % 500}",
        "ST_TYPE": chance.choice(["ST", "AVE", "BLVD"]),
        "ODD_EVEN": "EO"[number // 500 % 2],
        "AREA": number,
    }
    return {"type": "Feature", "properties": properties, "geometry": {"type": "Polygon", "coordinates": [outline]}}


def against_ruler(kind: str, rules: int, turns: int, warm_up: int) -> dict[str, Figures]:
    """Let both take turns at the same events; who begins changes every pair.

    Args:
        kind: of the rules, one of `KINDS`.
        rules: how many there are.
        turns: of each, beside those that warm up.
        warm_up: events that event-ruler sees before the first turn that counts: its compiler needs some 200,000.

    Returns:
        The figures of both: the medians of their turns.
    """
    patterns = [KINDS[kind](number) for number in range(rules)]
    events = make_events(EVENTS)
    matching = PatternSet({str(number): pattern for number, pattern in enumerate(patterns)}).matching
    tune_collector()  # as the command does

    def ours(seconds: float) -> Turn:
        count = matches = 0
        began_s, cpu_s = time.perf_counter(), time.process_time()
        while time.perf_counter() < began_s + seconds:
            matches = 0
            for event in events:
                matches += len(matching(event))
            count += len(events)
        return Turn(count, time.perf_counter() - began_s, time.process_time() - cpu_s, matches)

    with running_ruler(patterns, events) as theirs:
        pair: list[tuple[TakesTurn, list[Turn]]] = [(ours, []), (theirs, [])]
        warmed = 0
        while warmed < warm_up:
            warmed += theirs(TURN_S).events
        for number in range(turns):
            for turn, taken in pair if number % 2 else reversed(pair):
                taken.append(turn(TURN_S))
    (_, own), (_, other) = pair
    if own[-1].matches != other[-1].matches:
        raise RuntimeError(f"ours matches {own[-1].matches} times, event-ruler {other[-1].matches} times")
    return {"ours": _figures(own), "peer": _figures(other)}


def _figures(turns: Sequence[Turn]) -> Figures:
    return {
        "per_s": statistics.median(turn.events / turn.wall_s for turn in turns),
        "cpu_us": statistics.median(turn.cpu_s / turn.events * 1e6 for turn in turns),
    }
