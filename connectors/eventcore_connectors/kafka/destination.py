"""A topic as a destination of the outbox, and as what a person sends to."""

from __future__ import annotations

from collections.abc import Sequence

from eventcore.config.reference import Reference
from eventcore.config.structs import KafkaConfig
from eventcore.errors import DestinationRefused, DestinationUnavailable
from eventcore.ports.connectors import OutgoingRecord
from eventcore.ports.store import OutboxRow
from eventcore_connectors.kafka.client import Unreachable
from eventcore_connectors.kafka.sender import Letter, Sender, TooLarge
from eventcore_connectors.kafka.shape import shard_name

#: Equal for the same row of a redelivered batch: whoever reads the topic drops repeats by it.
IDEMPOTENCY_HEADER = "eventcore-idempotency-key"


class KafkaDestination:
    """A topic. Rows become records: payload, record key, attributes as headers, the row's key as a header."""

    def __init__(self, reference: Reference, config: KafkaConfig) -> None:
        self.reference = str(reference)
        self._topic = reference.part
        self._config = config
        self._sender: Sender | None = None

    async def open(self) -> None:
        """Connect and find the topic.

        Raises:
            DestinationUnavailable: no broker answers, or the topic does not exist; the message names both.
        """
        await self._connected()

    async def deliver(self, rows: Sequence[OutboxRow]) -> None:
        """Hand rows over; see `Destination.deliver`. Rows of a lane keep their order, key by key.

        Raises:
            DestinationUnavailable: some may have been written; the next try connects anew.
            DestinationRefused: a row is larger than the broker takes.
        """
        letters = [
            Letter(
                value=row.payload,
                key=row.record_key,
                headers=(
                    (IDEMPOTENCY_HEADER, row.key.encode()),
                    *((name, value.encode()) for name, value in row.attributes.items()),
                ),
                lane=row.lane,
            )
            for row in rows
        ]
        sender = await self._connected()
        try:
            await sender.send(letters)
        except Unreachable as error:
            await self.aclose()
            raise DestinationUnavailable(str(error), destination=self.reference) from error
        except TooLarge as error:
            await self.aclose()
            raise DestinationRefused(str(error), destination=self.reference) from error

    async def aclose(self) -> None:
        """Flush and disconnect."""
        sender, self._sender = self._sender, None
        if sender is not None:
            await sender.close()

    async def _connected(self) -> Sender:
        if self._sender is None:
            self._sender = await _open(self._config, self._topic, self.reference)
        return self._sender


async def _open(config: KafkaConfig, topic: str, reference: str) -> Sender:
    sender = Sender(config, topic)
    try:
        await sender.open()
    except Unreachable as error:
        await sender.close()
        raise DestinationUnavailable(str(error), destination=reference) from error
    return sender


async def send(
    reference: Reference, config: KafkaConfig, records: Sequence[OutgoingRecord]
) -> Sequence[tuple[str, int]]:
    """Send records and return where each went; see `Connector.send`."""
    sender = await _open(config, reference.part, str(reference))
    try:
        written = await sender.send(
            [Letter(value=record.body, key=record.key, headers=record.headers) for record in records]
        )
    except (Unreachable, TooLarge) as error:
        raise DestinationUnavailable(str(error), destination=str(reference)) from error
    finally:
        await sender.close()
    return [(shard_name(reference.part, partition), offset) for partition, offset in written]
