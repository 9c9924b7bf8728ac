"""The recorded cases of event source mappings, each with what became of it here.

Every line of `esm_scenarios.jsonl` has one class: a scenario that plays it, a decision that refuses it, a capability
that it awaits, or the reason why it does not apply. The lines are read where they are (`$EVENTCORE_CONFORMANCE`).
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

CONFORMANCE = Path(os.environ.get("EVENTCORE_CONFORMANCE", Path(__file__).parents[4] / "shared" / "conformance"))
TABLE = CONFORMANCE / "esm_scenarios.jsonl"
CLASSES = Path(__file__).with_name("classes.toml")

Kind = Literal["passed", "refused", "awaiting", "not applicable"]


class Line(NamedTuple):
    """One recorded case."""

    name: str
    family: str
    facts: tuple[str, ...]


class Scenario(NamedTuple):
    """What plays one recorded case, and asserts its facts."""

    play: Callable[..., None]
    on: tuple[str, ...]  #: sources that it is played on; empty: it says so itself
    awaits: Mapping[int, str]  #: facts that it leaves out, each with the capability that they await


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    name: str, *, on: tuple[str, ...] = (), awaits: Mapping[int, str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Play a recorded case by the function below.

    Args:
        name: of the case.
        on: sources that it is played on, one after the other: `stream`, `kafka`.
        awaits: facts, counted from 1, that can't be asserted yet, each with what they await.
    """

    def register(play: Callable[..., None]) -> Callable[..., None]:
        assert name not in SCENARIOS, name
        SCENARIOS[name] = Scenario(play, on, awaits or {})
        return play

    return register


def delivery(
    name: str, *, awaits: Mapping[int, str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Play a case about the delivery of a stream, on the embedded stream and on Kafka."""
    return scenario(name, on=("stream", "kafka"), awaits=awaits)


class Classes(NamedTuple):
    """What is written down of the lines that no scenario plays."""

    capabilities: Mapping[str, str]  #: what lines may await, and what that is
    families: Mapping[str, str]  #: families that nothing is done for yet, with the capability that they await
    awaiting: Mapping[str, str]
    refused: Mapping[str, str]
    not_applicable: Mapping[str, str]
    refused_on_kafka: Mapping[str, str]  #: families of streams whose cases can't be played on Kafka


def read_classes() -> Classes:
    """Read `classes.toml`."""
    read: dict[str, Any] = tomllib.loads(CLASSES.read_text())
    awaiting = {name: capability for capability, names in read["awaiting"].items() for name in names}
    return Classes(
        read["capabilities"],
        read["families"],
        awaiting,
        read["refused"],
        read["not_applicable"],
        read["refused_on_kafka"],
    )


def read_lines() -> list[Line]:
    """Read every recorded case; empty without the folder."""
    if not TABLE.is_file():
        return []
    rows = map(json.loads, TABLE.read_text().splitlines())
    return [Line(row["name"], row["family"], tuple(row["then"])) for row in rows]


def find_kinds(line: Line, classes: Classes) -> list[tuple[Kind, str]]:
    """Return every class that a line has, with its reason: exactly one is right."""
    kinds: list[tuple[Kind, str]] = []
    if line.name in SCENARIOS:
        kinds.append(("passed", ""))
    if line.name in classes.refused:
        kinds.append(("refused", classes.refused[line.name]))
    if line.name in classes.awaiting:
        kinds.append(("awaiting", classes.awaiting[line.name]))
    if line.name in classes.not_applicable:
        kinds.append(("not applicable", classes.not_applicable[line.name]))
    if line.family in classes.families:
        kinds.append(("awaiting", classes.families[line.family]))
    return kinds
