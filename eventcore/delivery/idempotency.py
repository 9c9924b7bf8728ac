"""Which records of a batch are invoked, when each has a key that may have been processed before; what becomes of all.

Pure. The engine reads keys, claims them in the store, and asks here twice: what is to be invoked (`sort`), and what
outcome the whole batch has when that is over (`merge`). Delivery is at least once (Lambda semantics §3, §4): here a
repeated record is told apart by a key of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from eventcore.delivery.partial import Report
from eventcore.model import UNREADABLE_JSON, Fault, FaultCause, Outcome, OutcomeKind, OutgoingRecord, Record, Usage

#: Bytes of a hash: two different keys of a billion meet with a chance of 10^-21.
HASH_BYTES = 16
#: Names of AWS's Python library, which people search for.
MISMATCH_ERROR = "IdempotencyValidationError"
NO_KEY_ERROR = "IdempotencyKeyError"

_STEP = re.compile(r"\.?([^.\[\]$]+)|\[(\d+)\]")

Path = tuple[str | int, ...]


class IdempotencyPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a mapping says of its records' keys."""

    key: tuple[str, ...] = ()  #: paths, of which all values together are the key
    key_function: str = ""  #: `module.attribute` of what makes the key instead
    payload: tuple[str, ...] = ()  #: paths to what must be the same when a key comes again
    requires_key: bool = False  #: a record without a key has failed; else it is invoked each time it comes
    expires_after_s: int
    in_progress_timeout_s: int  #: a claim of an engine that died ends after so long
    result_bytes_max: int  #: a larger result is not remembered


def parse_path(text: str) -> Path:
    """Return the steps of a path: `$.order.lines[0].id`, `order.id`, or `$` for the whole.

    Raises:
        ValueError: it is none.
    """
    rest = text.removeprefix("$")
    steps: list[str | int] = []
    at = 0
    while at < len(rest):
        found = _STEP.match(rest, at)
        if found is None or (found[1] and at and not found[0].startswith(".")):
            raise ValueError(f"`{text}` is no path: it is a name, or names and [numbers], as $.order.lines[0].id")
        steps.append(found[1] or int(found[2]))
        at = found.end()
    if not steps and text != "$":
        raise ValueError("an empty path leads nowhere: write $ for the whole record")
    return tuple(steps)


def find(document: Any, path: Path) -> Any:
    """Return the value at a path; None when there is none."""
    for step in path:
        if isinstance(step, str):
            document = document.get(step) if isinstance(document, dict) else None
        else:
            document = document[step] if isinstance(document, list) and step < len(document) else None
        if document is None:
            return None
    return document


class Keyed(msgspec.Struct, frozen=True, gc=False):
    """What one record is known by."""

    key: bytes  #: hash; empty: it has no key
    payload: bytes = b""  #: hash of what must be the same when the key comes again


NO_KEY = Keyed(b"")


class KeyReader:
    """Reads the keys of a function's records: the same value at the same path is the same key in all its mappings."""

    def __init__(self, function: str, policy: IdempotencyPolicy) -> None:
        self._key = [parse_path(each) for each in policy.key]
        self._payload = [parse_path(each) for each in policy.payload]
        # With the paths: order 5 and customer 5 are not the same.
        self._key_scope = msgspec.json.encode((function, policy.key_function or self._key))
        self._payload_scope = msgspec.json.encode((function, self._payload))

    def read(self, record: Record) -> Keyed:
        """Return a record's key; `NO_KEY` when it is no JSON, or one of the key's values is missing or null."""
        try:
            return self._read(msgspec.json.decode(record.body or b""))
        except UNREADABLE_JSON:
            # The last for a body that is nested too deeply, to be read or to be hashed.
            return NO_KEY

    def _read(self, document: Any) -> Keyed:
        values = [find(document, path) for path in self._key]
        if None in values:
            return NO_KEY
        return Keyed(_hash(self._key_scope, values), self._hash_payload(document))

    def read_made(self, record: Record, made: bytes) -> Keyed:
        """Return the key of a record for which the key function made a text; `NO_KEY` for an empty one."""
        if not made:
            return NO_KEY
        payload = b""
        if self._payload:
            with suppress(*UNREADABLE_JSON):
                payload = self._hash_payload(msgspec.json.decode(record.body or b""))
        return Keyed(_hash(self._key_scope, [made]), payload)

    def _hash_payload(self, document: Any) -> bytes:
        if not self._payload:
            return b""
        return _hash(self._payload_scope, [find(document, path) for path in self._payload])


def _hash(scope: bytes, values: list[Any]) -> bytes:
    text = msgspec.json.encode(values, order="deterministic")
    return hashlib.blake2b(scope + text, digest_size=HASH_BYTES).digest()


class Known(msgspec.Struct, frozen=True):
    """What is known of one key of a batch: it is ours, another's until a time, or was processed."""

    is_ours: bool = False
    busy_until_ms: int = 0
    payload: bytes = b""
    results: tuple[OutgoingRecord, ...] = ()


_NONE_UNREAD: Mapping[int, Fault] = {}


class Sorted(msgspec.Struct, frozen=True, kw_only=True):
    """The records of a batch by what is done with them, as indices that rise. Each is in one of them."""

    fresh: tuple[int, ...]  #: to be invoked
    known: dict[int, tuple[OutgoingRecord, ...]]  #: were processed before, with what was sent on then
    repeats: dict[int, int]  #: come again in this batch, with the index of the first
    refused: dict[int, Fault]
    deferred: tuple[int, ...]  #: wait for another invocation, or for a record that does
    busy_until_ms: int = 0  #: when the other's claim ends by itself

    @property
    def is_plain(self) -> bool:
        """Whether every record is to be invoked."""
        return not (self.known or self.repeats or self.refused or self.deferred)


def keys_of(keyed: Sequence[Keyed]) -> tuple[bytes, ...]:
    """Return the keys of a batch, each once, in order."""
    return tuple(dict.fromkeys([each.key for each in keyed if each.key]))


def sort(
    keyed: Sequence[Keyed],
    states: dict[bytes, Known],
    *,
    requires_key: bool,
    is_ordered: bool,
    unread: Mapping[int, Fault] = _NONE_UNREAD,
) -> Sorted:
    """Return what is done with each record of a batch.

    Args:
        keyed: of each record.
        states: of each key.
        unread: why the key of a record could not be made, by index: it has failed.
        requires_key: a record without a key is refused.
        is_ordered: nothing passes a record that waits.
    """
    fresh: list[int] = []
    known: dict[int, tuple[OutgoingRecord, ...]] = {}
    repeats: dict[int, int] = {}
    refused: dict[int, Fault] = {}
    deferred: list[int] = []
    first: dict[bytes, int] = {}
    busy_until_ms = 0
    for index, each in enumerate(keyed):
        state = states.get(each.key)
        if index in unread:
            refused[index] = unread[index]
        elif deferred and is_ordered:
            deferred.append(index)
        elif state is None:
            if requires_key:
                refused[index] = _NO_KEY_FAULT
            else:
                fresh.append(index)
        elif state.busy_until_ms:
            deferred.append(index)
            busy_until_ms = max(busy_until_ms, state.busy_until_ms)
        elif not state.is_ours:
            if state.payload and each.payload and state.payload != each.payload:
                refused[index] = _MISMATCH
            else:
                known[index] = state.results
        elif first.setdefault(each.key, index) == index:
            fresh.append(index)
        else:
            repeats[index] = first[each.key]
    return Sorted(
        fresh=tuple(fresh),
        known=known,
        repeats=repeats,
        refused=refused,
        deferred=tuple(deferred),
        busy_until_ms=busy_until_ms,
    )


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a batch."""

    outcome: Outcome  #: of the whole batch
    done: tuple[int, ...]  #: of the fresh records, those that succeeded, with and without a key
    #: Records that were settled without an invocation: as often as this the function was spared one.
    repeated: int
    results: dict[int, tuple[OutgoingRecord, ...]]  #: what is to be remembered of the fresh ones


def merge(keyed: Sequence[Keyed], batch: Sorted, outcome: Outcome | None, report: Report, *, now_ms: int) -> Merged:
    """Return the outcome of a whole batch.

    Args:
        keyed: of each record.
        batch: sorted.
        outcome: of the invocation with its fresh records; None without any.
        report: read from it.
        now_ms: wall time.
    """
    fresh = batch.fresh
    if outcome is not None and outcome.kind in {OutcomeKind.THROTTLED, OutcomeKind.RELEASED}:
        return Merged(outcome=outcome, done=(), repeated=0, results={})
    failed: dict[int, Fault | None] = {}
    results: dict[int, tuple[OutgoingRecord, ...]] = {}
    if outcome is not None:
        is_all = outcome.kind is OutcomeKind.FAILURE or report.is_unusable
        failed = {fresh[at]: outcome.fault_of(at) for at in (range(len(fresh)) if is_all else report.failed)}
        for at, made in outcome.results:
            results[fresh[at]] = (*results.get(fresh[at], ()), made)
    done = tuple([index for index in fresh if index not in failed])
    if batch.is_plain and outcome is not None:
        return Merged(outcome=outcome, done=done, repeated=0, results=results)
    failed |= batch.refused
    for index, first in batch.repeats.items():
        if first in failed:
            failed[index] = failed[first]
        elif keyed[index].payload != keyed[first].payload:
            failed[index] = _MISMATCH
    repeated = len(batch.known) + sum(index not in failed for index in batch.repeats)
    indices = tuple(sorted(failed))
    faults = tuple([failed[index] for index in indices])
    whole = Outcome(
        kind=OutcomeKind.SUCCESS,
        response=outcome.response if outcome is not None else b"null",
        fault=faults[0] if faults else None,
        failed=indices,
        faults=faults,
        results=_in_order({**results, **batch.known}),
        deferred=batch.deferred,
        deferred_ms=max(1, batch.busy_until_ms - now_ms) if batch.deferred else 0,
        usage=outcome.usage if outcome is not None else Usage(),
    )
    return Merged(outcome=whole, done=done, repeated=repeated, results=results)


def _in_order(results: dict[int, tuple[OutgoingRecord, ...]]) -> tuple[tuple[int, OutgoingRecord], ...]:
    return tuple([(index, made) for index in sorted(results) for made in results[index]])


# One of each for all records: a batch may have ten thousand, and none of these has a traceback of its own.
_MISMATCH = Fault(
    cause=FaultCause.IDEMPOTENCY,
    error_type=MISMATCH_ERROR,
    message="the key of this record was processed before with another payload",
)
_NO_KEY_FAULT = Fault(
    cause=FaultCause.IDEMPOTENCY,
    error_type=NO_KEY_ERROR,
    message="the record is no JSON, or has no value where its idempotency key is to be",
)
