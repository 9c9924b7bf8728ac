"""What every connection to Kafka shares: settings, looking up a topic, closing.

With `member.py` and `sender.py` this is where aiokafka's quirks stay. It reaches into aiokafka's private parts where
there is no other way; `pyproject.toml` therefore pins its minor version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import anyio
from aiokafka import errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.protocol.metadata import MetadataRequest

from eventcore.config.reference import Reference
from eventcore.config.structs import KafkaConfig
from eventcore.errors import SourceUnavailable
from eventcore.loop import loop_time
from eventcore.patterns.topics import SIGN, TopicPattern
from eventcore_connectors.kafka.membership import (
    MISSING_PATIENCE_S,
    OPEN_TIMEOUT_S,
    ClientClosed,
    ClientFailed,
    TopicMissing,
    Unreachable,
    describe,
    locate,
)
from eventcore_connectors.kafka.security import explain_refusal, security_settings
from eventcore_connectors.kafka.token_file import UnusableSecurity

#: A broker that knows has answered by then, seconds, also behind a slow network: connection, TLS, SASL and the question
#: are ten ways there and back. After that another is asked.
_ANSWER_TIMEOUT_S = 3.0
#: How aiokafka calls a connection to an address of its list, in a cluster that names no brokers.
_BOOTSTRAP = ("bootstrap", ConnectionGroup.DEFAULT)
#: Pause between two looks, seconds.
_LOOK_AGAIN_S = 0.1
#: So many of the topics that match an expression are named in a line.
TOPICS_SHOWN = 5
#: Leaving a group and closing connections takes milliseconds, or never ends because the broker is gone, seconds.
STOP_TIMEOUT_S = 5.0
#: What is left is closed without waiting for answers, seconds.
_ABANDON_TIMEOUT_S = 1.0


def connection_settings(config: KafkaConfig) -> dict[str, Any]:
    """Return what every kind of aiokafka client takes.

    Raises:
        Unreachable: a certificate or a key can't be loaded.
    """
    return {
        "bootstrap_servers": config.bootstrap_servers,
        "client_id": config.client_id,
        "request_timeout_ms": config.request_timeout_ms,
        "metadata_max_age_ms": config.metadata_max_age_ms,
        **_security(config),
    }


def _security(config: KafkaConfig) -> dict[str, Any]:
    try:
        return security_settings(config)
    except UnusableSecurity as error:
        raise Unreachable(f"{error}: no connection to {config.bootstrap_servers}") from error


async def connect(
    start: Callable[[], Awaitable[None]], client: Any, config: KafkaConfig, topics: str
) -> Mapping[str, int]:
    """Start a client and find topics; return their numbers of partitions; in `OPEN_TIMEOUT_S` an address at most.

    Args:
        start: connects the client.
        client: aiokafka's, which `start` connects.
        config: of the connection.
        topics: a topic's name; or an expression, which none need match yet.

    Raises:
        Unreachable: no broker answers, or the topic does not exist.
    """
    where = locate(topics, config)
    _refuse_topic_creation(client)
    _pass_silent_addresses(client)
    timeout_s = OPEN_TIMEOUT_S * len(config.bootstrap_servers.split(","))
    try:
        with anyio.fail_after(timeout_s):
            await start()
            if topics.startswith(SIGN):
                return await _find_matching(client, TopicPattern(topics))
            return {topics: await _count_partitions(client, topics, where)}
    except TimeoutError as error:
        if why := await explain_refusal(config):
            raise Unreachable(f"Kafka can't be reached: {where} ({why})") from error
        raise Unreachable(f"Kafka does not answer within {timeout_s:g} s: {where}") from error
    except (errors.KafkaError, OSError, ValueError) as error:
        # aiokafka's own sentence names internal structures; a port that is no number is a ValueError.
        why = await explain_refusal(config) or describe(error)
        raise Unreachable(f"Kafka can't be reached: {where} ({why})") from error


async def check(reference: Reference, config: KafkaConfig) -> str:
    """Return one line about the cluster and the topic, or the topics that match.

    Raises:
        SourceUnavailable: no broker answers, or the topic does not exist.
    """
    closing: list[Callable[[], Awaitable[Any]]] = []
    try:
        client: Any = AIOKafkaClient(  # type: ignore[no-untyped-call]
            **connection_settings(config)
        )
        closing.append(client.close)

        async def start() -> None:
            await client.bootstrap()

        found = await connect(start, client, config, reference.part)
        brokers = len(client.cluster.brokers())
    except Unreachable as error:
        raise SourceUnavailable(str(error), source=str(reference)) from error
    finally:
        if closing:
            await stop(*closing)
    cluster = f"Kafka at {config.bootstrap_servers}: brokers {brokers}"
    if reference.is_pattern:
        shown = ", ".join(f"`{topic}` with {count}" for topic, count in sorted(found.items())[:TOPICS_SHOWN])
        more = ", and more" if len(found) > TOPICS_SHOWN else ""
        return f"{cluster}, topics that match `{reference.part}`: {len(found)}, partitions: {shown or 'none'}{more}"
    return f"{cluster}, topic `{reference.part}`, partitions {found[reference.part]}"


async def _find_matching(client: Any, pattern: TopicPattern) -> dict[str, int]:
    """Return the topics that match, without those that brokers keep for themselves."""
    response = await _ask_any(client, MetadataRequest(None, allow_auto_topic_creation=False))
    return {
        topic: len(partitions)
        for code, topic, is_internal, partitions in (entry[:3] + entry[-1:] for entry in response.topics)
        if not code and not is_internal and pattern.match(topic)
    }


async def _count_partitions(client: Any, topic: str, where: str) -> int:
    give_up = loop_time() + MISSING_PATIENCE_S
    while True:
        request = MetadataRequest([topic], allow_auto_topic_creation=False)
        response = await _ask_any(client, request)
        found = next(entry for entry in response.topics if entry[1] == topic)
        error = errors.for_code(found[0])
        if error is errors.NoError:
            return len(found[-1])
        if error is errors.UnknownTopicOrPartitionError and loop_time() >= give_up:
            raise TopicMissing(where)
        if not error.retriable:
            raise error(where)
        await anyio.sleep(_LOOK_AGAIN_S)


async def _ask_any(client: Any, request: Any, *besides: str) -> Any:
    """Return what the first broker answers that answers at all.

    The brokers that are known may be gone by now, or hang: aiokafka asks one, and waits for `request_timeout_ms`.

    Args:
        client: aiokafka's.
        request: to be sent.
        besides: nodes beside the brokers that are known.

    Raises:
        NodeNotReadyError: none does.
    """
    for node in (*(broker.nodeId for broker in client.cluster.brokers()), *besides):
        with suppress(errors.KafkaError, TimeoutError), anyio.move_on_after(_ANSWER_TIMEOUT_S):
            _close_ended(client, node)
            connection = await client._get_conn(node)  # noqa: SLF001
            if connection is not None:
                return await connection.send(request)
    raise errors.NodeNotReadyError


def _close_ended(client: Any, node: str) -> None:
    """Close a connection that the broker has ended: aiokafka forgets it, and leaves its socket to be collected."""
    connection = client._conns.get((node, ConnectionGroup.DEFAULT))  # noqa: SLF001
    if connection is not None and not connection.connected():
        connection.close()


def _pass_silent_addresses(client: Any) -> None:
    """Let a client's start go on to the next address of its list when one says nothing.

    aiokafka waits for `request_timeout_ms`, so that a broker that hangs would keep the clients away that begin with it:
    it shuffles the list.
    """
    start, (*firsts, last) = client.bootstrap, client._bootstrap_servers.split(",")  # noqa: SLF001

    async def bootstrap() -> None:
        for address in firsts:
            client._bootstrap_servers = address  # noqa: SLF001
            with suppress(errors.KafkaConnectionError), anyio.move_on_after(OPEN_TIMEOUT_S):
                await start()
                return
        client._bootstrap_servers = last  # noqa: SLF001
        await start()

    client.bootstrap = bootstrap


@contextmanager
def told_as_ours() -> Iterator[None]:
    """Let aiokafka's errors leave as those of `membership`."""
    try:
        yield
    except errors.ConsumerStoppedError as error:
        raise ClientClosed from error
    except errors.KafkaError as error:
        raise ClientFailed(describe(error)) from error


def _refuse_topic_creation(client: Any) -> None:
    """Make the client's own metadata requests leave a missing topic missing.

    aiokafka asks in a form that creates topics on brokers which allow it; a topic that is deleted while it is read
    would come back, empty.
    """

    async def update(cluster: Any, topics: set[str]) -> bool:
        return await _update_metadata(client, cluster, topics)

    client._metadata_update = update  # noqa: SLF001


async def _update_metadata(client: Any, cluster: Any, topics: set[str]) -> bool:
    """Do what the method of that name does in aiokafka 0.14, with the creation of topics refused."""
    request = MetadataRequest(list(topics) if topics else None, allow_auto_topic_creation=False)
    try:
        is_bootstrap = _BOOTSTRAP in client._conns  # noqa: SLF001
        metadata = await _ask_any(client, request, *_BOOTSTRAP[:1] if is_bootstrap else ())
    except errors.NodeNotReadyError:
        cluster.failed_update(None)
        return False
    if not metadata.brokers:
        return False
    cluster.update_metadata(metadata)
    if _BOOTSTRAP in client._conns and client.cluster.brokers():  # noqa: SLF001
        client._conns.pop(_BOOTSTRAP).close()  # noqa: SLF001
    return True


async def stop(*steps: Callable[[], Awaitable[Any]]) -> None:
    """Stop a client in bounded time; the later steps only tidy up what a first one left that did not finish."""
    first, *rest = steps
    if not await _finishes(first, STOP_TIMEOUT_S):
        for step in rest:
            await _finishes(step, _ABANDON_TIMEOUT_S)


async def _finishes(step: Callable[[], Awaitable[Any]], timeout_s: float) -> bool:
    """Tell whether a step of stopping came to its end; nothing it raises matters any more."""
    task = asyncio.current_task()
    assert task is not None
    cancelled_before = task.cancelling()
    with anyio.move_on_after(timeout_s, shield=True) as scope:
        try:
            await step()
        except errors.KafkaError:
            return False
        except asyncio.CancelledError:
            # While its broker is away aiokafka lets the cancellation of its own tasks escape from `stop`. It is
            # told from one that is meant for us by what was asked of this task.
            if scope.cancel_called or task.cancelling() > cancelled_before:
                raise
            return False
        return True
    return False
