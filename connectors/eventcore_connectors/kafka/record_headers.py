"""What both clients' records have in common: headers, and what they count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: Shared by all records: a struct's own default would make a dictionary for each.
NO_ATTRIBUTES: Mapping[str, str] = {}
#: A header's value is written as a list of numbers, `-128,` at most: 5 bytes for one, where base64 takes 4 for three.
_HEADER_VALUE_FACTOR = 4
#: Braces, quotes and brackets of one header.
_HEADER_OVERHEAD_BYTES = 8


def read_headers(headers: Sequence[tuple[str, bytes | None]]) -> tuple[tuple[str, bytes], ...]:
    """Return headers as records have them: Kafka allows one without a value, ours are bytes."""
    return tuple((name, value or b"") for name, value in headers)


def header_bytes(headers: Sequence[tuple[str, bytes | None]]) -> int:
    """Return what headers count toward a batch's limit, so that base64's four thirds of it cover their numbers."""
    return sum(
        len(name.encode()) + _HEADER_OVERHEAD_BYTES + _HEADER_VALUE_FACTOR * len(value or b"")
        for name, value in headers
    )
