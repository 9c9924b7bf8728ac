"""The struct of a `[functions.NAME]` table."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from eventcore.config.section import Section


class FunctionConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[functions.NAME]`: what is run."""

    handler: Annotated[str, Meta(description="`module.attribute` below `code`", examples=["orders.enrich"])]
    code: Annotated[str, Meta(min_length=1, description="folder, relative to the pipeline file", examples=["src"])] = (
        "."
    )
    runtime: Annotated[
        Literal["process", "inline"],
        Meta(
            description="process: isolated, with a hard deadline; inline: in the engine's loop, for trusted async code"
        ),
    ] = "process"
    timeout: Annotated[int, Meta(ge=1, le=900, description="seconds that one invocation may take")] = 3
    memory_size: Annotated[
        int, Meta(ge=128, le=10_240, description="MB of resident memory of an environment and its descendants")
    ] = 512
    ephemeral_storage: Annotated[int, Meta(ge=512, le=10_240, description="MB in the environment's TMPDIR")] = 512
    environment: Annotated[dict[str, str], Meta(description="environment variables; `${env:NAME}` for secrets")] = (
        field(default_factory=dict)
    )
    concurrency: Annotated[
        int, Meta(ge=1, le=1000, description="environments, and so invocations, at the same time")
    ] = 10
    reserved_concurrent_executions: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=1000,
                description="Lambda's name for the same limit, written instead of `concurrency`; 0: none runs at all",
            ),
        ]
        | None
    ) = None
    preload: Annotated[
        tuple[str, ...], Meta(description="modules imported once, in a zygote of the function's own")
    ] = ()
    start: Annotated[Literal["fork", "spawn"], Meta(description="how an environment's process begins")] = "fork"
    idle_timeout: Annotated[
        float, Meta(ge=1, le=86_400, description="seconds after which an idle environment is ended")
    ] = 600.0
    # -- asynchronous invocation
    maximum_retry_attempts: Annotated[
        int, Meta(ge=0, le=2, description="retries of an event that waited for the function; after 1 and 2 minutes")
    ] = 2
    maximum_event_age_in_seconds: Annotated[
        int, Meta(ge=60, le=21_600, description="an event whose next try would come later than this is given up")
    ] = 21_600
    on_success: (
        Annotated[
            str,
            Meta(
                description="destination for the record of an event that succeeded",
                examples=["queue:done", "function:next-step"],
            ),
        ]
        | None
    ) = None
    on_failure: (
        Annotated[
            str,
            Meta(
                description="destination for the record of an event that was given up",
                examples=["queue:failed", "kafka:local/failed"],
            ),
        ]
        | None
    ) = None
    dead_letter_queue: (
        Annotated[
            str, Meta(description="the queue that gets the event itself when it is given up", examples=["failed"])
        ]
        | None
    ) = None
    recursive_loop: Annotated[
        Literal["Terminate", "Allow"],
        Meta(description="Terminate: what came through the function 16 times in one chain is given up"),
    ] = "Terminate"

    @property
    def invocations_max(self) -> int:
        """How many invocations may run at the same time."""
        reserved = self.reserved_concurrent_executions
        return self.concurrency if reserved is None else reserved

    @property
    def limit_setting(self) -> str:
        """The name of the setting that says so."""
        return "concurrency" if self.reserved_concurrent_executions is None else "reserved_concurrent_executions"


#: Settings of a function's own processes: an inline function has none.
PROCESS_SETTINGS = ("memory_size", "ephemeral_storage", "environment", "preload", "start", "idle_timeout")
