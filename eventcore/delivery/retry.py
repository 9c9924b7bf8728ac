"""How often, and how soon, something is tried again."""

from __future__ import annotations

from typing import Annotated

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


class StreamRetry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a stream's failing batch is given up. Source: Lambda semantics §4."""

    #: Retries after the first invocation; -1: without end.
    maximum_retry_attempts: Annotated[int, Meta(ge=-1, le=10_000)] = -1
    #: Records older than this are given up, seconds; -1: never. 1-59 is refused by `config.lint`.
    maximum_record_age_in_seconds: Annotated[int, Meta(ge=-1, le=604_800)] = -1
    bisect_batch_on_function_error: bool = False


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
