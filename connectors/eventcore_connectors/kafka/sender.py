"""One topic written to: aiokafka's producer, idempotent, with every wait bounded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any
from zlib import crc32

import anyio
import msgspec
from aiokafka import AIOKafkaProducer, errors

from eventcore.config.structs import KafkaConfig
from eventcore_connectors.kafka import client
from eventcore_connectors.kafka.membership import Unreachable, describe, locate

#: Records are acknowledged in milliseconds; a leader that moves needs some seconds. For one call of `send`.
SEND_TIMEOUT_S = 10.0
#: The client's own limit of one record, bytes: above anything an outbox holds, so that the broker's limit decides.
_RECORD_BYTES_MAX = 64 * 1024 * 1024


class TooLarge(Exception):
    """The broker does not take a record of this size."""


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A record to send."""

    value: bytes
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    #: Records without a key go to one partition a lane, so that a lane keeps its order; empty: to any.
    lane: str = ""


class Sender:
    """One producer for one topic: `open`, `send` again and again, `close`. Not reusable."""

    def __init__(self, config: KafkaConfig, topic: str) -> None:
        """Connect nothing yet.

        Raises:
            Unreachable: a certificate or a key can't be loaded.
        """
        self._config = config
        self._topic = topic
        self._where = locate(topic, config)
        self._partitions = 0
        self._producer = make_producer(config)

    async def open(self) -> None:
        """Connect and find the topic.

        Raises:
            Unreachable: no broker answers, or the topic does not exist; the message names both.
        """
        found = await client.connect(self._start, self._producer.client, self._config, self._topic)
        self._partitions = found[self._topic]

    async def _start(self) -> None:
        await self._producer.start()
        # A producer that does not know its topic yet would wait for it longer than a person does.
        await self._producer.client.add_topic(self._topic)

    async def send(self, letters: Sequence[Letter]) -> Sequence[tuple[int, int]]:
        """Send records; return partition and offset of each once all in-sync replicas have them.

        Within a partition they keep their order, but records behind one that is refused may be written: whoever
        needs them to wait sends one by one, for a round trip each. After an error the sender is only closed.

        Raises:
            TooLarge: the broker refuses a record for its size; others may have been written.
            Unreachable: some may have been written.
        """
        pending: list[Any] = []
        try:
            with anyio.fail_after(SEND_TIMEOUT_S):
                for letter in letters:
                    pending.append(await self._begin(letter))  # noqa: PERF401 - an error leaves those before it here
                written = [await each for each in pending]
        except errors.MessageSizeTooLargeError as error:
            raise TooLarge(f"{self._where} takes no record of this size ({describe(error)})") from error
        except (errors.KafkaError, TimeoutError) as error:
            raise Unreachable(f"can't write to {self._where} ({describe(error)})") from error
        finally:
            for each in pending:
                forget(each)
        return [(each.partition, each.offset) for each in written]

    async def _begin(self, letter: Letter) -> Any:
        return await self._producer.send(
            self._topic,
            value=letter.value,
            key=letter.key,
            headers=list(letter.headers),
            partition=self._partition(letter),
        )

    def _partition(self, letter: Letter) -> int | None:
        if letter.key is not None or not letter.lane:
            return None
        return crc32(letter.lane.encode()) % self._partitions

    async def close(self) -> None:
        """Disconnect, in bounded time. What was not acknowledged is given up: nothing is sent late."""
        await stop_producer(self._producer)


def make_producer(config: KafkaConfig, **settings: Any) -> Any:
    """Return a producer of aiokafka, idempotent, that connects nothing yet.

    Args:
        config: of the connection.
        settings: besides, by aiokafka's names.

    Raises:
        Unreachable: a certificate or a key can't be loaded.
    """
    return AIOKafkaProducer(  # type: ignore[no-untyped-call]
        **client.connection_settings(config),
        acks="all",
        enable_idempotence=True,
        max_request_size=_RECORD_BYTES_MAX,
        **settings,
    )


async def stop_producer(producer: Any) -> None:
    """Disconnect, in bounded time. What was not acknowledged is given up: nothing is sent late."""

    async def stop() -> None:
        await producer._sender.close()  # noqa: SLF001
        # `stop` would wait for the broker to take what is left, for as long as it is away.
        held = producer._message_accumulator  # noqa: SLF001
        for batch in (*chain.from_iterable(held._batches.values()), *held._pending_batches):  # noqa: SLF001
            batch.future.cancel()
        await producer.stop()

    await client.stop(stop, producer.client.close)


def forget(pending: Any) -> None:
    """Let go of a future, so that asyncio does not report an error that nobody awaits any more."""
    if not pending.cancel() and not pending.cancelled():
        pending.exception()
