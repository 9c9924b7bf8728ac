"""What a replay reads: a topic from its brokers, an embedded stream from whoever has its state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio
import click

from eventcore.cli.place import PipelinePlace, ReadPipeline
from eventcore.cli.reach import Asker, reach
from eventcore.config.reference import Reference
from eventcore.embedded.shapes import KinesisShape, stream_arn
from eventcore.engine.definitions import pipeline_connections
from eventcore.engine.outside import load_connector
from eventcore.errors import CommandError
from eventcore.http.contract import FindPositions, GetExtents, ReadRecords, Request, Result
from eventcore.ports.ranges import Extent, RangeSource, ReadRange
from eventcore.ports.sources import EventShape

#: Closing a connection may take this long after Ctrl-C, seconds.
CLOSE_GRACE_S = 5.0


class _AskedEachTime:
    """Whoever has the state at the moment of a request: the engine that runs, or this process for that request alone.

    A replay may take hours, in which engines start and end, and other commands look and send. To open the state takes
    4 ms, for up to a thousand records.
    """

    def __init__(self, place: PipelinePlace) -> None:
        self._place = place
        self._context = click.get_current_context()

    def ask(self, request: Request[Result]) -> Result:
        # click knows its context by thread, and this may be another one.
        with self._context.scope(cleanup=False), reach(self._place) as asker:
            return asker.ask(request)


class _AskedRange:
    """An embedded stream that is read through whoever has the state: the engine that runs, or this process."""

    def __init__(self, asker: Asker, stream: str, shape: EventShape) -> None:
        self._asker = asker
        self._stream = stream
        self.shape = shape

    async def open(self) -> Sequence[Extent]:
        """Return what each shard keeps now."""
        return await anyio.to_thread.run_sync(self._asker.ask, GetExtents(stream=self._stream))

    async def find(self, at_ms: int) -> Mapping[str, int]:
        """Return the position of a time in each shard."""
        return await anyio.to_thread.run_sync(self._asker.ask, FindPositions(stream=self._stream, at_ms=at_ms))

    async def read(self, shard: str, position: int, end: int, *, count_max: int) -> ReadRange:
        """Return records; see `RangeSource.read`."""
        request = ReadRecords(stream=self._stream, shard=shard, position=position, end=end, count_max=count_max)
        return await anyio.to_thread.run_sync(self._asker.ask, request)

    async def aclose(self) -> None:
        """Do nothing: whoever has the state keeps it."""


@asynccontextmanager
async def open_source(reference: Reference, place: PipelinePlace, pipeline: ReadPipeline) -> AsyncIterator[RangeSource]:
    """Give a source that is not open yet; it is closed with the block.

    Raises:
        CommandError: the reference leads to no connection of the pipeline.
    """
    asker = _AskedEachTime(place) if reference.kind == "stream" else None
    async with open_source_of(reference, asker, pipeline) as source:
        yield source


@asynccontextmanager
async def open_source_of(
    reference: Reference, asker: Asker | None, pipeline: ReadPipeline
) -> AsyncIterator[RangeSource]:
    """Give a source that is not open yet; it is closed with the block.

    Args:
        reference: a stream or a topic.
        asker: has the state of embedded streams; None for topics.
        pipeline: holds the connection.

    Raises:
        CommandError: the reference leads to no connection of the pipeline.
    """
    if reference.kind == "stream":
        assert asker is not None, "an embedded stream is read through whoever has the state"
        settings = pipeline.loaded.config.settings
        shape = KinesisShape(stream_arn(reference.name, region=settings.region, account_id=settings.account_id))
        yield _AskedRange(asker, reference.name, shape)
        return
    connection = pipeline_connections(pipeline.loaded).get((reference.kind, reference.name))
    if connection is None:
        raise CommandError(f"`{reference}` leads to nothing", hint=f"add [{reference.kind}.{reference.name}]")
    source = load_connector(reference.kind).open_range(reference, connection)
    try:
        yield source
    finally:
        with anyio.move_on_after(CLOSE_GRACE_S, shield=True):
            await source.aclose()
