"""How small values stand in columns: headers and attributes as msgpack, settings as JSON, lists of keys as JSON."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventcore.ports.store import Failure, QueueSettings, ShardLineage, StreamSettings

Headers = tuple[tuple[str, bytes], ...]

_msgpack = msgspec.msgpack.Encoder()
_json = msgspec.json.Encoder()
_headers = msgspec.msgpack.Decoder(Headers)
_attributes = msgspec.msgpack.Decoder(dict[str, str])
_queue_settings = msgspec.json.Decoder(QueueSettings)
_stream_settings = msgspec.json.Decoder(StreamSettings)
_lineage = msgspec.json.Decoder(ShardLineage)
_failure = msgspec.json.Decoder(Failure)


def encode_headers(headers: Headers) -> bytes | None:
    """Return headers as a column holds them."""
    return _msgpack.encode(headers) if headers else None


def decode_headers(column: bytes | None) -> Headers:
    """Return the headers that a column holds."""
    return _headers.decode(column) if column else ()


def encode_attributes(attributes: object) -> bytes:
    """Return an outbox row's attributes as a column holds them."""
    return _msgpack.encode(attributes)


def decode_attributes(column: bytes) -> dict[str, str]:
    """Return the attributes that a column holds."""
    return _attributes.decode(column)


def encode_lineage(lineage: ShardLineage) -> str:
    """Return a shard's lineage as a column holds it."""
    return _json.encode(lineage).decode()


def decode_lineage(column: str) -> ShardLineage | None:
    """Return the lineage that a column holds; None for a shard that was never split or merged."""
    return _lineage.decode(column) if column else None


def encode_list(values: Sequence[int] | Sequence[str]) -> str:
    """Return a list for ``json_each``: one statement for any number of keys."""
    return _json.encode(values).decode()


#: Where a statement finds the ends of a range of `encode_ranges`, unpacked by ``json_each`` under the name `list`.
RANGE_LOW, RANGE_HIGH = "json_extract(list.value, '$[0]')", "json_extract(list.value, '$[1]')"


def encode_ranges(ranges: Sequence[tuple[int, int]]) -> str:
    """Return ranges of keys for ``json_each``."""
    return _json.encode(ranges).decode()


def encode_settings(settings: QueueSettings | StreamSettings) -> str:
    """Return settings as a column holds them."""
    return _json.encode(settings).decode()


def decode_queue_settings(column: str) -> QueueSettings:
    """Return the settings of a queue that a column holds."""
    return _queue_settings.decode(column)


def decode_stream_settings(column: str) -> StreamSettings:
    """Return the settings of a stream that a column holds."""
    return _stream_settings.decode(column)


def encode_failure_head(failure: Failure) -> str:
    """Return what a failure says of itself, without its event and records."""
    return _json.encode(msgspec.structs.replace(failure, event=b"", records=b"")).decode()


def decode_failure(head: str, event: bytes = b"", records: bytes = b"") -> Failure:
    """Return a failure from its columns."""
    failure = _failure.decode(head)
    return msgspec.structs.replace(failure, event=event, records=records) if event or records else failure
