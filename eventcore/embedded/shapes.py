"""How records of embedded queues and streams look to a Lambda-shaped handler: as those of SQS and of Kinesis.

Invariant: an event is what the AWS service would have delivered, key by key; nothing of ours is added but where bytes
have no place in it (see `SqsShape`).
"""

from __future__ import annotations

import hashlib
from binascii import b2a_base64
from collections.abc import Hashable, Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from eventcore.clock import iso_ms
from eventcore.delivery.lineage import LINEAGE
from eventcore.embedded.sharding import SHARD_DIGITS
from eventcore.model import Record

#: The attribute that marks a body which is not text and so is delivered in base64.
BODY_ENCODING = "eventcore-body-encoding"
#: The data types of SQS's message attributes; each may carry a label (`Number.int`).
_DATA_TYPES = frozenset({"String", "Number", "Binary"})
#: SQS message attributes are hashed with one byte that tells text from bytes.
_TEXT, _BYTES = b"\x01", b"\x02"
#: Keys, quotes, ids and numbers around one message beside its ARN and body, bytes; a receipt of 200 bytes included.
_SQS_OVERHEAD_BYTES = 900
#: Keys and quotes around one message attribute, bytes.
_ATTRIBUTE_OVERHEAD_BYTES = 110
#: Keys, quotes and numbers around one stream record beside its ARNs and data, bytes.
_KINESIS_OVERHEAD_BYTES = 520
#: Kinesis writes sequence numbers with 56 decimal digits, of which the first are 49.
_SEQUENCE_DIGITS = 56
_SEQUENCE_PREFIX = "49"
_POSITION_DIGITS = _SEQUENCE_DIGITS - len(_SEQUENCE_PREFIX) - SHARD_DIGITS

_encode_json = msgspec.json.Encoder().encode


def queue_arn(name: str, *, region: str, account_id: str, is_fifo: bool = False) -> str:
    """Return the ARN of an embedded queue; that of a FIFO queue ends in `.fifo`, as on SQS."""
    return f"arn:aws:sqs:{region}:{account_id}:{name}{'.fifo' if is_fifo else ''}"


def stream_arn(name: str, *, region: str, account_id: str) -> str:
    """Return the ARN of an embedded stream."""
    return f"arn:aws:kinesis:{region}:{account_id}:stream/{name}"


def sequence_number(shard: str, position: int) -> str:
    """Return a record's sequence number: 56 digits, which rise with the position within a shard.

    It is `49`, the shard's twelve digits, and the position in 42 digits; so numbers of one stream never repeat, and
    they have one order as text and as integers, as Kinesis's have within a shard.
    """
    return f"{_SEQUENCE_PREFIX}{shard[-SHARD_DIGITS:]}{position:0{_POSITION_DIGITS}d}"


def sequence_position(number: str) -> int:
    """Return the position in a sequence number.

    Raises:
        ValueError: it is not a number that `sequence_number` gives.
    """
    if len(number) != _SEQUENCE_DIGITS or not number.startswith(_SEQUENCE_PREFIX) or not number.isdecimal():
        raise ValueError(f"`{number}` is not a sequence number of an embedded stream")
    return int(number[-_POSITION_DIGITS:])


class SqsShape:
    """Messages of an embedded queue as SQS gives them to a function.

    - Headers become message attributes. A header's name may end in a data type of SQS, with or without a label:
      `WeeksOn:Number`, `Price:Number.float`, `Photo:Binary`. Without one it is a String where its value is UTF-8,
      else a Binary. Of headers with one name the last counts: SQS has one value an attribute.
    - The header `eventcore-lineage` is none: AWS carries the same in the trace header, which no function reads.
    - A body is text in SQS. One that is not UTF-8 is delivered in base64 with the message attribute
      `eventcore-body-encoding` = `base64`, as a sender to SQS would have had to do; native handlers get its bytes.

    Source: Lambda semantics §3.1 "Event shape"; SQS developer guide, "Calculating the MD5 message digest for message
    attributes".
    """

    is_base64 = False

    def __init__(self, arn: str) -> None:
        self.arn = arn
        self._region = arn.split(":")[3]
        self.record_overhead_bytes = _SQS_OVERHEAD_BYTES + len(arn)

    def event(self, records: Sequence[Record], shard: str) -> Any:
        """Return `{"Records": [...]}`; ``shard`` is empty for a queue."""
        del shard
        return {"Records": [self._entry(record) for record in records]}

    def _entry(self, record: Record) -> dict[str, Any]:
        body = record.body or b""
        headers = record.headers
        try:
            text = body.decode()
        except UnicodeDecodeError:
            body = b2a_base64(body, newline=False)
            text = body.decode("ascii")
            headers = (*headers, (BODY_ENCODING, b"base64"))
        entry: dict[str, Any] = {
            "messageId": record.id,
            "receiptHandle": record.receipt,
            "body": text,
            "attributes": {**record.attributes},
            "messageAttributes": {},
        }
        if headers:
            attributes, digest = _message_attributes(headers)
            if attributes:
                entry["messageAttributes"], entry["md5OfMessageAttributes"] = attributes, digest
        entry["md5OfBody"] = hashlib.md5(body, usedforsecurity=False).hexdigest()
        entry["eventSource"] = "aws:sqs"
        entry["eventSourceARN"] = self.arn
        entry["awsRegion"] = self._region
        return entry

    def identifier(self, record: Record, shard: str) -> Hashable:
        """Return the message id, by which a report names the message."""
        del shard
        return record.id

    def read_identifier(self, value: Any) -> Hashable | None:
        """Return the value where it can be a message id."""
        return value if isinstance(value, str) and value else None

    def batch_info(self, records: Sequence[Record], shard: str) -> dict[str, Any]:
        """Return what names the messages in an on-failure record.

        Lambda has none for queues: this is ours, after the pattern of `KinesisBatchInfo`.
        """
        del shard
        return {
            "SQSBatchInfo": {
                "messageIds": [record.id for record in records],
                "approximateArrivalOfFirstRecord": iso_ms(records[0].arrived_ms),
                "approximateArrivalOfLastRecord": iso_ms(records[-1].arrived_ms),
                "batchSize": len(records),
                "queueArn": self.arn,
            }
        }

    @staticmethod
    def size_bytes(body: bytes, headers: Iterable[tuple[str, bytes]]) -> int:
        """Return what a message adds to the event beside `record_overhead_bytes`: JSON escapes make text longer."""
        try:
            size = len(_encode_json(body.decode()))
        except UnicodeDecodeError:
            size = _base64_bytes(len(body)) + len(BODY_ENCODING) + _ATTRIBUTE_OVERHEAD_BYTES
        for name, value in headers:
            # Twice covers both base64 and escaped quotes.
            size += _ATTRIBUTE_OVERHEAD_BYTES + 2 * (len(name) + len(value))
        return size


class KinesisShape:
    """Records of an embedded stream as Kinesis gives them to a function.

    Kinesis knows no headers, so they are not in the event; native handlers get them. A record without a key has the
    partition key "", which Kinesis itself does not allow; bytes of a key that are not UTF-8 are written as Python's
    escapes.

    Source: Lambda semantics §4 "Events" and "OnFailure record".
    """

    is_base64 = True

    def __init__(self, arn: str) -> None:
        self.arn = arn
        _, _, _, self._region, account_id, _ = arn.split(":", 5)
        self._identity_arn = f"arn:aws:iam::{account_id}:role/eventcore"
        self.record_overhead_bytes = _KINESIS_OVERHEAD_BYTES + len(arn) + len(self._identity_arn)

    def event(self, records: Sequence[Record], shard: str) -> Any:
        """Return `{"Records": [...]}` of one shard."""
        # One comprehension without calls of our own: 1,000 records take about 2 ms, most of it base64 and numbers.
        arn, identity_arn, region = self.arn, self._identity_arn, self._region
        prefix = _SEQUENCE_PREFIX + shard[-SHARD_DIGITS:]
        return {
            "Records": [
                {
                    "kinesis": {
                        "kinesisSchemaVersion": "1.0",
                        "partitionKey": record.key.decode(errors="backslashreplace") if record.key else "",
                        "sequenceNumber": (number := prefix + str(record.position).zfill(_POSITION_DIGITS)),
                        "data": b2a_base64(record.body or b"", newline=False).decode("ascii"),
                        "approximateArrivalTimestamp": record.arrived_ms / 1000,
                    },
                    "eventSource": "aws:kinesis",
                    "eventVersion": "1.0",
                    "eventID": f"{shard}:{number}",
                    "eventName": "aws:kinesis:record",
                    "invokeIdentityArn": identity_arn,
                    "awsRegion": region,
                    "eventSourceARN": arn,
                }
                for record in records
            ]
        }

    def identifier(self, record: Record, shard: str) -> Hashable:
        """Return the sequence number, by which a report names the record."""
        return sequence_number(shard, record.position)

    def read_identifier(self, value: Any) -> Hashable | None:
        """Return the value where it can be a sequence number."""
        return value if isinstance(value, str) and value else None

    def batch_info(self, records: Sequence[Record], shard: str) -> dict[str, Any]:
        """Return `{"KinesisBatchInfo": {...}}`, its times in milliseconds; without records shard and stream alone."""
        if not records:
            return {"KinesisBatchInfo": {"shardId": shard, "streamArn": self.arn}}
        first, last = records[0], records[-1]
        return {
            "KinesisBatchInfo": {
                "shardId": shard,
                "startSequenceNumber": sequence_number(shard, first.position),
                "endSequenceNumber": sequence_number(shard, last.position),
                "approximateArrivalOfFirstRecord": iso_ms(first.arrived_ms),
                "approximateArrivalOfLastRecord": iso_ms(last.arrived_ms),
                "batchSize": len(records),
                "streamArn": self.arn,
            }
        }


def _base64_bytes(size_bytes: int) -> int:
    return (size_bytes + 2) // 3 * 4


def _message_attributes(headers: Iterable[tuple[str, bytes]]) -> tuple[dict[str, Any], str]:
    """Return the message attributes and their digest."""
    attributes: dict[str, Any] = {}
    parts: dict[str, tuple[str, bytes, bytes]] = {}
    for header, value in headers:
        if header == LINEAGE:
            continue
        name, data_type = _split_type(header)
        text = None if data_type.startswith("Binary") else _text(value)
        if text is None:
            data_type = data_type if data_type.startswith("Binary") else "Binary"
            shown = {"binaryValue": b2a_base64(value, newline=False).decode("ascii")}
        else:
            data_type = data_type or "String"
            if data_type.startswith("Number"):
                text = _number(text)
            shown = {"stringValue": text}
        attributes[name] = {**shown, "stringListValues": [], "binaryListValues": [], "dataType": data_type}
        parts[name] = (data_type, _BYTES, value) if text is None else (data_type, _TEXT, text.encode())
    digest = hashlib.md5(usedforsecurity=False)
    for name in sorted(parts):
        data_type, transport, value = parts[name]
        digest.update(_sized(name.encode()) + _sized(data_type.encode()) + transport + _sized(value))
    return attributes, digest.hexdigest()


def _split_type(header: str) -> tuple[str, str]:
    """Return a header's name and the data type at its end; an empty one when there is none."""
    name, _, data_type = header.rpartition(":")
    return (name, data_type) if name and data_type.partition(".")[0] in _DATA_TYPES else (header, "")


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _number(text: str) -> str:
    """Return a number as SQS gives it back: `0012.3400` is `12.34`; what is none stays as it is."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    return f"{number.normalize():f}" if number.is_finite() else text


def _sized(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value
