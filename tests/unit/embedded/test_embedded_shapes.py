"""Events of embedded sources are those of SQS and Kinesis. Source: Lambda semantics §3.1, §4."""

import base64
import hashlib
from typing import Any

import msgspec
import pytest

from eventcore.embedded.shapes import (
    BODY_ENCODING,
    KinesisShape,
    SqsShape,
    queue_arn,
    sequence_number,
    sequence_position,
    stream_arn,
)
from eventcore.model import Record

SHARD = "shardId-000000000003"
SQS = SqsShape(queue_arn("orders", region="eu-west-1", account_id="123456789012"))
KINESIS = KinesisShape(stream_arn("orders", region="eu-west-1", account_id="123456789012"))
ATTRIBUTES = {
    "ApproximateReceiveCount": "1",
    "SentTimestamp": "1767225600000",
    "SenderId": "123456789012",
    "ApproximateFirstReceiveTimestamp": "1767225600001",
}


def message(body: bytes = b"hello", **fields: Any) -> Record:
    return Record(**{"position": 1, "body": body, "id": "m-1", "receipt": "r-1", "attributes": ATTRIBUTES, **fields})


def sqs_entry(record: Record) -> dict[str, Any]:
    (entry,) = SQS.event([record], "")["Records"]
    return entry


# -- SQS ---------------------------------------------------------------------------------------------------------------


def test_a_message_looks_as_sqs_gives_it() -> None:
    assert sqs_entry(message()) == {
        "messageId": "m-1",
        "receiptHandle": "r-1",
        "body": "hello",
        "attributes": ATTRIBUTES,
        "messageAttributes": {},
        "md5OfBody": "5d41402abc4b2a76b9719d911017c592",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:eu-west-1:123456789012:orders",
        "awsRegion": "eu-west-1",
    }


def test_headers_are_message_attributes_with_the_digest_that_aws_gave() -> None:
    """The recorded case `sqs/record-shape-with-message-attributes`: two Strings and a Number."""
    headers = (("Title", b"The Whistler"), ("Author", b"John Grisham"), ("WeeksOn:Number", b"6"))
    entry = sqs_entry(message(headers=headers))
    assert entry["md5OfMessageAttributes"] == "d25a6aea97eb8f585bfa92d314504a92"
    assert entry["messageAttributes"] == {
        "Title": _string("The Whistler"),
        "Author": _string("John Grisham"),
        "WeeksOn": _string("6", "Number"),
    }


def _string(value: str, data_type: str = "String") -> dict[str, Any]:
    return {"stringValue": value, "stringListValues": [], "binaryListValues": [], "dataType": data_type}


def _binary(value: bytes, data_type: str = "Binary") -> dict[str, Any]:
    shown = base64.b64encode(value).decode()
    return {"binaryValue": shown, "stringListValues": [], "binaryListValues": [], "dataType": data_type}


@pytest.mark.parametrize(
    ("header", "value", "name", "attribute"),
    [
        ("a", b"text", "a", _string("text")),
        ("a", "grüße".encode(), "a", _string("grüße")),
        ("a", b"", "a", _string("")),
        ("a", b"\xff", "a", _binary(b"\xff")),
        ("a:String", b"1", "a", _string("1")),
        ("a:Number.int", b"1", "a", _string("1", "Number.int")),
        ("a:Binary", b"text", "a", _binary(b"text")),
        ("a:Binary.png", b"\x89", "a", _binary(b"\x89", "Binary.png")),
        ("a:Number", b"\xff", "a", _binary(b"\xff")),
        ("a:b", b"1", "a:b", _string("1")),
        ("a:b:Number", b"1", "a:b", _string("1", "Number")),
        (":Number", b"1", ":Number", _string("1")),
        ("a:Numbers", b"1", "a:Numbers", _string("1")),
    ],
)
def test_a_header_may_name_its_data_type(header: str, value: bytes, name: str, attribute: dict[str, Any]) -> None:
    assert sqs_entry(message(headers=((header, value),)))["messageAttributes"] == {name: attribute}


def test_the_last_of_headers_with_one_name_counts() -> None:
    entry = sqs_entry(message(headers=(("n", b"1"), ("n:Number", b"2"))))
    alone = sqs_entry(message(headers=(("n:Number", b"2"),)))
    assert entry == alone


def test_the_digest_of_attributes_follows_sqs() -> None:
    """Sorted by name; lengths of four bytes; one byte tells text from bytes: computed here the long way."""
    entry = sqs_entry(message(headers=(("b:Binary", b"\x00\x01"), ("a", b"x"))))
    text = b"\0\0\0\1a" + b"\0\0\0\6String" + b"\1" + b"\0\0\0\1x"
    binary = b"\0\0\0\1b" + b"\0\0\0\6Binary" + b"\2" + b"\0\0\0\2\0\1"
    assert entry["md5OfMessageAttributes"] == hashlib.md5(text + binary).hexdigest()


def test_a_body_that_is_no_text_is_delivered_in_base64_and_says_so() -> None:
    """The bytes can be had back; digest and attribute are those of what is delivered."""
    body = b"\xff\x00binary"
    entry = sqs_entry(message(body, headers=(("n:Number", b"1"),)))
    assert base64.b64decode(entry["body"]) == body
    assert entry["md5OfBody"] == hashlib.md5(entry["body"].encode()).hexdigest()
    assert entry["messageAttributes"] == {"n": _string("1", "Number"), BODY_ENCODING: _string("base64")}


def test_an_event_shares_nothing_with_its_records() -> None:
    """A handler that changes its event changes no record."""
    record = message()
    sqs_entry(record)["attributes"]["ApproximateReceiveCount"] = "99"
    assert record.attributes["ApproximateReceiveCount"] == "1"


def test_a_report_names_messages_by_their_id() -> None:
    assert SQS.identifier(message(), "") == SQS.read_identifier("m-1") == "m-1"
    assert [SQS.read_identifier(value) for value in (None, "", 1, ["m-1"], {"m-1": 1}, True)] == [None] * 6


def test_a_batch_of_messages_is_named_for_a_discard() -> None:
    records = [message(id="m-1", arrived_ms=1767225600123), message(id="m-2", arrived_ms=1767225601000)]
    assert SQS.batch_info(records, "") == {
        "SQSBatchInfo": {
            "messageIds": ["m-1", "m-2"],
            "approximateArrivalOfFirstRecord": "2026-01-01T00:00:00.123Z",
            "approximateArrivalOfLastRecord": "2026-01-01T00:00:01.000Z",
            "batchSize": 2,
            "queueArn": "arn:aws:sqs:eu-west-1:123456789012:orders",
        }
    }


@pytest.mark.parametrize("body", [b"", b"plain", b'{"a": "\\"b\\"\\n"}', b'"' * 5000, b"\x01" * 500, b"\xff" * 5000])
@pytest.mark.parametrize("headers", [(), (("n" * 60, b'"' * 300), ("b", b"\xff" * 300), ("c:Number.long", b"1"))])
def test_the_size_of_a_message_covers_what_it_takes_in_the_event(body: bytes, headers: Any) -> None:
    """Escapes, base64 and attributes included, with the longest ids, receipts and groups there are."""
    attributes = {**ATTRIBUTES, "ApproximateReceiveCount": "1000", "MessageGroupId": "g" * 128}
    record = message(body, headers=headers, id="i" * 36, receipt="r" * 200, attributes=attributes)
    size = len(msgspec.json.encode(SQS.event([record], "")))
    assert size <= SQS.record_overhead_bytes + SqsShape.size_bytes(body, headers)
    assert not SQS.is_base64


# -- Kinesis -----------------------------------------------------------------------------------------------------------


def test_a_stream_record_looks_as_kinesis_gives_it() -> None:
    record = Record(position=42, body=b"\x00hello", key=b"k", arrived_ms=1767225600123, headers=(("h", b"x"),))
    number = "49000000000003000000000000000000000000000000000000000042"
    assert KINESIS.event([record], SHARD) == {
        "Records": [
            {
                "kinesis": {
                    "kinesisSchemaVersion": "1.0",
                    "partitionKey": "k",
                    "sequenceNumber": number,
                    "data": "AGhlbGxv",
                    "approximateArrivalTimestamp": 1767225600.123,
                },
                "eventSource": "aws:kinesis",
                "eventVersion": "1.0",
                "eventID": f"{SHARD}:{number}",
                "eventName": "aws:kinesis:record",
                "invokeIdentityArn": "arn:aws:iam::123456789012:role/eventcore",
                "awsRegion": "eu-west-1",
                "eventSourceARN": "arn:aws:kinesis:eu-west-1:123456789012:stream/orders",
            }
        ]
    }


@pytest.mark.parametrize(("key", "shown"), [(None, ""), (b"", ""), ("ü".encode(), "ü"), (b"\xffk", "\\xffk")])
def test_every_key_is_shown_as_text(key: bytes | None, shown: str) -> None:
    (entry,) = KINESIS.event([Record(position=1, body=b"", key=key)], SHARD)["Records"]
    assert entry["kinesis"]["partitionKey"] == shown


def test_sequence_numbers_have_one_order_as_text_and_as_integers() -> None:
    positions = [0, 9, 10, 99, 100, 2**40, 2**63 - 1]
    numbers = [sequence_number(SHARD, position) for position in positions]
    assert numbers == sorted(numbers)
    assert numbers == sorted(numbers, key=int)
    assert {len(number) for number in numbers} == {56}
    assert [sequence_position(number) for number in numbers] == positions


def test_sequence_numbers_of_two_shards_differ() -> None:
    assert sequence_number(SHARD, 5) != sequence_number("shardId-000000000004", 5)


@pytest.mark.parametrize("number", ["", "1", "x" * 56, "59" + "0" * 54, "49" + "0" * 53, "49" + "x" * 54])
def test_other_numbers_are_refused(number: str) -> None:
    with pytest.raises(ValueError, match="is not a sequence number"):
        sequence_position(number)


def test_a_report_names_stream_records_by_their_sequence_number() -> None:
    record = Record(position=7, body=b"")
    assert KINESIS.identifier(record, SHARD) == KINESIS.read_identifier(sequence_number(SHARD, 7))
    assert KINESIS.identifier(record, SHARD) != KINESIS.read_identifier(sequence_number("shardId-000000000001", 7))
    assert [KINESIS.read_identifier(value) for value in (None, "", 7, ["7"], {"7": 1}, True)] == [None] * 6


def test_a_batch_of_stream_records_is_named_for_a_discard() -> None:
    records = [Record(position=p, body=b"", arrived_ms=1767225600000 + p) for p in (5, 6, 7)]
    assert KINESIS.batch_info(records, SHARD) == {
        "KinesisBatchInfo": {
            "shardId": SHARD,
            "startSequenceNumber": sequence_number(SHARD, 5),
            "endSequenceNumber": sequence_number(SHARD, 7),
            "approximateArrivalOfFirstRecord": "2026-01-01T00:00:00.005Z",
            "approximateArrivalOfLastRecord": "2026-01-01T00:00:00.007Z",
            "batchSize": 3,
            "streamArn": "arn:aws:kinesis:eu-west-1:123456789012:stream/orders",
        }
    }


@pytest.mark.parametrize("body", [b"", b"x", b"xx", b"x" * 1000])
def test_the_overhead_covers_what_a_record_takes_beside_its_data(body: bytes) -> None:
    record = Record(position=2**63 - 1, body=body, key=b"", arrived_ms=1767225600123)
    size = len(msgspec.json.encode(KINESIS.event([record], SHARD)))
    assert size <= KINESIS.record_overhead_bytes + len(base64.b64encode(body))
    assert KINESIS.is_base64
