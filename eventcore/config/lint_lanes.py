"""Checks of a stream's lanes, and of where their records are parked."""

from __future__ import annotations

from eventcore.config.defaults import PARKING
from eventcore.config.findings import Findings
from eventcore.config.lint_subject import Subject


def lint_lanes(subject: Subject, findings: Findings) -> None:
    """Add what is wrong with a mapping's lanes."""
    lanes = subject.mapping.lanes or 1
    if lanes == 1 and subject.mapping.parking is not None:
        message = "nothing is parked without lanes: a failing batch blocks its shard"
        findings.add(
            "EC118",
            subject.path("parking"),
            message,
            "write lanes = 10, or take it out",
            depends_on=(subject.path("lanes"),),
        )
    if subject.parking is None:
        return
    if subject.is_read_from(subject.parking):
        message = "what is parked would come back at once: this is the mapping's own source"
        findings.add(
            "EC114", subject.path("parking"), message, "write another place", depends_on=(subject.path("source"),)
        )
    elif subject.on_failure is not None and subject.address(subject.parking) == subject.address(subject.on_failure):
        message = "what is given up and what is to be given back would stand in one place: this is on_failure as well"
        findings.add(
            "EC114",
            subject.path("parking"),
            message,
            "write another place",
            depends_on=(subject.path("on_failure"),),
        )


def lint_parallelization(subject: Subject, findings: Findings) -> None:
    """Add what is wrong with a mapping's parallelization factor."""
    factor = subject.mapping.parallelization_factor or 1
    path = subject.path("parallelization_factor")
    if subject.mapping.parallelization_factor is not None and subject.source.kind == "kafka":
        message = "Kafka mappings have no parallelization factor, in Lambda neither"
        instead = f"write lanes = {factor}: so many keys of a partition at a time, each in order"
        hint = "take it out" if factor == 1 else instead
        findings.add("EC141", path, message, hint, depends_on=(subject.path("source"),))
        return
    if factor == 1:
        return
    if (subject.mapping.lanes or 1) > 1:
        message = "both divide a shard's records: lanes by key, the factor into so many parts of several keys each"
        findings.add("EC141", path, message, "take out this or lanes", depends_on=(subject.path("lanes"),))


def lint_kafka_lanes(subject: Subject, findings: Findings) -> None:
    """Add what is seldom meant with a Kafka mapping's lanes."""
    place = subject.parking or (PARKING if subject.mapping.parking is None else None)
    if (subject.mapping.lanes or 1) > 1 and place is not None and place.kind == "queue":
        message = (
            f"`{place}` lies in this state folder: another engine that takes a shard over can't give back what is "
            f"parked there"
        )
        hint = f'with several engines, park in a topic: parking = "kafka:{subject.source.name}/parked"'
        findings.warn("EC154", subject.path("parking"), message, hint)
