"""Checks of what a Kafka mapping sends on, and of its delivery."""

from __future__ import annotations

from eventcore.config.findings import Findings
from eventcore.config.lint_subject import Subject
from eventcore.config.reference import Reference

CODE = "EC129"


def lint_results(subject: Subject, findings: Findings) -> None:
    """Add what is wrong with a stream mapping's results and delivery."""
    if subject.source.kind != "kafka":
        for setting in ("results", "delivery"):
            if getattr(subject.mapping, setting) is not None:
                message = "an embedded stream has no transactions, and sends no results on: only Kafka mappings do"
                findings.add(CODE, subject.path(setting), message, "take it out")
        return
    if subject.results is not None:
        _lint_topic(subject, subject.results, "results", findings)
        if subject.is_read_from(subject.results):
            message = "results would come back at once: this is the mapping's own source"
            findings.add("EC114", subject.path("results"), message, "write another topic")
    if subject.mapping.delivery == "exactly_once":
        _lint_exactly_once(subject, findings)


def _lint_topic(subject: Subject, topic: Reference, setting: str, findings: Findings) -> None:
    if (topic.kind, topic.name) != (subject.source.kind, subject.source.name):
        message = f"`{topic}` is no topic of the connection that the mapping reads, `{subject.source.name}`"
        hint = f"write kafka:{subject.source.name}/TOPIC"
        findings.add(CODE, subject.path(setting), message, hint, depends_on=(subject.path("source"),))


def _lint_exactly_once(subject: Subject, findings: Findings) -> None:
    mapping, path = subject.mapping, subject.path("delivery")
    connection = subject.source.name
    if mapping.on_failure is None:
        message = "what is given up would go to a queue, which no transaction of Kafka reaches"
        hint = f'write on_failure = "kafka:{connection}/failed"'
        findings.add(CODE, path, message, hint, depends_on=(subject.path("on_failure"),))
    elif subject.on_failure is not None:
        _lint_topic(subject, subject.on_failure, "on_failure", findings)
    if (mapping.lanes or 1) > 1:
        message = "a transaction moves one position of its shard, and lanes settle in another order"
        findings.add(CODE, path, message, "take the lanes out", depends_on=(subject.path("lanes"),))
    kafka = subject.pipeline.kafka.get(connection)
    if kafka is not None and kafka.isolation_level != "read_committed":
        message = f"[kafka.{connection}] reads records of transactions that may be aborted"
        hint = f'take [kafka.{connection}] isolation_level out: it is "read_committed" then'
        findings.add(CODE, path, message, hint, depends_on=(("kafka", connection, "isolation_level"),))
