"""What every store decides alike of FIFO queues: which messages they take, and which they know already. Pure.

Source: Lambda semantics §3.2 "FIFO"; the texts are SQS's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from eventcore.ports.store import DEDUPLICATION_S, NewMessage, QueueSettings

#: How long a deduplication id is known, milliseconds.
DEDUPLICATION_MS = DEDUPLICATION_S * 1000
#: Deduplication ids that are forgotten at a time: more than one send adds, so that the table can't grow.
DEDUPLICATIONS_SWEPT_MAX = 20_000
#: Groups that one statement asks for: what a receive of ten can use.
GROUPS_STEP = 10
#: Letters, digits and punctuation, 1-128 of them (§3.2 "MessageGroupId / DedupId").
_NAME = re.compile(r"[!-~]{1,128}")


def check_fifo(messages: Iterable[NewMessage], settings: QueueSettings) -> None:
    """Refuse messages that a FIFO queue does not take.

    Raises:
        ValueError: a message has no group or no deduplication id, one that can't be one, or a delay of its own.
    """
    for message in messages:
        if not message.group:
            raise ValueError("The request must contain the parameter MessageGroupId.")
        if not _NAME.fullmatch(message.group):
            raise ValueError(_wrong_name("MessageGroupId", message.group))
        if message.deduplication_id and not _NAME.fullmatch(message.deduplication_id):
            raise ValueError(_wrong_name("MessageDeduplicationId", message.deduplication_id))
        if not message.deduplication_id and not settings.content_based_deduplication:
            raise ValueError(
                "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided "
                "explicitly"
            )
        if message.delay_s is not None:
            raise ValueError(wrong_type("DelaySeconds", message.delay_s))
        if message.idempotency_token:
            raise ValueError("a FIFO queue knows its messages by their deduplication ids: it takes no other token")


def wrong_type(parameter: str, value: object) -> str:
    """Return why a parameter is refused that queues of the other type have."""
    return (
        f"Value {value} for parameter {parameter} is invalid. Reason: The request include parameter that is not valid "
        "for this queue type"
    )


def _wrong_name(parameter: str, value: str) -> str:
    return (
        f"Value {value} for parameter {parameter} is invalid. Reason: {parameter} can only include alphanumeric and "
        "punctuation characters. 1 to 128 in length"
    )


def deduplication_id(message: NewMessage) -> str:
    """Return the id under which a queue knows a message: its own, or the SHA-256 of its body, in hexadecimal."""
    return message.deduplication_id or hashlib.sha256(message.body).hexdigest()


def deduplication_scope(group: str, settings: QueueSettings) -> str:
    """Return within what a message's deduplication id is one: its group, or with an empty text the whole queue."""
    return group if settings.deduplication_scope == "messageGroup" else ""
