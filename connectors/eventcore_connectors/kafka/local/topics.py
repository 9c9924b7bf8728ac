"""What a broker on this machine is asked before people come: whether it is ready, and to make topics."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError

from eventcore.errors import CommandError
from eventcore.loop import loop_time

#: A broker on this machine answers within milliseconds once it does.
_REQUEST_TIMEOUT_MS = 2000
#: Any group's name: the question makes the broker create the topic for groups' positions.
_PROBE_GROUP = "eventcore-up"
#: The broker's own topics begin with it.
_INTERNAL = "__"


@asynccontextmanager
async def _asking(address: str) -> AsyncIterator[Any]:
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=address, request_timeout_ms=_REQUEST_TIMEOUT_MS)
    try:
        await admin.start()
        yield admin
    finally:
        with anyio.CancelScope(shield=True, deadline=loop_time() + _REQUEST_TIMEOUT_MS / 1000):
            await admin.close()


async def answers(address: str) -> bool:
    """Tell whether the broker serves groups; the first group would wait for seconds without that question."""
    # aiokafka logs each try to reach a broker that is only starting.
    logger = logging.getLogger("aiokafka")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        async with _asking(address) as admin:
            await admin.find_coordinator(_PROBE_GROUP)
    except KafkaError:
        return False
    finally:
        logger.disabled = was_disabled
    return True


async def make_topics(address: str, wanted: Mapping[str, int]) -> Mapping[str, int]:
    """Make the topics that are not there, and return the partitions of all that are, by name.

    Raises:
        CommandError: the broker refuses a topic.
    """
    try:
        async with _asking(address) as admin:
            present = set(await admin.list_topics())
            for name, partitions in wanted.items():
                if name not in present:
                    await _make_topic(admin, name, partitions)
            topics = await admin.describe_topics()
    except KafkaError as error:
        raise CommandError(f"Kafka does not make the topics: {error}") from error
    counts = {topic["topic"]: len(topic["partitions"]) for topic in topics}
    # What was made just now may not be in the broker's answer yet.
    found = {name: count for name, count in counts.items() if not name.startswith(_INTERNAL)}
    return dict(sorted({**wanted, **found}.items()))


async def _make_topic(admin: Any, name: str, partitions: int) -> None:
    topic: Any = NewTopic
    answer = await admin.create_topics([topic(name, partitions, 1)])
    for _, code, message, *_ in answer.topic_errors:
        if code and code != TopicAlreadyExistsError.errno:
            raise CommandError(f"Kafka refuses the topic `{name}`: {message or f'error {code}'}")
