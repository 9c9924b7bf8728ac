"""How often, and how soon, something is tried again."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

#: The first unchanged retry of a stream's batch waits this long (recorded: 0.19-0.27 s; Lambda semantics §12).
BACKOFF_FIRST_S = 0.2
#: The longest pause between two tries of a stream's batch (Lambda semantics §4 gives no figure; 60 s is common).
BACKOFF_MAX_S = 60.0
#: Pauses are spread by a fifth to both sides, so that shards that failed together do not retry together.
JITTER_SHARE = 0.2
#: Without limits of their own, the records of a mapping with a destination are tried this often again (§5.1).
KAFKA_ATTEMPTS_WITH_DESTINATION = 10


#: The longest pause of a schedule that names none, seconds.
SCHEDULE_MAX_S = 60.0
#: An exponential schedule that names no factor doubles.
SCHEDULE_FACTOR = 2.0


class RetrySchedule(msgspec.Struct, frozen=True, kw_only=True):
    """How long the pauses between the tries of what keeps failing are."""

    kind: Literal["exponential", "linear", "list"] = "exponential"
    first_s: float = BACKOFF_FIRST_S  #: before the first retry; linear: so much longer each time
    factor: float = SCHEDULE_FACTOR  #: exponential
    max_s: float = SCHEDULE_MAX_S
    pauses_s: tuple[float, ...] = ()  #: of a list; the last one is that of all further retries
    is_spread: bool = False  #: full jitter: anything between none and the whole pause

    def pause_ms(self, retry: int, jitter: float) -> int:
        """Return the pause before a retry in milliseconds.

        Args:
            retry: 1 for the first retry.
            jitter: in [0, 1).
        """
        if self.kind == "list":
            pause_s = self.pauses_s[min(retry, len(self.pauses_s)) - 1]
        elif self.kind == "linear":
            pause_s = min(self.max_s, self.first_s * retry)
        else:
            pause_s = min(self.max_s, self.first_s * _power(self.factor, retry - 1))
        return round(pause_s * (jitter if self.is_spread else 1.0) * 1000)


def _power(factor: float, exponent: int) -> float:
    try:
        return factor**exponent
    except OverflowError:
        return float("inf")


class ErrorRetry(msgspec.Struct, frozen=True, kw_only=True):
    """How failures of one error type are retried, where it is not as all others."""

    error_type: str  #: the exception's name, as the handler raises it
    schedule: RetrySchedule | None = None  #: None: as all others
    maximum_retry_attempts: int | None = None  #: None: as all others
    gives_up: bool = False  #: at once


class RetryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a mapping says of its retries beyond Lambda's settings."""

    schedule: RetrySchedule | None = None  #: None: as without a plan
    errors: tuple[ErrorRetry, ...] = ()

    def gives_up(self, error_type: str, attempt: int) -> bool:
        """Tell whether an error type's own rule ends the tries after ``attempt`` failed ones."""
        rule = self.find(error_type)
        if rule is None or rule.gives_up:
            return rule is not None
        return rule.maximum_retry_attempts is not None and is_exhausted(attempt, rule.maximum_retry_attempts)

    def find(self, error_type: str) -> ErrorRetry | None:
        """Return an error type's own rule."""
        return next((rule for rule in self.errors if rule.error_type == error_type), None)

    def find_schedule(self, error_type: str) -> RetrySchedule | None:
        """Return the schedule of an error type; None: the pauses are as without a plan."""
        rule = self.find(error_type)
        return self.schedule if rule is None or rule.schedule is None else rule.schedule


#: A mapping that says nothing of its retries.
NO_PLAN = RetryPlan()


class StreamRetry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a stream's failing batch is given up. Source: Lambda semantics §4."""

    #: Retries after the first invocation; -1: without end.
    maximum_retry_attempts: Annotated[int, Meta(ge=-1, le=10_000)] = -1
    #: Records older than this are given up, seconds; -1: never. 1-59 is refused by `config.lint`.
    maximum_record_age_in_seconds: Annotated[int, Meta(ge=-1, le=604_800)] = -1
    bisect_batch_on_function_error: bool = False
    plan: RetryPlan = NO_PLAN

    def pause_ms(self, attempt: int, error_type: str, jitter: float) -> int:
        """Return the pause after so many failed attempts, milliseconds; jitter in [0, 1)."""
        schedule = self.plan.find_schedule(error_type)
        return backoff_ms(attempt, jitter) if schedule is None else schedule.pause_ms(attempt, jitter)

    def is_over(self, attempt: int, error_type: str) -> bool:
        """Tell whether so many failed attempts, the last one with this error, are all there are.

        An error type's own number of retries holds instead of the mapping's.
        """
        rule = self.plan.find(error_type)
        if rule is None or (rule.maximum_retry_attempts is None and not rule.gives_up):
            return is_exhausted(attempt, self.maximum_retry_attempts)
        return self.plan.gives_up(error_type, attempt)


def backoff_ms(retry: int, jitter: float, *, first_s: float = BACKOFF_FIRST_S, max_s: float = BACKOFF_MAX_S) -> int:
    """Return the pause before a retry in milliseconds: doubling, spread by `JITTER_SHARE`.

    Args:
        retry: 1 for the first retry.
        jitter: in [0, 1).
        first_s: pause before the first retry, seconds.
        max_s: longest pause, seconds, spread included.
    """
    # 2**40 s is past any cap; the bound keeps the power small for a batch that has failed for weeks.
    pause_s = min(max_s, first_s * 2 ** min(retry - 1, 40))
    spread = 1 + JITTER_SHARE * (2 * jitter - 1)
    return int(min(max_s, pause_s * spread) * 1000)


def is_exhausted(attempt: int, maximum_retry_attempts: int) -> bool:
    """Tell whether ``attempt`` failed invocations use up 1 + ``maximum_retry_attempts``. Source: §4 (recorded)."""
    return maximum_retry_attempts >= 0 and attempt > maximum_retry_attempts
