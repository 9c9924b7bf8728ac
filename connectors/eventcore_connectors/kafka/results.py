"""The results of one mapping: one writer for all shards (at least once), or one a shard (exactly once)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import anyio
from aiokafka import TopicPartition

from eventcore import signals
from eventcore.config.reference import Reference
from eventcore.ports.connectors import StreamRequest
from eventcore.ports.sources import ResultRecord
from eventcore_connectors.kafka import client
from eventcore_connectors.kafka.membership import Unreachable
from eventcore_connectors.kafka.result_writer import ResultWriter, close_all
from eventcore_connectors.kafka.shards import Mark, OwnedShard


class SourceResults:
    """Writers of a source. Life: `open`, then anything, then `aclose`."""

    def __init__(self, request: StreamRequest) -> None:
        self._request = request
        self._writer: ResultWriter | None = None  #: at least once
        self._writers: dict[str, ResultWriter] = {}  #: exactly once, by shard
        self.is_exactly_once = request.is_exactly_once

    async def open(self) -> None:
        """Find the topics.

        Raises:
            Unreachable, SourceUnavailable: no broker answers, or a topic does not exist; the message names both.
        """
        if self.is_exactly_once:
            for topic in self._request.topics_written:
                await client.check(Reference("kafka", self._request.reference.name, topic), self._request.connection)
        else:
            self._writer = self._make_writer()
            await self._writer.open()

    def _make_writer(self, transactional_id: str = "") -> ResultWriter:
        request = self._request
        return ResultWriter(
            request.connection,
            request.topics_written,
            now_ms=request.context.clock.now_ms,
            transactional_id=transactional_id,
        )

    async def take(self, shards: Sequence[str]) -> None:
        """Fence off whoever owned shards before, and end what it left open; to be done before checkpoints are read.

        Raises:
            Unreachable: no broker answers.
        """
        if not self.is_exactly_once:
            return
        # Of an assignment that failed half-way: nobody else would close them.
        await close_all(self.release(shards))
        writers = {shard: self._make_writer(f"{self._request.consumer_group_id}/{shard}") for shard in shards}
        self._writers |= writers
        failures: list[Unreachable] = []

        async def open_writer(writer: ResultWriter) -> None:
            try:
                await writer.open()
            except Unreachable as error:
                failures.append(error)

        async with anyio.create_task_group() as tasks:
            for writer in writers.values():
                tasks.start_soon(open_writer, writer)
        if failures:
            raise failures[0]
        await signals.reach("results.after_fence")

    async def write(self, shard: OwnedShard, results: Sequence[ResultRecord]) -> None:
        """Write results of a shard's batch, which `settle` is called for next.

        Raises:
            WriterFenced, Unreachable: see `ResultWriter.write`.
        """
        writer = self._writers[shard.name] if self.is_exactly_once else self._writer
        assert writer is not None, "it is opened first"
        await writer.write(shard.name, results)
        await signals.reach("results.after_write")

    async def settle(self, shard: OwnedShard, mark: Mark) -> bool:
        """Note how far a shard is settled; tell whether a transaction carries it, and no other commit may."""
        writer = self._writers.get(shard.name)
        return writer is not None and await writer.settle(mark, shard.checkpoint)

    def due(self, shards: Sequence[OwnedShard]) -> list[OwnedShard]:
        """Return the shards whose transaction should end."""
        return [shard for shard in shards if shard.name in self._writers and self._writers[shard.name].is_due]

    def is_due(self, shard: OwnedShard) -> bool:
        """Tell whether a shard's transaction should end."""
        return self._writers[shard.name].is_due

    def is_overdue(self, shard: OwnedShard) -> bool:
        """Tell whether a shard's transaction could not be ended for too long."""
        return shard.name in self._writers and self._writers[shard.name].is_overdue

    def is_open(self, shard: OwnedShard) -> bool:
        """Tell whether a shard has results that no transaction has made visible yet."""
        return shard.name in self._writers and self._writers[shard.name].is_open

    async def commit(self, shard: OwnedShard, alone: AbstractAsyncContextManager[None]) -> None:
        """End a shard's transaction where it can end, and have the shard carry what it committed.

        Args:
            shard: that is owned.
            alone: keeps other commits of the shard away while it is entered.

        Raises:
            WriterFenced, Unreachable, SourceUnavailable: see `ResultWriter.commit`.
        """
        writer = self._writers.get(shard.name)
        if writer is None:
            return
        await signals.reach("results.before_commit")
        source = TopicPartition(*shard.partition)
        mark = await writer.commit(self._request.consumer_group_id, source, alone)
        # Nothing is awaited in between: a settle that waited for the end stands behind it.
        if mark is not None:
            shard.carry(mark)
        await signals.reach("results.after_commit")

    def release(self, shards: Sequence[str]) -> Sequence[ResultWriter]:
        """Forget the writers of shards, and return them to be closed; what they have not committed is undone."""
        return [self._writers.pop(shard) for shard in shards if shard in self._writers]

    async def aclose(self) -> None:
        """Close every writer."""
        writer, self._writer = self._writer, None
        writers, self._writers = list(self._writers.values()), {}
        await close_all([*writers, *([writer] if writer is not None else [])])
