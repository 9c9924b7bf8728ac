"""Checks of a mapping's retry schedules, of its rules for single error types, and of its circuit breaker."""

from __future__ import annotations

from eventcore.config.defaults import effective_retry
from eventcore.config.findings import Findings
from eventcore.config.lint_subject import Subject
from eventcore.config.provenance import KeyPath
from eventcore.config.structs import CircuitBreakerConfig, RetryExceptionConfig, RetryScheduleConfig
from eventcore.delivery.retry import BACKOFF_FIRST_S, SCHEDULE_MAX_S

#: Rules of error types of one mapping: each failure looks through them.
EXCEPTIONS_MAX = 100
#: Pauses that one list names.
PAUSES_MAX = 1000
#: Failures that are no exception of the handler's have names with a dot, as Lambda's have; an exception's has none.
_DOTTED = ("Function.", "Runtime.", "Sandbox.")


def lint_retries(subject: Subject, findings: Findings) -> None:
    """Add what is wrong with a mapping's retries."""
    mapping = subject.mapping
    if mapping.retry_schedule is not None:
        _lint_schedule(mapping.retry_schedule, subject.path("retry_schedule"), findings)
        _lint_pauses_of_nothing(subject, findings)
    breaker = mapping.circuit_breaker
    if breaker is not None and breaker.pause > breaker.maximum_pause:
        message = f"the first pause of {breaker.pause:g} seconds is above the longest of {breaker.maximum_pause:g}"
        hint = f"write maximum_pause = {breaker.pause:g}, or a shorter pause"
        findings.add("EC143", (*subject.path("circuit_breaker"), "maximum_pause"), message, hint)
    if breaker is not None:
        for index, names in enumerate(zip(breaker.error_types, breaker.shown("error_types"), strict=True)):
            _lint_error_type(*names, (*subject.path("circuit_breaker"), "error_types", index), "EC143", findings)
        _lint_breaker_of_all(subject, breaker, findings)
    path = subject.path("retry_exceptions")
    if len(mapping.retry_exceptions) > EXCEPTIONS_MAX:
        message = f"{len(mapping.retry_exceptions)} error types: at most {EXCEPTIONS_MAX}"
        findings.add("EC142", path, message, "leave out those that are retried as all others")
    known: set[str] = set()
    for index, rule in enumerate(mapping.retry_exceptions):
        _lint_rule(rule, (*path, index), known, mapping.maximum_retry_attempts, findings)
        known.add(rule.error_type)


def _lint_breaker_of_all(subject: Subject, breaker: CircuitBreakerConfig, findings: Findings) -> None:
    """Warn where a record that always fails opens the breaker before its retries are used up, as then no try counts."""
    retry = effective_retry(subject.source, subject.mapping)
    tries = retry.maximum_retry_attempts + 1
    is_aged = retry.maximum_record_age_in_seconds > 0
    if not subject.source.is_stream or breaker.error_types or is_aged or tries <= breaker.failures:
        return
    message = (
        f"a record that always fails opens it after {breaker.failures} of its {tries} tries, and those while it is "
        f"open do not count: where nothing else comes in its shard, it is never given up"
    )
    hint = f'write error_types = ["ConnectionError"], or failures = {tries} or more'
    findings.warn("EC164", subject.path("circuit_breaker"), message, hint)


def _lint_pauses_of_nothing(subject: Subject, findings: Findings) -> None:
    """Refuse pauses before retries that there are none of; a rule may have retries of its own."""
    mapping = subject.mapping
    has_own = any(rule.maximum_retry_attempts and rule.retry_schedule is None for rule in mapping.retry_exceptions)
    if mapping.maximum_retry_attempts == 0 and not has_own:
        message = "nothing is retried here: its pauses have no effect"
        seen = (subject.path("maximum_retry_attempts"),)
        hint = "write maximum_retry_attempts = 1 or more, or take it out"
        findings.add("EC142", subject.path("retry_schedule"), message, hint, depends_on=seen)


def _lint_error_type(error_type: str, shown: str, path: KeyPath, code: str, findings: Findings) -> None:
    """Refuse an exception's module before its name: no failure would ever be it."""
    name = error_type.rpartition(".")[2]
    if name != error_type and not error_type.startswith(_DOTTED):
        message = f"no failure is called `{shown}`: an exception is known by its class's name alone"
        findings.add(
            code, path, message, f"write `{name}`" if name and shown == error_type else "write the class's name"
        )


def _lint_rule(
    rule: RetryExceptionConfig, path: KeyPath, known: set[str], attempts: int | None, findings: Findings
) -> None:
    _lint_error_type(rule.error_type, rule.shown("error_type"), (*path, "error_type"), "EC142", findings)
    if rule.error_type in known:
        message = f"`{rule.error_type}` has a rule already, which is the one that holds"
        findings.add("EC142", (*path, "error_type"), message, "take out one of them")
    has_retries = rule.retry_schedule is not None or rule.maximum_retry_attempts is not None
    if rule.give_up and has_retries:
        message = "what is given up at once is not retried: its other settings have no effect"
        findings.add("EC142", (*path, "give_up"), message, "take out give_up, or the others")
    if not rule.give_up and not has_retries:
        message = f"this says nothing of `{rule.error_type}`: it would be retried as all others"
        findings.add("EC142", (*path, "error_type"), message, "write give_up = true, or maximum_retry_attempts = 3")
    if rule.retry_schedule is not None:
        _lint_schedule(rule.retry_schedule, (*path, "retry_schedule"), findings)
        if (attempts if rule.maximum_retry_attempts is None else rule.maximum_retry_attempts) == 0:
            message = f"`{rule.error_type}` is not retried: these pauses have no effect"
            hint = "write maximum_retry_attempts = 1 or more, or take it out"
            findings.add("EC142", (*path, "retry_schedule"), message, hint)


def _lint_schedule(schedule: RetryScheduleConfig, path: KeyPath, findings: Findings) -> None:
    if schedule.kind == "list":
        _lint_list(schedule, path, findings)
        return
    if schedule.seconds:
        message = f"`seconds` has no effect on {schedule.kind} pauses"
        findings.add("EC142", (*path, "seconds"), message, 'write kind = "list", or take it out')
    if schedule.factor is not None and schedule.kind == "linear":
        message = "linear pauses grow by `initial` each time: a factor has no effect"
        findings.add("EC142", (*path, "factor"), message, 'write kind = "exponential", or take it out')
    first = BACKOFF_FIRST_S if schedule.initial is None else schedule.initial
    longest = SCHEDULE_MAX_S if schedule.maximum is None else schedule.maximum
    if first > longest:
        message = f"the first pause of {first:g} seconds is above the longest of {longest:g}"
        findings.add("EC142", (*path, "initial"), message, f"write initial = {longest:g} or less, or a higher maximum")


def _lint_list(schedule: RetryScheduleConfig, path: KeyPath, findings: Findings) -> None:
    for setting in ("initial", "factor", "maximum"):
        if getattr(schedule, setting) is not None:
            message = f"`{setting}` has no effect on a list: `seconds` says every pause"
            findings.add("EC142", (*path, setting), message, "take it out")
    if not 1 <= len(schedule.seconds) <= PAUSES_MAX:
        message = f"a list has 1 to {PAUSES_MAX} pauses, not {len(schedule.seconds)}"
        findings.add("EC142", (*path, "seconds"), message, "write seconds = [1, 10, 60]")
