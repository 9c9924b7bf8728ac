"""Writes a mapping's results: durable at once, or in transactions that carry the offsets of what they were made of.

Exactly once, each shard has a transactional id of its own, made of group, topic and partition: whoever takes the shard
makes its writer first, which ends what an owner before left and fences it off, and reads the checkpoint only then. So a
process that stood still can neither write results nor move offsets any more, whatever it believes to own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from zlib import crc32

import anyio
from aiokafka import TopicPartition, errors
from aiokafka.structs import OffsetAndMetadata

from eventcore.config.structs import KafkaConfig
from eventcore.loop import loop_time
from eventcore.model import OutgoingRecord
from eventcore.ports.sources import ResultRecord
from eventcore_connectors.kafka import client
from eventcore_connectors.kafka.membership import Unreachable, describe, write_metadata
from eventcore_connectors.kafka.sender import SEND_TIMEOUT_S, forget, make_producer, stop_producer
from eventcore_connectors.kafka.shards import Mark

#: Bytes of one request for one partition: half of what brokers take by default, as one result is below that.
_BATCH_BYTES = 512 * 1024
#: A transaction ends so long after its first result, seconds, with the next settle, or where none comes with the next
#: look, which is as far away: what a reader of committed records waits for, and what is undone by a crash. Each costs
#: some 10 ms and five requests.
TRANSACTION_INTERVAL_S = 0.1
#: The broker aborts a transaction that its owner forgot, milliseconds.
_TRANSACTION_TIMEOUT_MS = 60_000
#: What ending a transaction may take, seconds: a coordinator that moves needs about three.
_END_TIMEOUT_S = 10.0

_FENCED = (errors.ProducerFenced, errors.InvalidProducerEpoch)
#: What a producer refuses; one whose transaction could not be ended refuses whatever comes next by the last of them.
_REFUSED = (errors.KafkaError, TimeoutError, errors.IllegalOperation)


class WriterFenced(Exception):
    """Another writer has the transactional id: the shard has another owner."""


class ResultWriter:
    """One producer: `open`, `write` again and again, `close`; with a transactional id, `commit` in between."""

    def __init__(
        self, config: KafkaConfig, topics: Sequence[str], *, now_ms: Callable[[], int], transactional_id: str = ""
    ) -> None:
        """Connect nothing yet.

        Args:
            config: of the connection.
            topics: that are written.
            now_ms: wall time, of the records.
            transactional_id: empty: without transactions.

        Raises:
            Unreachable: a certificate or a key can't be loaded.
        """
        self._config = config
        self._topics = topics
        self._now_ms = now_ms
        transactions: dict[str, Any] = {}
        if transactional_id:
            transactions = {
                "transactional_id": transactional_id,
                "transaction_timeout_ms": _TRANSACTION_TIMEOUT_MS,
            }
        self._producer = make_producer(config, max_batch_size=_BATCH_BYTES, **transactions)
        self._is_transactional = bool(transactional_id)
        self._pending: list[Any] = []
        self._began_s: float | None = None
        self._turn = anyio.Lock()
        self._wanted: Mark | None = None  #: of the batches whose results were written
        #: Results were written of a batch that is not settled: the transaction can't end here.
        self._is_mid_batch = False
        self._ending: anyio.CancelScope | None = None  #: while the transaction ends

    async def open(self) -> None:
        """Connect, find the topics, and with a transactional id fence off whoever had it.

        Raises:
            Unreachable: no broker answers, or a topic does not exist.
        """
        for topic in self._topics:
            await client.connect(self._start, self._producer.client, self._config, topic)
            await self._producer.client.add_topic(topic)

    async def _start(self) -> None:
        if self._producer._sender.sender_task is None:  # noqa: SLF001 - started once, for several topics
            await self._producer.start()

    @property
    def is_due(self) -> bool:
        """Whether the transaction should end: at the end of a batch, old enough, and nobody is ending it."""
        if self._began_s is None or self._is_mid_batch or self._turn.locked():
            return False
        return loop_time() >= self._began_s + TRANSACTION_INTERVAL_S

    @property
    def is_open(self) -> bool:
        """Whether results were written that no commit has made visible."""
        return self._began_s is not None

    @property
    def is_overdue(self) -> bool:
        """Whether the transaction could not be ended for longer than that may take: the broker aborts it one day."""
        return self._began_s is not None and loop_time() >= self._began_s + _END_TIMEOUT_S

    async def write(self, lane: str, results: Sequence[ResultRecord]) -> None:
        """Write results in order per key; without transactions they are durable when it returns.

        Args:
            lane: results without a key go to one partition a lane.
            results: to topics that the writer was opened with.

        Raises:
            WriterFenced: none of the transaction will ever be visible.
            Unreachable: some may have been written; in a transaction none will be visible.
        """
        async with self._turn:
            try:
                with anyio.fail_after(SEND_TIMEOUT_S):
                    if self._is_transactional and self._began_s is None:
                        await self._producer.begin_transaction()
                        self._began_s = loop_time()
                    self._is_mid_batch = self._is_transactional
                    await self._send(lane, results)
                    if not self._is_transactional:
                        await self._wait_sent()
            except _REFUSED as error:
                raise self._explain(error) from error

    async def _send(self, lane: str, results: Sequence[ResultRecord]) -> None:
        now_ms = self._now_ms()
        builders: dict[TopicPartition, Any] = {}
        for result in results:
            record = result.record
            place = TopicPartition(result.topic, self._partition(lane, result.topic, record))
            builder = builders.get(place)
            if builder is None or not _append(builder, record, now_ms):
                if builder is not None:
                    await self._send_batch(builder, place)
                builder = builders[place] = self._producer.create_batch()
                _append(builder, record, now_ms)
        for place, builder in builders.items():
            await self._send_batch(builder, place)

    def _partition(self, lane: str, topic: str, record: OutgoingRecord) -> int:
        producer = self._producer
        if record.key is None:
            partitions = producer._metadata.partitions_for_topic(topic)  # noqa: SLF001
            return crc32(lane.encode()) % len(partitions)
        return int(producer._partition(topic, None, record.key, record.body, record.key, record.body))  # noqa: SLF001

    async def _send_batch(self, builder: Any, place: TopicPartition) -> None:
        builder.close()
        self._pending.append(await self._producer.send_batch(builder, place.topic, partition=place.partition))

    async def _wait_sent(self) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        try:
            # Not awaited: a producer that is closed meanwhile cancels them, which must not cancel whoever waits here.
            await asyncio.wait(pending)
            if any(each.cancelled() for each in pending):
                raise errors.ProducerClosed
            for each in pending:
                each.result()
        finally:
            for each in pending:
                forget(each)

    async def settle(self, mark: Mark, checkpoint: int) -> bool:
        """Note how far all is settled, to go with the transaction that is open; False when none is.

        One that is ending does not carry it: its end is waited for. A mark that stands before the results in it is
        passed over: committed together, the records would come again, and their results be there twice. A worker that
        is cancelled takes the mark of its batch back so; of a batch that is half written, the next owner counts it.

        Args:
            mark: of what is settled now.
            checkpoint: of what was settled when the transaction began.
        """
        async with self._turn:
            if self._began_s is None:
                return False
            carried = self._wanted.offset if self._wanted is not None else checkpoint
            if mark.offset < carried or (self._is_mid_batch and mark.offset == carried):
                return True
            self._wanted = mark
            self._is_mid_batch = False
            return True

    async def commit(self, group: str, source: TopicPartition, alone: AbstractAsyncContextManager[None]) -> Mark | None:
        """End the transaction with the offset that `settle` noted; return it, or None when none could end.

        Shielded once ``alone`` is entered: an answer that nobody waited for would leave it open what readers see.

        Args:
            group: whose offset it is.
            source: the partition.
            alone: keeps other commits of the partition away while it is entered.

        Raises:
            WriterFenced: another owner has the shard: nothing became visible.
            Unreachable: it is not known whether it became visible; the next owner finds out. Also when `close` comes
                between.
            SourceUnavailable: ``alone`` could not be entered; the transaction is as it was.
        """
        async with self._turn:
            if self._began_s is None or self._wanted is None or self._is_mid_batch:
                return None
            mark = self._wanted
            try:
                async with alone:
                    if self._began_s is None:
                        raise errors.ProducerClosed
                    with anyio.fail_after(_END_TIMEOUT_S, shield=True) as self._ending:
                        await self._wait_sent()
                        offset = OffsetAndMetadata(mark.offset, write_metadata(mark.metadata))
                        await self._producer.send_offsets_to_transaction({source: offset}, group)
                        await self._producer.commit_transaction()
            except _REFUSED as error:
                # Some of the results may be dropped: nobody may end it once more.
                self._is_mid_batch = True
                raise self._explain(error) from error
            finally:
                self._ending = None
            self._began_s = self._wanted = None
            return mark

    def _explain(self, error: BaseException) -> WriterFenced | Unreachable:
        where = f"{', '.join(self._topics)} at {self._config.bootstrap_servers}"
        if isinstance(error, _FENCED):
            return WriterFenced(f"the transaction to {where} was ended by others ({describe(error)})")
        return Unreachable(f"results can't be written to {where} ({describe(error)})")

    async def close(self) -> None:
        """Disconnect, in bounded time; a transaction that is open is undone."""
        if self._ending is not None:
            # A producer that is stopped answers nobody.
            self._ending.deadline = loop_time()
        self._began_s = None
        for each in self._pending:
            forget(each)
        self._pending = []
        waited_for = self._waited_for()
        await stop_producer(self._producer)
        for each in (*waited_for, *self._waited_for()):
            forget(each)

    def _waited_for(self) -> Sequence[Any]:
        """Return what a transaction's end waits for: a producer that was fenced off gives each an error."""
        if not self._is_transactional:
            return ()
        transactions = self._producer._txn_manager  # noqa: SLF001
        end = transactions.wait_for_transaction_end()
        offsets = [each for _, _, each in transactions._pending_txn_offsets]  # noqa: SLF001
        return offsets if end is None else (end, *offsets)


def _append(builder: Any, record: OutgoingRecord, now_ms: int) -> bool:
    headers = list(record.headers)
    return builder.append(timestamp=now_ms, key=record.key, value=record.body, headers=headers) is not None


async def close_all(writers: Iterable[ResultWriter]) -> None:
    """Close writers side by side."""
    async with anyio.create_task_group() as tasks:
        for writer in writers:
            tasks.start_soon(writer.close)
