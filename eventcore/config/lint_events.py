"""Checks of what becomes of events that wait for a function. Source: Lambda semantics §2."""

from __future__ import annotations

from eventcore.config.convert import Draft
from eventcore.config.findings import Findings
from eventcore.config.lint_references import check_name, read_reference, used_by
from eventcore.config.provenance import KeyPath
from eventcore.config.reference import DESTINATION_KINDS, FAILURE_KINDS
from eventcore.config.structs import FunctionConfig

#: Settings that hold the reference of a destination, and which kinds each takes.
DESTINATIONS = {"on_success": DESTINATION_KINDS, "on_failure": FAILURE_KINDS}


def lint_events(name: str, function: FunctionConfig, draft: Draft, findings: Findings) -> None:
    """Add what is wrong with a function's destinations, and with what limits its invocations."""
    path: KeyPath = ("functions", name)
    for setting, kinds in DESTINATIONS.items():
        if getattr(function, setting) is None:
            continue
        reference = read_reference(draft, findings, function, (*path, setting), kinds)
        if reference is not None and reference.kind == "function" and reference.name == name:
            message = "You can't specify the function as a destination for itself."
            hint, aws_code = "write another destination", "InvalidParameterValueException"
            findings.add("EC115", (*path, setting), message, hint, aws_code=aws_code)
        if reference is not None and reference.kind == "queue":
            _lint_no_fifo(draft, (*path, setting), reference.name, findings)
    if function.dead_letter_queue is not None:
        queue = check_name(draft, findings, function, (*path, "dead_letter_queue"), "queues")
        _lint_no_fifo(draft, (*path, "dead_letter_queue"), queue or "", findings)
    reserved: KeyPath = (*path, "reserved_concurrent_executions")
    if function.reserved_concurrent_executions is not None and findings.provenance.is_written((*path, "concurrency")):
        message = "both name the same limit: concurrency has no effect beside reserved_concurrent_executions"
        findings.add("EC118", (*path, "concurrency"), message, "take out one of the two", depends_on=(reserved,))


def _lint_no_fifo(draft: Draft, path: KeyPath, name: str, findings: Findings) -> None:
    """Refuse FIFO queues, as Lambda does (§2.1, §2.2)."""
    queue = draft.config.queues.get(name)
    if queue is not None and queue.fifo_queue:
        message = f"`{name}` is a FIFO queue: only standard queues take records and dead letters"
        findings.add("EC133", path, message, "write a standard queue", depends_on=(("queues", name, "fifo_queue"),))


def used_by_events(function: FunctionConfig) -> set[tuple[str, str]]:
    """Return what a function's destinations use: table and name."""
    used = used_by(*[getattr(function, setting) for setting in DESTINATIONS])
    if function.dead_letter_queue is not None:
        used.add(("queues", function.dead_letter_queue))
    return used
