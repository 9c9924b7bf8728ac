"""The structs of what a mapping's own tables hold: its filters, retries, idempotency and circuit breaker."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from eventcore.config.section import Section


class FilterConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One of the `filters` of `filter_criteria`."""

    pattern: Annotated[
        str | dict[str, Any],
        Meta(
            description="an event pattern: a table, or its JSON text",
            examples=['{"value": {"status": ["paid"]}}'],
        ),
    ]


class FilterCriteriaConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`filter_criteria` of a mapping: which records reach the function."""

    filters: Annotated[
        tuple[FilterConfig, ...],
        Meta(description="a record must match one of them; at most 10"),
    ]


class RetryScheduleConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`retry_schedule` of a mapping: the pauses between the tries of what keeps failing."""

    kind: Annotated[
        Literal["exponential", "linear", "list"],
        Meta(description="how pauses grow; list: as `seconds` says"),
    ]
    initial: (
        Annotated[
            float,
            Meta(ge=0.01, le=43_200, description="seconds before the first retry; linear: so much longer each time"),
        ]
        | None
    ) = None
    factor: (
        Annotated[float, Meta(ge=1, le=100, description="exponential: so many times longer each time; 2 without one")]
        | None
    ) = None
    maximum: (
        Annotated[float, Meta(ge=0.01, le=43_200, description="seconds of the longest pause; 60 without one")] | None
    ) = None
    seconds: Annotated[
        tuple[Annotated[float, Meta(ge=0, le=43_200)], ...],
        Meta(description="list: the pauses one by one; the last one again and again", examples=[[1, 10, 60, 600]]),
    ] = ()
    jitter: Annotated[
        Literal["none", "full"],
        Meta(description="full: each pause is anything from none to the whole, so that failures do not come together"),
    ] = "none"


class RetryExceptionConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One of a mapping's `retry_exceptions`: failures of one error type."""

    error_type: Annotated[
        str, Meta(min_length=1, description="the exception's name as the handler raises it", examples=["ValueError"])
    ]
    retry_schedule: (
        Annotated[RetryScheduleConfig, Meta(description="its pauses; without one as all others'")] | None
    ) = None
    maximum_retry_attempts: (
        Annotated[
            int,
            Meta(
                ge=-1,
                le=10_000,
                description="retries when a try fails with it, instead of the mapping's number; tries that failed "
                "otherwise count too; -1: without end",
            ),
        ]
        | None
    ) = None
    give_up: Annotated[bool, Meta(description="true: given up at once")] = False


class IdempotencyConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`idempotency` of a mapping: a record whose key was processed before is not given to the function again."""

    key: Annotated[
        str | tuple[str, ...],
        Meta(
            description="path into the record's JSON; a list: all of them together are the key",
            examples=["$.order_id", "order.id"],
        ),
    ] = ()
    key_function: (
        Annotated[
            str,
            Meta(
                description="instead: `module.attribute` below the function's `code`, called with each record; "
                "its text is the key, None: it has none",
                examples=["orders.key_of"],
            ),
        ]
        | None
    ) = None
    payload: Annotated[
        str | tuple[str, ...],
        Meta(
            description="paths to what must be the same when a key comes again, or the record has failed; `$` is all",
            examples=["$.amount"],
        ),
    ] = ()
    require_key: Annotated[
        bool,
        Meta(description="true: a record without a key has failed; false: it is invoked each time it comes"),
    ] = False
    expires_after: Annotated[
        int, Meta(ge=1, le=31_536_000, description="seconds for which a processed key is remembered")
    ] = 3_600
    in_progress_timeout: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=43_200,
                description="seconds after which a key is free whose engine died; 25 more than the function's timeout",
            ),
        ]
        | None
    ) = None
    maximum_result_bytes: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=1_048_576,
                description="with results: bytes kept of a record's; one with more is not remembered; 65,536",
            ),
        ]
        | None
    ) = None


class CircuitBreakerConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`circuit_breaker` of a mapping: when it stops pulling, and for how long."""

    failures: Annotated[int, Meta(ge=1, le=10_000, description="failed invocations in a row that open it")]
    pause: Annotated[
        float,
        Meta(ge=1, le=86_400, description="seconds until one batch is tried; twice as long after each that fails"),
    ] = 30.0
    maximum_pause: Annotated[float, Meta(ge=1, le=86_400, description="seconds of the longest pause")] = 600.0
    error_types: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(description="exceptions that count, by their names; without any, all do", examples=["ConnectionError"]),
    ] = ()
