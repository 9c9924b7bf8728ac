"""The structs of what is embedded, `[queues.NAME]` and `[streams.NAME]`, and the queues that are always there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from eventcore.config.reference import DISCARDS_QUEUE, PARKED_QUEUE
from eventcore.config.section import Section


class RedrivePolicy(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`redrive_policy` of a queue: when a message goes to the dead-letter queue."""

    dead_letter_queue: Annotated[str, Meta(description="the queue's name", examples=["failed-orders"])]
    max_receive_count: Annotated[int, Meta(ge=1, le=1000, description="receives before a message goes there")] = 10


class QueueConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[queues.NAME]`: an embedded queue (Lambda semantics §3.2)."""

    visibility_timeout: Annotated[
        int, Meta(ge=0, le=43_200, description="seconds that a received message stays hidden")
    ] = 30
    message_retention_period: Annotated[
        int, Meta(ge=60, le=1_209_600, description="seconds that a message is kept")
    ] = 345_600
    delay: Annotated[int, Meta(ge=0, le=900, description="seconds before a new message shows")] = 0
    maximum_message_size: Annotated[int, Meta(ge=1024, le=1_048_576, description="bytes of one message")] = 1_048_576
    redrive_policy: (
        Annotated[RedrivePolicy, Meta(description="`{ dead_letter_queue, max_receive_count }`; without one, never")]
        | None
    ) = None
    fifo_queue: Annotated[
        bool, Meta(description="messages of a group come in order, one batch of it at a time; fixed when it is made")
    ] = False
    content_based_deduplication: Annotated[
        bool, Meta(description="FIFO: a message without a deduplication id has the SHA-256 of its body as one")
    ] = False
    deduplication_scope: Annotated[
        Literal["queue", "messageGroup"],
        Meta(description="FIFO: within what a message of a known deduplication id is taken and not delivered"),
    ] = "queue"


#: Queues that are there without being declared; a declaration of the same name replaces them. What was given up, or
#: parked, is kept for as long as a queue can keep anything.
BUILT_IN_QUEUES: Mapping[str, QueueConfig] = {
    name: msgspec.convert({"message_retention_period": 1_209_600}, QueueConfig)
    for name in (DISCARDS_QUEUE, PARKED_QUEUE)
}


class StreamConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[streams.NAME]`: an embedded stream."""

    shards: Annotated[
        int,
        Meta(ge=1, le=1000, description="ordered shards of a new stream; they may be split and merged later"),
    ] = 4
    retention_period: Annotated[int, Meta(ge=60, le=31_536_000, description="seconds that records are kept")] = 86_400
    retention_bytes: Annotated[
        int, Meta(ge=0, description="bytes of records kept, the oldest go first; 0: no limit")
    ] = 0
