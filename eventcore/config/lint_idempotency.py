"""Checks of a mapping's idempotency."""

from __future__ import annotations

from eventcore.config.findings import Findings
from eventcore.config.handler_names import HANDLER, suggest_handler
from eventcore.config.lint_subject import Subject
from eventcore.config.structs import IdempotencyConfig
from eventcore.delivery.idempotency import parse_path

CODE = "EC147"


def paths_of(setting: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return one or several paths as several."""
    return (setting,) if isinstance(setting, str) else setting


def lint_idempotency(subject: Subject, findings: Findings) -> None:
    """Add what is wrong with a mapping's idempotency."""
    idempotency = subject.mapping.idempotency
    if idempotency is None:
        return
    path = subject.path("idempotency")
    _lint_paths(subject, idempotency, findings)
    _lint_function(subject, idempotency, findings)
    timeout_s, claim_s = subject.function.timeout if subject.function else 0, idempotency.in_progress_timeout
    if claim_s is not None and claim_s < timeout_s:
        message = f"a key would be free after {claim_s} seconds, while its function may run for {timeout_s}"
        hint = f"write {timeout_s} or more, or take it out"
        findings.add(CODE, (*path, "in_progress_timeout"), message, hint, depends_on=(subject.timeout_path,))
    if idempotency.maximum_result_bytes is not None and subject.mapping.results is None:
        message = "there are no results to keep: the mapping sends none on"
        seen = (subject.path("results"),)
        findings.add(CODE, (*path, "maximum_result_bytes"), message, "take it out", depends_on=seen)
    if subject.mapping.tumbling_window_in_seconds:
        message = "a window's state stands for all its records, also for one whose key was processed in another window"
        seen = (subject.path("tumbling_window_in_seconds"),)
        findings.add(CODE, path, message, "take out this or tumbling_window_in_seconds", depends_on=seen)


def _lint_function(subject: Subject, idempotency: IdempotencyConfig, findings: Findings) -> None:
    name, path = idempotency.key_function, (*subject.path("idempotency"), "key_function")
    if name is None:
        return
    if idempotency.key:
        seen = ((*subject.path("idempotency"), "key"),)
        message = "a key is read at a path or made by a function, and here are both"
        findings.add(CODE, path, message, "take out this or `key`", depends_on=seen)
    if not HANDLER.fullmatch(name):
        findings.add(
            CODE, path, f"`{idempotency.shown('key_function')}` is not module.attribute", suggest_handler(name)
        )


def _lint_paths(subject: Subject, idempotency: IdempotencyConfig, findings: Findings) -> None:
    for setting in ("key", "payload"):
        path = (*subject.path("idempotency"), setting)
        paths = paths_of(getattr(idempotency, setting))
        if setting == "key" and not paths and idempotency.key_function is None:
            findings.add(CODE, path, "there is no path to a key in it", 'write key = "$.id", or a key_function')
        for each in paths:
            try:
                parse_path(each)
            except ValueError as error:
                findings.add(CODE, path, str(error), 'write it as "$.order.id"')
