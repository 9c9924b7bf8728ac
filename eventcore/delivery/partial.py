"""Reading `batchItemFailures` out of a function's response.

Source: Lambda semantics §3.1 "Partial response parsing": empty answers are full success; one id that is missing,
empty or unknown fails the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import msgspec

from eventcore.model import UNREADABLE_JSON


class Report(msgspec.Struct, frozen=True):
    """What a response says of its batch."""

    failed: tuple[int, ...] = ()  #: indices into the batch, rising, without repeats
    is_unusable: bool = False  #: the response can't be read: the whole batch counts as failed
    problem: str = ""  #: why it can't be read, for people


SUCCESS = Report()


def fail_behind(report: Report, count: int) -> Report:
    """Return what a stream's response says of all its records: from the lowest that it names, all are tried again (§4).

    The function may have ended there: whether those behind were processed, nobody knows.

    Args:
        report: what the response names.
        count: records of the batch.
    """
    return msgspec.structs.replace(report, failed=tuple(range(report.failed[0], count))) if report.failed else report


#: Turns the JSON value of an `itemIdentifier` into the key under which the batch knows the record; None when it can't
#: be one.
ReadIdentifier = Callable[[Any], Hashable | None]


def read_report(response: bytes, known: Mapping[Hashable, int], read_identifier: ReadIdentifier) -> Report:
    """Return which records of a batch the response reports failed.

    Args:
        response: the function's result, JSON.
        known: the batch's records by identifier, with their index.
        read_identifier: how this source writes identifiers.
    """
    if response in {b"null", b"", b'""', b"[]", b"{}"}:
        return SUCCESS
    try:
        value = msgspec.json.decode(response)
    except UNREADABLE_JSON as error:
        # Not text at all, or nested thousands deep: the handler's fault as well.
        return Report(is_unusable=True, problem=f"the response is not JSON: {error}")
    if not value and (value is None or isinstance(value, str | list | dict)):
        return SUCCESS
    if not isinstance(value, dict):
        return Report(is_unusable=True, problem="the response is not an object with batchItemFailures")
    if "batchItemFailures" not in value:
        # Lambda reads nothing but the one key: an object without it reports no failures.
        return SUCCESS
    failures = value["batchItemFailures"]
    if failures is None:
        return SUCCESS
    if not isinstance(failures, list):
        return Report(is_unusable=True, problem="batchItemFailures is not a list")
    failed: set[int] = set()
    for number, entry in enumerate(failures):
        if not isinstance(entry, dict) or "itemIdentifier" not in entry:
            return Report(is_unusable=True, problem=f"batchItemFailures[{number}] has no itemIdentifier")
        key = read_identifier(entry["itemIdentifier"])
        index = None if key is None else known.get(key)
        if index is None:
            return Report(is_unusable=True, problem=f"batchItemFailures[{number}] names no record of this batch")
        failed.add(index)
    return Report(failed=tuple(sorted(failed)))
