"""Messages as they stand on disk: those that were sent together in one row, a *segment*.

Rows come and go in few statements: each gives the interpreter's lock away, and with a busy event loop in the other
thread gets it back after up to its switch interval (measured: 3 s for a thousand rows, 10 ms for one that holds them).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from operator import itemgetter

import msgspec

from eventcore.store.key_ranges import KeyRange
from eventcore.store.sqlite.codec import (
    RANGE_HIGH,
    RANGE_LOW,
    Headers,
    decode_headers,
    encode_headers,
    encode_ranges,
)
from eventcore.store.sqlite.rows import RowBuffer

#: Messages of one segment: what is read at least when one of them is looked for.
SEGMENT_COUNT_MAX = 64
#: Bytes of the bodies of one segment of several messages; a longer message stands alone.
SEGMENT_BYTES_MAX = 32 * 1024
#: A message: key, id, time sent, group, headers, body.
Message = tuple[int, str, int, str, Headers, bytes]
#: What a segment keeps of it: id, time sent, group, headers, body.
Content = tuple[str, int, str, Headers, bytes]
#: What stands before the contents: id, time sent, group, bytes of headers, bytes of body.
_Head = tuple[str, int, str, int, int]


class Segment(msgspec.Struct, frozen=True, gc=False):
    """A segment as it was read: at least one message."""

    first_key: int
    end_key: int
    is_delayed: bool
    messages: list[Message]


_encode = msgspec.json.Encoder().encode
_decode_heads = msgspec.json.Decoder(list[_Head]).decode
_decode_extents = msgspec.json.Decoder(list[tuple[int, int, int, int, int]]).decode


class Run(msgspec.Struct, gc=False):
    """Messages of one queue with keys that rise by one, all delayed or none."""

    first_key: int
    is_delayed: bool
    messages: list[Content] = []

    @property
    def end_key(self) -> int:
        """The key of a message that follows."""
        return self.first_key + len(self.messages)


class SegmentBuffer:
    """Messages that wait to be written, and the segments that they make."""

    def __init__(self) -> None:
        self._rows = RowBuffer("segment", "first_key", "end_key", "is_delayed", "heads", "contents")
        self._runs: list[Run] = []
        self._last: dict[int, Run] = {}  #: by queue

    def run(self, queue: int, key: int, *, is_delayed: bool = False) -> list[Content]:
        """Return the list to which messages from a key on are to be appended, in order."""
        run = self._last.get(queue)
        if run is None or run.is_delayed is not is_delayed or run.end_key != key:
            run = self._last[queue] = Run(key, is_delayed)
            self._runs.append(run)
        return run.messages

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write the segments."""
        values = self._rows.values
        for run in self._runs:
            key = run.first_key
            for messages in _cut(run.messages):
                end_key = key + len(messages)
                values += (key, end_key, run.is_delayed, *_encode_segment(messages))
                key = end_key
        self._runs.clear()
        self._last.clear()
        self._rows.flush(connection)

    def clear(self) -> None:
        """Forget what waits."""
        self._runs.clear()
        self._last.clear()
        self._rows.values.clear()

    def __bool__(self) -> bool:
        """Tell whether anything waits."""
        return bool(self._runs)


def _cut(messages: Sequence[Content]) -> Iterator[Sequence[Content]]:
    """Return the parts of a run that make a segment each."""
    for begin in range(0, len(messages), SEGMENT_COUNT_MAX):
        part = messages[begin : begin + SEGMENT_COUNT_MAX]
        if sum([len(message[4]) for message in part]) <= SEGMENT_BYTES_MAX:
            yield part
        else:
            yield from _cut_by_size(part)


def _cut_by_size(messages: Sequence[Content]) -> Iterator[Sequence[Content]]:
    begin = size_bytes = 0
    for index, message in enumerate(messages):
        size_bytes += len(message[4])
        if size_bytes > SEGMENT_BYTES_MAX and index > begin:
            yield messages[begin:index]
            begin, size_bytes = index, len(message[4])
    yield messages[begin:]


_headers_of = itemgetter(3)


def _encode_segment(messages: Sequence[Content]) -> tuple[bytes, bytes]:
    """Return what its columns hold. This runs for every message."""
    if any(map(_headers_of, messages)):
        headers = [encode_headers(message[3]) or b"" for message in messages]
        heads = [
            (message_id, sent_ms, group, len(own), len(body))
            for (message_id, sent_ms, group, _, body), own in zip(messages, headers, strict=True)
        ]
        contents = [part for message, own in zip(messages, headers, strict=True) for part in (own, message[4])]
        return _encode(heads), b"".join(contents)
    heads = [(message_id, sent_ms, group, 0, len(body)) for message_id, sent_ms, group, _, body in messages]
    return _encode(heads), b"".join([message[4] for message in messages])


# One row for all, their bytes one after another: see above.
_GATHER = (
    "SELECT json_group_array(json_array(s.first_key, s.end_key, s.is_delayed, length(s.heads), length(s.contents))),"
    " CAST(group_concat(s.heads || s.contents, '') AS BLOB) FROM "
)
#: The first key of the segment that may hold a key.
HOLDING = "coalesce((SELECT max(first_key) FROM segment WHERE first_key <= {key}), {key})"
# What holds a key, or else begins next; and what begins within so many keys.
_FROM = (
    "WITH start (key) AS (SELECT first_key FROM segment"  # noqa: S608
    f" WHERE first_key >= {HOLDING.format(key=':key')} AND first_key < :high AND end_key > :key"
    " AND (:with_delayed OR NOT is_delayed) ORDER BY first_key LIMIT 1)"
    f" {_GATHER} start CROSS JOIN segment AS s"
    " ON s.first_key >= start.key AND s.first_key < max(start.key, :key) + :count AND s.first_key < :high"
    " WHERE :with_delayed OR NOT s.is_delayed"
)
# An IN, as several ranges may lie in one segment.
_WITHIN = (
    f"{_GATHER} segment AS s WHERE s.first_key IN (SELECT found.first_key FROM json_each(?) AS list"  # noqa: S608
    f" CROSS JOIN segment AS found ON found.first_key >= {HOLDING.format(key=RANGE_LOW)}"
    f" AND found.first_key < {RANGE_HIGH} WHERE found.end_key > {RANGE_LOW})"
)


def read_from(
    connection: sqlite3.Connection, key: int, high: int, *, count: int, with_delayed: bool = False
) -> list[Segment]:
    """Return segments with messages from a key on and below ``high``: the first there is, and those of ``count`` keys.

    The first may begin before the key.
    """
    bounds = {"key": key, "high": high, "count": count, "with_delayed": with_delayed}
    return _decode(connection.execute(_FROM, bounds).fetchone())


def read_within(connection: sqlite3.Connection, ranges: Sequence[KeyRange]) -> list[Message]:
    """Return the messages of ranges, in order."""
    found: list[Message] = []
    at = 0
    for segment in _decode(connection.execute(_WITHIN, (encode_ranges(ranges),)).fetchone()):
        first, end = segment.first_key, segment.end_key
        while at < len(ranges) and ranges[at][1] <= first:
            at += 1
        for low, high in ranges[at:]:
            if low >= end:
                break
            found += segment.messages[max(low, first) - first : min(high, end) - first]
    return found


def _decode(row: tuple[str, bytes]) -> list[Segment]:
    extents, values = row
    segments = []
    begin = 0
    for first_key, end_key, is_delayed, heads_bytes, contents_bytes in _decode_extents(extents):
        middle = begin + heads_bytes
        messages = _read_segment(first_key, values[begin:middle], values, middle)
        segments.append(Segment(first_key, end_key, bool(is_delayed), messages))
        begin = middle + contents_bytes
    # No statement says in which order rows are gathered.
    segments.sort(key=_first_key)
    return segments


def _first_key(segment: Segment) -> int:
    return segment.first_key


def _read_segment(key: int, heads: bytes, values: bytes, begin: int) -> list[Message]:
    messages: list[Message] = []
    for message_id, sent_ms, group, headers_bytes, body_bytes in _decode_heads(heads):
        headers: Headers = ()
        if headers_bytes:
            headers = decode_headers(values[begin : begin + headers_bytes])
            begin += headers_bytes
        end = begin + body_bytes
        messages.append((key, message_id, sent_ms, group, headers, values[begin:end]))
        begin = end
        key += 1
    return messages
