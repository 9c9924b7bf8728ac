"""The data that travels through the engine: records, batches, invocations, outcomes, verdicts.

Plain frozen structs, no behaviour beyond what follows from their own fields. ``gc=False`` on records: they hold no
references that could form a cycle, and a loop that retains tracked records halves its rate through the collector.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

#: The largest event a function is given and the largest result it may return, in bytes (Lambda semantics §1.1).
PAYLOAD_BYTES_MAX = 6 * 1024 * 1024
#: The exact ceiling of a result: six MiB and 100 bytes (Lambda semantics §1.1, recorded).
RESPONSE_BYTES_MAX = PAYLOAD_BYTES_MAX + 100
#: What `msgspec.json.decode` raises for what is no JSON, or is nested too deeply to be read.
UNREADABLE_JSON = (msgspec.DecodeError, UnicodeError, RecursionError)


class TimestampKind(enum.IntEnum):
    """Who set a record's arrival time."""

    CREATE_TIME = 0  #: the producer
    LOG_APPEND_TIME = 1  #: the source


class Record(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The smallest unit with identity, from any source."""

    #: Order within the shard: offset or sequence number. In a queue: the message's number, rising as sent.
    position: int
    #: The payload; None for a tombstone.
    body: bytes | None
    #: Partition key, or a queue's message group; None without one.
    key: bytes | None = None
    #: When the source took it, milliseconds since the epoch, UTC.
    arrived_ms: int = 0
    #: Name and value, in order; names may repeat.
    headers: tuple[tuple[str, bytes], ...] = ()
    #: What the record counts toward a batch's limit: body, key and headers, bytes.
    size_bytes: int = 0
    timestamp_kind: TimestampKind = TimestampKind.CREATE_TIME
    #: Message id; empty for records of a stream, which their shard and position identify.
    id: str = ""
    #: Proof of this one receive; empty for records of a stream.
    receipt: str = ""
    #: What the source says of it besides (receive count, first receive time, sender), as text.
    attributes: Mapping[str, str] = {}

    @property
    def value(self) -> bytes | None:
        """The body, under the name that Kafka users expect."""
        return self.body

    def header(self, name: str) -> bytes | None:
        """Return the last value of a header, or None without one."""
        for key, value in reversed(self.headers):
            if key == name:
                return value
        return None


class OutgoingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record that a person or a function sends to a system outside."""

    body: bytes
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class BatchWindow(msgspec.Struct, frozen=True, kw_only=True):
    """The tumbling window of an invocation (Lambda semantics §4)."""

    start_ms: int
    end_ms: int  #: exclusive
    state: bytes  #: JSON object
    is_final: bool = False  #: the window ends with this invocation
    is_early: bool = False  #: it ends because its state is too large


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """The records of one invocation: never two shards of a stream; none but in the final call of a window."""

    source: str  #: the reference, as `kafka:local/orders`
    shard: str  #: the shard's name; empty for a queue
    records: Sequence[Record]  #: in the source's order
    mapping: str = ""
    attempt: int = 1  #: which invocation of exactly these records this is, from 1
    request_id: str = ""
    window: BatchWindow | None = None  #: of a mapping with tumbling windows

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def first(self) -> Record:
        """The first record."""
        return self.records[0]

    @property
    def last(self) -> Record:
        """The last record."""
        return self.records[-1]


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a function: either the records of a batch or a ready event."""

    request_id: str  #: a UUID; unchanged retries of a batch keep it (Lambda semantics §12)
    #: Build the event value that a Lambda-shaped handler receives. Called at most once, and not at all for handlers
    #: that take records.
    build_event: Callable[[], Any]
    batch: Batch | None = None  #: the records; None for a direct or asynchronous invocation
    #: Build a W3C ``traceparent`` for the handler's environment; empty without a trace. Called by runtimes that have
    #: such an environment.
    build_trace_header: Callable[[], str] = str
    wants_results: bool = False  #: what a handler of records returns is sent on, see `Outcome.results`


class FaultCause(enum.StrEnum):
    """How a function failed; decides the error payload's form (Lambda semantics §7.2)."""

    HANDLER = "handler"  #: it raised
    IMPORT = "import"  #: its module raised while it was imported, or it or the handler is not there
    TIMEOUT = "timeout"
    EXIT = "exit"  #: its process ended: exit, signal, out of memory
    RESPONSE = "response"  #: its result can't be marshalled, or is too large
    UNDECODABLE = "undecodable"  #: a record is not what the typed handler wants
    IDEMPOTENCY = "idempotency"  #: a record was not given to it: its key has another payload than before, or is missing


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A failure of the function, as data."""

    cause: FaultCause
    error_type: str
    message: str
    request_id: str = ""
    #: Formatted frames, oldest first; empty where there is no Python traceback.
    stack_trace: tuple[str, ...] = ()
    #: ``file:line`` in the user's code where it was raised; empty where unknown.
    location: str = ""
    exit_code: int | None = None  #: of the process, negative for a signal; None where it did not end

    def payload(self) -> dict[str, Any]:
        """Return the error as Lambda's callers see it. Source: Lambda semantics §7.2."""
        error: dict[str, Any] = {"errorMessage": self.message, "errorType": self.error_type}
        if self.cause in {FaultCause.HANDLER, FaultCause.UNDECODABLE}:
            error["requestId"] = self.request_id
            error["stackTrace"] = list(self.stack_trace)
        elif self.cause is FaultCause.IMPORT:
            error["requestId"] = ""
            error["stackTrace"] = list(self.stack_trace)
        return error


class OutcomeKind(enum.StrEnum):
    """What came back from an invocation."""

    SUCCESS = "success"  #: the handler returned; the response may still report failed records
    FAILURE = "failure"  #: the function's fault: raised, timed out, crashed
    THROTTLED = "throttled"  #: our own limit, before the handler ran: no attempt is counted
    RELEASED = "released"  #: ended by us before it finished (drain, lost shard): no attempt is counted


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an invocation cost, for the REPORT line (Lambda semantics §7.7)."""

    duration_ms: float = 0.0
    init_ms: float | None = None  #: None when the environment was warm
    memory_used_mb: int = 0


#: Faults that one outcome carries: a batch may have ten thousand records, and each fault its traceback.
FAULTS_MAX = 100


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came back from one invocation. A runtime never raises for the function's faults; it returns this."""

    kind: OutcomeKind
    response: bytes = b"null"  #: the result as JSON; meaningful for SUCCESS alone
    fault: Fault | None = None  #: set for FAILURE, and for SUCCESS with `failed` where a handler raised for a record
    #: Indices into the batch of records that a native or typed handler reported failed, rising; None for handlers that
    #: answer with a response.
    failed: tuple[int, ...] | None = None
    #: The faults of the first of `failed`, in the same order, where a typed handler was called record by record; at
    #: most `FAULTS_MAX`. The others have `fault`. Where some were refused for their key, those of all failed records:
    #: at most `FAULTS_MAX` different ones beside the two of refusals, so that none is given up for another's reason.
    faults: tuple[Fault | None, ...] = ()
    #: What a native or typed handler returned to be sent on, where that is wanted: each with the index of the record
    #: that it belongs to, rising. One of a batch as a whole belongs to its last record.
    results: tuple[tuple[int, OutgoingRecord], ...] = ()
    usage: Usage = Usage()
    #: Indices of records, rising, that were not given to the function: their key is in progress in another invocation,
    #: whose claim ends after ``deferred_ms`` at the latest.
    deferred: tuple[int, ...] = ()
    deferred_ms: int = 0

    def fault_of(self, index: int) -> Fault | None:
        """Return what one record of the batch failed with."""
        failed = self.failed or ()
        at = bisect_left(failed, index)
        return self.faults[at] if at < len(self.faults) and failed[at] == index else self.fault

    def of(self, index: int) -> Outcome:
        """Return the outcome as it was for one record of the batch."""
        return msgspec.structs.replace(self, fault=self.fault_of(index)) if self.faults else self


class DiscardReason(enum.StrEnum):
    """Why a record was given up; the `condition` of the record that a destination receives where Lambda has one."""

    RETRY_ATTEMPTS_EXHAUSTED = "RetryAttemptsExhausted"
    RECORD_AGE_EXCEEDED = "RecordAgeExceeded"
    MAXIMUM_PAYLOAD_SIZE_EXCEEDED = "MaximumPayloadSizeExceeded"
    #: The source dropped it before it could be settled (retention).
    RECORD_EXPIRED = "RecordExpired"
    #: It is not what a typed handler can read.
    UNDECODABLE = "Undecodable"
    #: Its idempotency key was processed with another payload, or it has none and needs one.
    IDEMPOTENCY_FAILED = "IdempotencyFailed"
    #: It ended the engine each time it was invoked.
    ENGINE_CRASH = "EngineCrash"
    #: A person skipped it: it held up its shard.
    SKIPPED = "Skipped"
    #: Of a window's final call: the mapping has no windows any more.
    WINDOWS_REMOVED = "WindowsRemoved"
    #: A queue's message was received more often than its redrive policy allows.
    RECEIVES_EXHAUSTED = "ReceivesExhausted"
    # -- events that were accepted for later (Lambda semantics §2.1)
    RETRIES_EXHAUSTED = "RetriesExhausted"
    EVENT_AGE_EXCEEDED = "EventAgeExceeded"
    ZERO_RESERVED_CONCURRENCY = "ZeroReservedConcurrency"
    #: It went through its function too often in one chain (§2.3); records of mappings, too.
    RECURSION = "Recursion"


class VerdictKind(enum.StrEnum):
    """What happens to a run of records."""

    SETTLE = "settle"  #: done: acknowledge
    RETRY = "retry"  #: again, at `Verdict.at_ms`
    BISECT = "bisect"  #: again, in two halves
    DISCARD = "discard"  #: given up, with a reason
    RELEASE = "release"  #: back to the source as it was


class Verdict(msgspec.Struct, frozen=True):
    """The decision for one run of records."""

    kind: VerdictKind
    reason: DiscardReason | None = None  #: for DISCARD
    at_ms: int = 0  #: for RETRY: wall time of the next try
