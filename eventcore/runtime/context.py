"""Lambda's context object, the second argument of a handler. Source: Lambda semantics §7.4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """What stays the same for every invocation of an environment."""

    function: str
    version: str
    memory_size_mb: int
    log_group: str
    log_stream: str


class LambdaContext:
    """What a handler may ask about its invocation."""

    #: Set only for callers that sign in through Cognito, through a mobile client, or as a tenant: none comes here.
    identity: Any = None
    client_context: Any = None
    tenant_id: str | None = None

    def __init__(
        self, serving: Serving, *, request_id: str, arn: str, deadline: float, now: Callable[[], float]
    ) -> None:
        self._deadline = deadline
        self._now = now
        self.aws_request_id = request_id
        self.invoked_function_arn = arn  #: exactly as invoked, with or without a qualifier
        self.function_name = serving.function
        self.function_version = serving.version
        self.memory_limit_in_mb = str(serving.memory_size_mb)  #: text, as recorded on AWS
        self.log_group_name = serving.log_group
        self.log_stream_name = serving.log_stream

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the invocation is ended; 0 when they are over."""
        return max(0, int((self._deadline - self._now()) * 1000))

    def __repr__(self) -> str:
        return f"LambdaContext({self.function_name}, aws_request_id={self.aws_request_id!r})"
