"""Checks of batches that hold one record each."""

from __future__ import annotations

from eventcore.config.findings import Findings
from eventcore.config.lint_subject import Subject


def lint_batches_of_one(subject: Subject, findings: Findings) -> None:
    """Refuse what gathers or splits batches where each is a single record."""
    mapping = subject.mapping
    if mapping.batch_size != 1:
        return
    hint, seen = "take it out, or write batch_size = 2 or more", (subject.path("batch_size"),)
    if mapping.maximum_batching_window_in_seconds:
        message = "a batch of one record is full at once: nothing waits, and this has no effect"
        findings.add("EC118", subject.path("maximum_batching_window_in_seconds"), message, hint, depends_on=seen)
    if mapping.bisect_batch_on_function_error and subject.source.is_stream:
        message = "a batch of one record can't be split: this has no effect"
        findings.add("EC118", subject.path("bisect_batch_on_function_error"), message, hint, depends_on=seen)
