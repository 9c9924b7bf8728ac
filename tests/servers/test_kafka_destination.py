"""Topics as destinations, and what a person sends, on a real broker."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from eventcore.config.reference import Reference
from eventcore.errors import DestinationRefused, DestinationUnavailable
from eventcore.model import Record
from eventcore.ports.connectors import OutgoingRecord
from eventcore.ports.destinations import Destination
from eventcore.ports.store import OutboxRow
from eventcore.testing.conformance.stream import reading
from eventcore_connectors.kafka import connector
from eventcore_connectors.kafka.membership import OPEN_TIMEOUT_S
from tests.servers.kafka_cluster import CONTEXT, KafkaCluster

pytestmark = pytest.mark.any_client

#: An open or a send that fails is over by then, seconds.
FAILED_BY_S = OPEN_TIMEOUT_S + 5.0


def make_row(number: int, **changes: Any) -> OutboxRow:
    """Return a row of the lane `orders/orders-0`."""
    fields = {"key": f"row-{number}", "destination": "kafka:local/failed", "lane": "orders/orders-0"}
    return OutboxRow(**{**fields, "payload": b'{"n":%d}' % number, **changes})


def open_destination(kafka: KafkaCluster, topic: str, **settings: Any) -> Destination:
    """Return a destination that is not opened."""
    return connector.open_destination(Reference("kafka", "local", topic), kafka.config(**settings), CONTEXT)


@asynccontextmanager
async def delivering(kafka: KafkaCluster, topic: str) -> AsyncIterator[Destination]:
    """Open a destination, and close it at the end."""
    destination = open_destination(kafka, topic)
    await destination.open()
    try:
        yield destination
    finally:
        await destination.aclose()


async def read(kafka: KafkaCluster, topic: str, count: int) -> dict[str, Sequence[Record]]:
    """Return what stands in a topic, by shard, once it is that much."""
    async with reading(kafka.source(topic, f"{topic}-reader")) as reader:
        await reader.until(lambda: sum(map(len, reader.records.values())) >= count)
        return reader.records


async def test_a_row_becomes_a_record(kafka: KafkaCluster) -> None:
    """Payload, record key, attributes and the idempotency key, which is the same at every try."""
    topic = await kafka.create_topic()
    row = make_row(1, record_key=b"customer-7", attributes={"failure-id": "f-1", "reason": "RetryAttemptsExhausted"})
    async with delivering(kafka, topic) as destination:
        assert destination.reference == f"kafka:local/{topic}"
        await destination.deliver([row])
        await destination.deliver([row])
    (records,) = (await read(kafka, topic, 2)).values()
    for record in records:
        assert record.body == b'{"n":1}'
        assert record.key == b"customer-7"
        assert record.headers == (
            ("eventcore-idempotency-key", b"row-1"),
            ("failure-id", b"f-1"),
            ("reason", b"RetryAttemptsExhausted"),
        )


async def test_rows_of_a_lane_keep_their_order(kafka: KafkaCluster) -> None:
    """Without a record key a lane's rows go to one partition, so that whoever reads them sees their order."""
    topic = await kafka.create_topic(partitions=4)
    lanes = ["orders/orders-0", "orders/orders-1", "payments/payments-0", "x/x-9"]
    async with delivering(kafka, topic) as destination:
        for start in (0, 50):
            rows = [make_row(number, lane=lanes[number % 4]) for number in range(start, start + 50)]
            await destination.deliver(rows)
    by_shard = await read(kafka, topic, 100)
    sent = {lane: [b'{"n":%d}' % number for number in range(100) if lanes[number % 4] == lane] for lane in lanes}
    for bodies in sent.values():
        found = [[record.body for record in records if record.body in bodies] for records in by_shard.values()]
        assert [each for each in found if each] == [bodies]


async def test_a_missing_topic_is_named_and_not_made(kafka: KafkaCluster) -> None:
    """`open` and `send` say which topic is missing where, in seconds."""
    missing = "no-such-destination"
    destination = open_destination(kafka, missing)
    with anyio.fail_after(2 * FAILED_BY_S):
        with pytest.raises(DestinationUnavailable, match=missing) as by_open:
            await destination.open()
        await destination.aclose()
        with pytest.raises(DestinationUnavailable, match=missing) as by_send:
            await connector.send(Reference("kafka", "local", missing), kafka.config(), [OutgoingRecord(body=b"x")])
    for caught in (by_open, by_send):
        assert kafka.address in str(caught.value)
        assert caught.value.destination == f"kafka:local/{missing}"
    assert not await kafka.has_topic(missing)


async def test_a_wrong_address_is_named(kafka: KafkaCluster) -> None:
    """Nobody listens there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    destination = open_destination(kafka, "failed", bootstrap_servers=address)
    with anyio.fail_after(FAILED_BY_S), pytest.raises(DestinationUnavailable, match=address):
        await destination.open()
    await destination.aclose()


async def test_a_row_that_is_too_large_is_refused(kafka: KafkaCluster) -> None:
    """The topic's own limit decides. What is behind it waits, and is delivered when it is asked for alone."""
    topic = await kafka.create_topic(max_message_bytes="10000")
    async with delivering(kafka, topic) as destination:
        rows = [make_row(1), make_row(2, payload=b"x" * 20_000), make_row(3), make_row(4)]
        with pytest.raises(DestinationRefused, match=topic) as caught:
            await destination.deliver(rows)
        assert caught.value.destination == destination.reference
        assert caught.value.taken_count == 1
        await destination.deliver([make_row(4)])
    (records,) = (await read(kafka, topic, 2)).values()
    assert [record.body for record in records] == [b'{"n":1}', b'{"n":4}']


async def test_a_row_larger_than_the_clients_limit_is_delivered(kafka: KafkaCluster) -> None:
    """An on-failure record carries its event: several megabytes are fine where the topic takes them."""
    topic = await kafka.create_topic(max_message_bytes="8000000")
    async with delivering(kafka, topic) as destination:
        await destination.deliver([make_row(1, payload=b"x" * 6_500_000)])
    (records,) = (await read(kafka, topic, 1)).values()
    assert len(records[0].body or b"") == 6_500_000


async def test_sending_tells_where_each_record_went(kafka: KafkaCluster) -> None:
    """Shard and position, as the source names them."""
    topic = await kafka.create_topic(partitions=3)
    records = [
        OutgoingRecord(body=b"%d" % number, key=b"k%d" % number, headers=(("n", b"%d" % number),))
        for number in range(20)
    ]
    where = await connector.send(Reference("kafka", "local", topic), kafka.config(), records)
    found = await read(kafka, topic, 20)
    by_place = {(shard, record.position): record for shard, each in found.items() for record in each}
    assert len(set(where)) == 20
    for place, sent in zip(where, records, strict=True):
        record = by_place[place]
        assert (record.body, record.key, record.headers) == (sent.body, sent.key, sent.headers)


async def test_an_empty_send_is_none(kafka: KafkaCluster) -> None:
    """No records, no places."""
    assert list(await connector.send(Reference("kafka", "local", await kafka.create_topic()), kafka.config(), [])) == []
