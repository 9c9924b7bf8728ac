"""Filter criteria: which records of a source reach a function. Source: Lambda semantics §3.1 "Filtering", §6.4.

A record matches if it matches one filter. In a filter, what is said under a data key (`body`, `value`, `key`, `data`)
is held against the record's data, and the rest against what the source says of the record. Data is JSON when it is an
object or an array; other data is *plain*, and what is said of it must be an array of rules. JSON data never matches a
plain pattern, nor plain data a JSON pattern.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from eventcore.errors import PatternError
from eventcore.patterns.compile import Node, compile_pattern
from eventcore.patterns.data import DataTest
from eventcore.patterns.pattern import Matcher
from eventcore.patterns.text import read_event, read_pattern
from eventcore.patterns.values import Leaf, Test

#: Filters of one mapping: the quota that AWS grants at most; 5 without asking (Lambda semantics §3.1).
FILTERS_MAX = 10
#: Characters of one pattern's JSON (Lambda semantics §3.1).
PATTERN_CHARACTERS_MAX = 4_096
#: By source, under which names a record's data is filtered (Lambda semantics §6.4).
DATA_KEYS: Mapping[str, tuple[str, ...]] = {
    "sqs": ("body",),
    "kinesis": ("data",),
    "dynamodb": (),
    "kafka": ("key", "value"),
    "mq": ("data",),
}
#: By source of a mapping, under which other names its filters find anything: what the entries of its events have.
METADATA_KEYS: Mapping[str, frozenset[str]] = {
    "sqs": frozenset(
        {
            "attributes",
            "awsRegion",
            "eventSource",
            "eventSourceARN",
            "md5OfBody",
            "md5OfMessageAttributes",
            "messageAttributes",
            "messageId",
            "receiptHandle",
        }
    ),
    "kinesis": frozenset(
        {
            "approximateArrivalTimestamp",
            "awsRegion",
            "eventID",
            "eventName",
            "eventSource",
            "eventSourceARN",
            "eventVersion",
            "invokeIdentityArn",
            "kinesis",
            "kinesisSchemaVersion",
            "partitionKey",
            "sequenceNumber",
        }
    ),
    "kafka": frozenset({"headers", "offset", "partition", "timestamp", "timestampType", "topic"}),
}
#: The data of these is base64 in a record.
_IN_BASE64 = frozenset({"kinesis", "kafka", "mq"})

_encode = msgspec.json.Encoder().encode


def refuse_filter(reason: str) -> PatternError:
    """Return the error of a filter that can't be used: the service's words, and why."""
    error = PatternError("Invalid filter pattern definition.")
    error.add_note(reason)
    return error


class FilterCriteria:
    """The filters of a mapping, compiled.

    Args:
        filters: patterns, each an object or its JSON text.
        source: one of `DATA_KEYS`.

    Raises:
        PatternError: a filter is no pattern; what is wrong is in the error's notes.
        ValueError: the source is unknown, or there are more than `FILTERS_MAX` filters.
    """

    def __init__(self, filters: Sequence[Mapping[str, Any] | str], *, source: str) -> None:
        if source not in DATA_KEYS:
            raise ValueError(f"`{source}` has no filters, only: {', '.join(DATA_KEYS)}")
        if len(filters) > FILTERS_MAX:
            raise ValueError(f"at most {FILTERS_MAX} filters, not {len(filters)}")
        self._source = source
        self.data_keys = DATA_KEYS[source]
        self._filters = [_compile(each, self.data_keys) for each in filters]
        self._parts = [part for parts in self._filters for part in parts]
        if source == "kinesis" and _is_plain(self._parts):
            raise refuse_filter("The data of Kinesis is filtered as JSON alone: an array can't stand under `data`.")
        #: Names beside those of data that the filters look for.
        self.metadata_names = frozenset(name for part in self._parts for name in part.metadata_names)
        #: Whether anything but data is filtered.
        self.needs_metadata = bool(self.metadata_names)

    def matches(self, record: Mapping[str, Any] | str | bytes) -> bool:
        """Tell whether a record matches: an entry of a Lambda event's `Records`, or its JSON text.

        Raises:
            PatternError: it is no object.
        """
        known = read_event(record) if isinstance(record, str | bytes) else dict(record)
        inner = known.get("kinesis") if self._source == "kinesis" else None
        if isinstance(inner, Mapping):
            # A pattern names what is inside, as that of a pipe does.
            known = {**known, **inner}
        data = {name: known.pop(name, None) for name in self.data_keys}
        if self._source in _IN_BASE64:
            data = {name: _read_base64(value) for name, value in data.items()}
        return self.matches_parts(data, lambda: known)

    def matches_parts(self, data: Mapping[str, Any], metadata: Callable[[], Mapping[str, Any]]) -> bool:
        """Tell whether a record matches, by its data and by what the source says of it.

        Args:
            data: by data key, bytes or text; None for none.
            metadata: gives the rest of the record's entry; asked only where a filter needs it.
        """
        return any(part.matches(data, metadata) for part in self._parts)

    def single_test(self) -> tuple[str, DataTest] | None:
        """Return the one data key that all filters are about, and what tells by it alone; None if it takes more."""
        keys = {key for part in self._parts for key in part.trees}
        if self.needs_metadata or len(keys) != 1 or any(len(part.trees) != 1 for part in self._parts):
            return None
        # All of them look at the same text: it is decoded once.
        (key,) = keys
        return key, DataTest([[part.trees[key] for part in parts] for parts in self._filters])


class _Part(msgspec.Struct, frozen=True):
    """One conjunction of one filter."""

    metadata: Matcher | None
    tests: dict[str, Test]  #: by data key
    trees: dict[str, Node]  #: of those of them that are about JSON
    metadata_names: frozenset[str]

    def matches(self, data: Mapping[str, Any], metadata: Callable[[], Mapping[str, Any]]) -> bool:
        for key, test in self.tests.items():
            if not test(data[key]):
                return False
        return self.metadata is None or self.metadata.matches(metadata())


def _compile(pattern: Mapping[str, Any] | str, data_keys: Sequence[str]) -> list[_Part]:
    try:
        known = read_pattern(pattern) if isinstance(pattern, str) else pattern
        text = pattern if isinstance(pattern, str) else _encode(pattern).decode()
        conjunctions = compile_pattern(known)
    except PatternError as error:
        raise refuse_filter(error.message) from error
    if len(text) > PATTERN_CHARACTERS_MAX:
        raise refuse_filter(f"a pattern has at most {PATTERN_CHARACTERS_MAX} characters, not {len(text)}")
    return [_take_apart(root, data_keys) for root in conjunctions]


def _is_plain(parts: Sequence[_Part]) -> bool:
    """Tell whether a filter is about plain data."""
    return any(len(part.tests) > len(part.trees) for part in parts)


def _take_apart(root: Node, data_keys: Sequence[str]) -> _Part:
    tests: dict[str, Test] = {}
    trees: dict[str, Node] = {}
    rest = {name: child for name, child in root.children.items() if name not in data_keys}
    for key in data_keys:
        child = root.children.get(key)
        if child is None:
            continue
        if child.leaf is not None and child.children:
            raise refuse_filter(f"`{key}` can't be both plain and JSON")
        if child.leaf is not None:
            tests[key] = _plain_test(child.leaf)
        else:
            trees[key] = _lift(child, len(child.path))
            tests[key] = DataTest([[trees[key]]]).allows
    return _Part(Matcher([Node((), children=rest)]) if rest else None, tests, trees, frozenset(rest))


def _lift(node: Node, levels: int) -> Node:
    """Return a tree as that of what stands so many levels down."""
    children = {name: _lift(child, levels) for name, child in node.children.items()}
    return Node(node.path[levels:], node.leaf, children)


def _plain_test(leaf: Leaf) -> Test:
    def allows(data: Any) -> bool:
        if isinstance(data, bytes):
            try:
                data = data.decode()
            except UnicodeDecodeError:
                return False
        if data is None or not isinstance(data, str):
            return data is None and (leaf.allows_absence or leaf.allows(None))
        return not _is_json(data) and leaf.allows(data)

    return allows


def _is_json(text: str) -> bool:
    if text.lstrip(" \t\r\n")[:1] not in {"{", "["}:
        return False
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _read_base64(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return b64decode(value, validate=True)
    except binascii.Error:
        # Given as it is.
        return value
