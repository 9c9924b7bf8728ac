"""A topic as a destination of the outbox, and as what a person sends to."""

from __future__ import annotations

from collections.abc import Sequence

from eventcore.config.reference import Reference
from eventcore.config.structs import KafkaConfig
from eventcore.errors import DestinationRefused, DestinationUnavailable
from eventcore.ports.connectors import OutgoingRecord
from eventcore.ports.store import OutboxRow
from eventcore_connectors.kafka.membership import Unreachable
from eventcore_connectors.kafka.sender import Letter, Sender, TooLarge
from eventcore_connectors.kafka.shape import Partition

#: Equal for the same row of a redelivered batch: whoever reads the topic drops repeats by it.
IDEMPOTENCY_HEADER = "eventcore-idempotency-key"
#: Records of a person that are under way together: a fifth of a second's work, far below `SEND_TIMEOUT_S`.
SEND_AT_ONCE = 10_000


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
        """Hand rows over, one after the other: none is written before the one in front of it. See `Destination`.

        Rows with a record key go to that key's partition, others to one partition a lane.

        Raises:
            DestinationUnavailable: one row may or may not have been written; the next try connects anew.
            DestinationRefused: a row is larger than the broker takes; those behind it were not sent.
        """
        sender = await self._connected()
        taken_count = 0
        try:
            for row in rows:
                await sender.send([_letter(row)])
                taken_count += 1
        except Unreachable as error:
            await self.aclose()
            raise DestinationUnavailable(str(error), destination=self.reference, taken_count=taken_count) from error
        except TooLarge as error:
            await self.aclose()
            raise DestinationRefused(str(error), destination=self.reference, taken_count=taken_count) from error

    async def aclose(self) -> None:
        """Disconnect."""
        sender, self._sender = self._sender, None
        if sender is not None:
            await sender.close()

    async def _connected(self) -> Sender:
        if self._sender is None:
            self._sender = await _open(self._config, self._topic, self.reference)
        return self._sender


def _letter(row: OutboxRow) -> Letter:
    attributes = ((name, value.encode()) for name, value in row.attributes.items())
    return Letter(
        value=row.payload,
        key=row.record_key,
        headers=((IDEMPOTENCY_HEADER, row.key.encode()), *attributes),
        lane=row.lane,
    )


async def _open(config: KafkaConfig, topic: str, reference: str) -> Sender:
    sender: Sender | None = None
    is_open = False
    try:
        sender = Sender(config, topic)
        await sender.open()
        is_open = True
    except Unreachable as error:
        raise DestinationUnavailable(str(error), destination=reference) from error
    finally:
        # Also when it is cancelled half-way: what is connected by then is closed.
        if sender is not None and not is_open:
            await sender.close()
    return sender


async def send(
    reference: Reference, config: KafkaConfig, records: Sequence[OutgoingRecord]
) -> Sequence[tuple[str, int]]:
    """Send records and return where each went; see `Connector.send`."""
    letters = [Letter(value=record.body, key=record.key, headers=record.headers) for record in records]
    sender = await _open(config, reference.part, str(reference))
    try:
        written = [
            place
            for start in range(0, len(letters), SEND_AT_ONCE)
            for place in await sender.send(letters[start : start + SEND_AT_ONCE])
        ]
    except (Unreachable, TooLarge) as error:
        raise DestinationUnavailable(str(error), destination=str(reference)) from error
    finally:
        await sender.close()
    return [(Partition(reference.part, partition).shard, offset) for partition, offset in written]
