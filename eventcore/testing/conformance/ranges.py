"""The kit for `RangeSource`: what a stream keeps, read by nobody's mapping.

Subclass `RangeConformance` as a class whose name begins with `Test`, and give it a fixture `stream`: a
`RangeUnderTest`, made anew for each test. Nothing here depends on how fast anything is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
import pytest

from eventcore.delivery.ordering import EMPTY
from eventcore.errors import SourceUnavailable
from eventcore.model import Record
from eventcore.ports.ranges import Extent, RangeSource
from eventcore.testing.conformance.stream import reading
from eventcore.testing.conformance.stream_under_test import HAPPENS_WITHIN_S, StreamUnderTest

#: Records a read brings at most here: fewer than there are.
COUNT_MAX = 3


class RangeUnderTest(StreamUnderTest, Protocol):
    """One stream, made for one test, and what reads its ranges."""

    def range_source(self) -> RangeSource:
        """Return a new source of ranges, not opened."""
        ...

    def missing_range(self) -> tuple[RangeSource, Sequence[str]]:
        """Return one of a stream that does not exist, and the words that its error must contain."""
        ...


@asynccontextmanager
async def opened(source: RangeSource) -> AsyncIterator[dict[str, Extent]]:
    """Open a source for a block; give what each shard keeps."""
    try:
        with anyio.fail_after(HAPPENS_WITHIN_S):
            extents = await source.open()
        yield {extent.shard: extent for extent in extents}
    finally:
        await source.aclose()


async def read_all(source: RangeSource, shard: str, position: int, end: int) -> list[Record]:
    """Read a range in steps; each gets further."""
    records: list[Record] = []
    with anyio.fail_after(HAPPENS_WITHIN_S):
        while position < end:
            read = await source.read(shard, position, end, count_max=COUNT_MAX)
            assert len(read.records) <= COUNT_MAX
            assert read.next > position
            assert read.records or read.next >= end, "empty before the end"
            assert all(position <= record.position < min(end, read.next) for record in read.records)
            records += read.records
            position = read.next
    return records


class RangeConformance:
    """What every source of ranges keeps."""

    async def test_each_shard_is_read_to_the_end_that_was_there(self, stream: RangeUnderTest) -> None:
        """In order, over several reads; what is sent after `open` is not part of it."""
        sent = {shard: await stream.send(shard, [b"%d" % number for number in range(7)]) for shard in stream.shards[:2]}
        source = stream.range_source()
        async with opened(source) as extents:
            assert sorted(extents) == sorted(stream.shards)
            for shard, positions in sent.items():
                await stream.send(shard, [b"later"])
                extent = extents[shard]
                assert (extent.first, extent.end) == (positions[0], positions[-1] + 1)
                records = await read_all(source, shard, extent.first, extent.end)
                assert [record.body for record in records] == [b"%d" % number for number in range(7)]
                assert [record.position for record in records] == list(positions)

    async def test_a_shard_without_records_has_no_range(self, stream: RangeUnderTest) -> None:
        """It is named all the same, and a read of it ends at once."""
        source = stream.range_source()
        async with opened(source) as extents:
            extent = extents[stream.shards[0]]
            assert extent.first == extent.end
            read = await source.read(extent.shard, extent.first, extent.end, count_max=COUNT_MAX)
            assert not read.records
            assert read.next >= extent.end

    async def test_any_part_can_be_read_again_and_again(self, stream: RangeUnderTest) -> None:
        """Positions are the reader's own: forwards, backwards, and of shards in turn."""
        first, second = stream.shards[:2]
        here = await stream.send(first, [b"%d" % number for number in range(8)])
        there = await stream.send(second, [b"other"])
        source = stream.range_source()
        async with opened(source):
            for begin, end in ((5, 7), (0, 2), (1, 6), (1, 6)):
                records = await read_all(source, first, here[begin], here[end])
                assert [record.body for record in records] == [b"%d" % number for number in range(begin, end)]
                (other,) = await read_all(source, second, there[0], there[0] + 1)
                assert other.body == b"other"

    async def test_records_are_those_that_a_mapping_gets(self, stream: RangeUnderTest) -> None:
        """With key, headers and time."""
        shard = stream.shards[0]
        await stream.send(shard, [b"\x00\xff", b""], key=b"k\xfe", headers=(("h", b"\x01"), ("h", b"")))
        source = stream.range_source()
        async with opened(source) as extents, reading(stream.source()) as reader:
            await reader.until(lambda: len(reader.records.get(shard, ())) == 2)
            records = await read_all(source, shard, extents[shard].first, extents[shard].end)
        assert [_facts(record) for record in records] == [_facts(record) for record in reader.records[shard]]

    async def test_a_time_is_the_position_of_the_first_record_at_or_after_it(self, stream: RangeUnderTest) -> None:
        """And the end where no record is that young."""
        shard = stream.shards[0]
        positions: list[int] = []
        for body in (b"a", b"b", b"c"):
            positions += await stream.send(shard, [body])
            await stream.pass_time(5)
        source = stream.range_source()
        async with opened(source) as extents:
            times = [
                record.arrived_ms for record in await read_all(source, shard, extents[shard].first, extents[shard].end)
            ]
            assert len(set(times)) == 3
            assert (await source.find(0))[shard] == positions[0]
            for at_ms, position in zip(times, positions, strict=True):
                assert (await source.find(at_ms))[shard] == position
            assert (await source.find(times[0] + 1))[shard] == positions[1]
            nothing = await source.find(times[-1] + 1)
            assert nothing == {name: extent.end for name, extent in extents.items()}

    async def test_what_retention_took_before_is_no_part_of_it(self, stream: RangeUnderTest) -> None:
        """A shard begins at the oldest record that is kept."""
        shard = stream.shards[0]
        positions = await stream.send(shard, [b"%d" % number for number in range(6)])
        await stream.trim(shard, positions[4])
        source = stream.range_source()
        async with opened(source) as extents:
            records = await read_all(source, shard, extents[shard].first, extents[shard].end)
        assert [record.body for record in records] == [b"4", b"5"]

    async def test_what_retention_takes_meanwhile_is_passed_over(self, stream: RangeUnderTest) -> None:
        """The rest is read."""
        shard = stream.shards[0]
        positions = await stream.send(shard, [b"%d" % number for number in range(6)])
        source = stream.range_source()
        async with opened(source) as extents:
            await stream.trim(shard, positions[4])
            # From the second one: a first read may be under way since `open`.
            records = await read_all(source, shard, positions[1], extents[shard].end)
        assert [record.body for record in records] == [b"4", b"5"]

    async def test_what_retention_took_altogether_is_read_to_its_end(self, stream: RangeUnderTest) -> None:
        """Nothing is waited for."""
        shard = stream.shards[0]
        positions = await stream.send(shard, [b"%d" % number for number in range(6)])
        source = stream.range_source()
        async with opened(source) as extents:
            await stream.trim(shard, positions[-1] + 1)
            assert await read_all(source, shard, positions[1], extents[shard].end) == []

    async def test_it_disturbs_no_mapping(self, stream: RangeUnderTest) -> None:
        """Neither the checkpoint nor who owns the shards."""
        shard = stream.shards[0]
        positions = await stream.send(shard, [b"%d" % number for number in range(4)])
        source = stream.range_source()
        async with reading(stream.source()) as reader:
            await reader.until(lambda: len(reader.records.get(shard, ())) == 4)
            await reader.settle(shard, positions[2], EMPTY, is_urgent=True)
            owned = list(reader.history)
            async with opened(source) as extents:
                assert len(await read_all(source, shard, extents[shard].first, extents[shard].end)) == 4
            await stream.send(shard, [b"next"])
            await reader.until(lambda: len(reader.records[shard]) == 5)
            assert reader.history == owned
        assert await stream.checkpoint(shard) == (positions[2], EMPTY)

    async def test_a_stream_that_does_not_exist_is_said_to_be_so(self, stream: RangeUnderTest) -> None:
        """With its name, in bounded time."""
        source, words = stream.missing_range()
        with pytest.raises(SourceUnavailable) as refused:
            async with opened(source):
                pass
        for word in words:
            assert word in str(refused.value)


def _facts(record: Record) -> tuple[object, ...]:
    return (record.position, record.body, record.key, list(record.headers), record.arrived_ms)
