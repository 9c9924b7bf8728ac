"""Checks of a stream's tumbling windows."""

from __future__ import annotations

from eventcore.config.findings import Findings
from eventcore.config.lint_subject import Subject


def lint_windows(subject: Subject, findings: Findings) -> None:
    """Add what is wrong with a mapping's tumbling windows."""
    mapping = subject.mapping
    if not mapping.tumbling_window_in_seconds:
        return
    path = subject.path("tumbling_window_in_seconds")
    if subject.source.kind == "kafka":
        message = (
            "Kafka has no tumbling windows, in Lambda neither: their state goes with the checkpoint, and a commit has "
            "no room for a megabyte"
        )
        hint = "take it out, or send the records to an embedded stream"
        findings.add("EC140", path, message, hint, depends_on=(subject.path("source"),))
    if (mapping.parallelization_factor or 1) > 1:
        # Lambda refuses it too (recorded: parallelization/window-and-factor-2-rejected-kinesis).
        message = "a window has one state for its shard, and the factor has several batches of it run at a time"
        seen = (subject.path("parallelization_factor"),)
        findings.add("EC140", path, message, "take out this or parallelization_factor", depends_on=seen)
    if (mapping.lanes or 1) > 1:
        message = "a window has one state for its shard, and lanes work on many batches of it at a time"
        findings.add("EC140", path, message, "take out this or lanes", depends_on=(subject.path("lanes"),))
