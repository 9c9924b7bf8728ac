"""What commands may ask, and what they are answered: the structs that travel over the control socket.

A result is shaped for people: `-o json` prints it as it stands here. What is text stays text; bytes that are not UTF-8
travel as `{"base64": ...}`.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import msgspec

from eventcore.embedded.resharding import StreamShard
from eventcore.engine.move_task import MoveTask
from eventcore.engine.status import (
    REDRIVE_RECORDS_MAX,
    DestinationStatus,
    FunctionStatus,
    MappingStatus,
    ParkedRedriven,
)
from eventcore.model import Batch, Fault, OutcomeKind, Usage
from eventcore.ports.connectors import OutgoingRecord
from eventcore.ports.ranges import Extent, ReadRange
from eventcore.ports.runtime import LogLine
from eventcore.ports.store import QueueDepth

#: The largest request, bytes: an event of 6 MB, or `SEND_BYTES_MAX` in base64, with room for what stands around it.
REQUEST_BYTES_MAX = 16 * 1024 * 1024
#: Records and bytes of bodies in one `Send`: one transaction of some 10 ms, and well below `REQUEST_BYTES_MAX`.
SEND_RECORDS_MAX = 1000
SEND_BYTES_MAX = 4 * 1024 * 1024
#: Messages and bytes of bodies that one `PeekQueue` returns.
PEEK_MESSAGES_MAX = 1000
PEEK_BYTES_MAX = 4 * 1024 * 1024
#: The reason of a failure whose message was deleted with the rest of its queue.
PURGED = "Purged"
#: Failures that one `ListFailures` returns.
FAILURES_MAX = 1000

#: Seconds that an answer may take: a store that is busy with large commits.
ANSWER_TIMEOUT_S = 30.0
#: The longest timeout of a function, and what its environment's start and end may take besides, seconds.
INVOKE_TIMEOUT_S = 900.0 + 60.0

Result = TypeVar("Result")


class Request(msgspec.Struct, Generic[Result], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that a command asks: `POST /v1/PATH`."""

    PATH: ClassVar[str]
    RESULT: ClassVar[Any]  #: the type of the answer
    TIMEOUT_S: ClassVar[float] = ANSWER_TIMEOUT_S


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request that can't be carried out; status 400."""

    message: str
    hint: str = ""
    exit_code: int = 1


class Base64(msgspec.Struct, frozen=True):
    """Bytes that are not UTF-8, as JSON can hold them."""

    base64: str

    def __str__(self) -> str:
        return f"base64:{self.base64}"


#: Bytes as JSON can hold them: text where they are UTF-8, which they nearly always are.
Text = str | Base64


def as_text(data: bytes) -> Text:
    """Return bytes as text where they are UTF-8, else in base64."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return Base64(b64encode(data).decode("ascii"))


# -- status ------------------------------------------------------------------------------------------------------------


class StatusReport(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline: from a running engine, or from what the state says without one."""

    is_running: bool
    now_ms: int  #: wall time of the report
    version: str
    pid: int = 0  #: of the engine; 0 when none runs
    started_ms: int = 0
    is_draining: bool = False
    mappings: Sequence[MappingStatus] = ()
    destinations: Sequence[DestinationStatus] = ()
    queues: Sequence[QueueDepth] = ()
    functions: Sequence[FunctionStatus] = ()  #: those that had events


class GetStatus(Request[StatusReport], frozen=True, kw_only=True):
    """Ask what the pipeline does."""

    PATH = "status"
    RESULT = StatusReport


# -- sending -----------------------------------------------------------------------------------------------------------


class Place(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a record went: a message's id in a queue, a shard and position in a stream."""

    id: str = ""
    shard: str = ""
    position: int | None = None


class Send(Request[Sequence[Place]], frozen=True, kw_only=True):
    """Send records; all or none where the source is embedded. Answered with each one's place, in order."""

    PATH = "send"
    RESULT = tuple[Place, ...]

    reference: str  #: `queue:NAME`, `stream:NAME` or `kafka:NAME/TOPIC`
    records: tuple[OutgoingRecord, ...]  #: at most `SEND_RECORDS_MAX`
    delay_s: int | None = None  #: before it shows; queues only, None for the queue's own
    deduplication_id: str = ""  #: of every one of them; FIFO queues only, empty for that of their content


# -- functions ---------------------------------------------------------------------------------------------------------


class Invoked(msgspec.Struct, frozen=True, kw_only=True):
    """What came of running a function once."""

    function: str
    request_id: str
    kind: OutcomeKind
    response: msgspec.Raw  #: the result, or the error as Lambda's callers see it (§7.2)
    fault: Fault | None = None
    failed_count: int = 0  #: records that a handler of records reported failed
    usage: Usage = Usage()
    lines: Sequence[LogLine] = ()  #: what the function wrote, and the platform about it
    stale_pid: int = 0  #: of the running engine, where it ran other code than stands in the folder now; else 0


class Invoke(Request[Invoked], frozen=True, kw_only=True):
    """Run a function once with an event."""

    PATH = "invoke"
    RESULT = Invoked
    TIMEOUT_S = INVOKE_TIMEOUT_S

    function: str
    event: msgspec.Raw  #: JSON
    batch: Batch | None = None  #: the same as records, for a handler that takes those; None: one record, the event


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """An event that waits for its function."""

    function: str
    request_id: str  #: of every try
    is_served: bool  #: an engine runs, and invokes the function; else the event waits for one


class InvokeAsync(Request[Accepted], frozen=True, kw_only=True):
    """Let an event wait for a function; answered once that is durable, whether an engine runs or not."""

    PATH = "invoke/async"
    RESULT = Accepted

    function: str
    event: msgspec.Raw  #: JSON, at most 1 MiB


# -- queues ------------------------------------------------------------------------------------------------------------


class ListQueues(Request[Sequence[QueueDepth]], frozen=True, kw_only=True):
    """Ask for every queue and what it holds."""

    PATH = "queue/ls"
    RESULT = tuple[QueueDepth, ...]


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """A header of a message or record."""

    name: str
    value: Text


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message that stands in a queue."""

    number: int  #: rises as sent
    id: str
    body: Text
    headers: Sequence[Header]
    group: str
    sent_ms: int
    receive_count: int
    visible_ms: int  #: hidden until then; 0 when visible
    state: str  #: "visible", "hidden" (received and not settled) or "delayed"
    deduplication_id: str = ""  #: of a message of a FIFO queue


class PeekQueue(Request[Sequence[Message]], frozen=True, kw_only=True):
    """Ask for messages in the order they were sent, without receiving them.

    Fewer than ``count_max`` come where they are large: ask again behind the last one. None: there are no more.
    """

    PATH = "queue/peek"
    RESULT = tuple[Message, ...]

    queue: str
    count_max: int = 10
    after_number: int = 0


class RedrivePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a redrive would do."""

    queue: str
    target: str
    visible: int  #: messages that it would move
    hidden: int  #: messages that something works on, or that are delayed: they stay


class PlanRedrive(Request[RedrivePlan], frozen=True, kw_only=True):
    """Ask what a redrive would do."""

    PATH = "queue/redrive/plan"
    RESULT = RedrivePlan

    queue: str
    target: str = ""  #: empty: the queue whose dead-letter queue this is


class StartMove(Request[MoveTask], frozen=True, kw_only=True):
    """Begin to move the visible messages of a queue to another one, as new messages."""

    PATH = "queue/moves/start"
    RESULT = MoveTask

    queue: str
    target: str = ""  #: empty: the queue whose dead-letter queue this is
    rate: int = 0  #: messages a second at most; 0: as fast as the store writes


class FollowMove(Request[MoveTask], frozen=True, kw_only=True):
    """Ask how a move task stands. Where no engine runs, this carries out its next step."""

    PATH = "queue/moves/follow"
    RESULT = MoveTask

    id: str


class CancelMove(Request[MoveTask], frozen=True, kw_only=True):
    """Have a queue's move task end before its next step; what was moved stays moved."""

    PATH = "queue/moves/cancel"
    RESULT = MoveTask

    queue: str


class ListMoves(Request[Sequence[MoveTask]], frozen=True, kw_only=True):
    """Ask for the move tasks that are known, newest first."""

    PATH = "queue/moves"
    RESULT = tuple[MoveTask, ...]


class Purged(msgspec.Struct, frozen=True, kw_only=True):
    """What a purge has done."""

    queue: str
    deleted: int


class PurgeQueue(Request[Purged], frozen=True, kw_only=True):
    """Delete every message of a queue, hidden ones too."""

    PATH = "queue/purge"
    RESULT = Purged

    queue: str


# -- the shards of a stream --------------------------------------------------------------------------------------------


class ListShards(Request[Sequence[StreamShard]], frozen=True, kw_only=True):
    """Ask for the shards of an embedded stream, closed ones too."""

    PATH = "stream/shards"
    RESULT = tuple[StreamShard, ...]

    stream: str


class Resharded(msgspec.Struct, frozen=True, kw_only=True):
    """What a split or a merge has done; names of shards."""

    stream: str
    closed: tuple[str, ...]
    opened: tuple[str, ...]


class SplitStreamShard(Request[Resharded], frozen=True, kw_only=True):
    """Split a shard of an embedded stream in two."""

    PATH = "stream/split"
    RESULT = Resharded

    stream: str
    shard: str  #: its name or number
    at: str = ""  #: first hash key of the upper half, decimal; empty: the middle


class MergeStreamShards(Request[Resharded], frozen=True, kw_only=True):
    """Merge two shards of an embedded stream whose hash keys adjoin."""

    PATH = "stream/merge"
    RESULT = Resharded

    stream: str
    shard: str  #: its name or number
    other: str  #: the same


# -- what a stream keeps -----------------------------------------------------------------------------------------------


class GetExtents(Request[Sequence[Extent]], frozen=True, kw_only=True):
    """Ask what each shard of an embedded stream keeps."""

    PATH = "range/extents"
    RESULT = tuple[Extent, ...]

    stream: str


class FindPositions(Request[Mapping[str, int]], frozen=True, kw_only=True):
    """Ask for the position of a time in each shard of an embedded stream."""

    PATH = "range/find"
    RESULT = dict[str, int]

    stream: str
    at_ms: int


class ReadRecords(Request[ReadRange], frozen=True, kw_only=True):
    """Ask for records of an embedded stream, without reading them for a mapping."""

    PATH = "range/read"
    RESULT = ReadRange

    stream: str
    shard: str
    position: int
    end: int
    count_max: int


# -- mappings ----------------------------------------------------------------------------------------------------------


class PauseMapping(Request[None], frozen=True, kw_only=True):
    """Pause a mapping until it is resumed: what runs is finished, and nothing is begun."""

    PATH = "mapping/pause"
    RESULT = None

    mapping: str
    shard: str = ""  #: empty: the whole mapping
    by: str  #: a user of the operating system


class ResumeMapping(Request[None], frozen=True, kw_only=True):
    """End a pause."""

    PATH = "mapping/resume"
    RESULT = None

    mapping: str
    shard: str = ""  #: empty: the mapping's, and those of all its shards
    by: str


class SeekMapping(Request[None], frozen=True, kw_only=True):
    """Move the positions of shards."""

    PATH = "mapping/seek"
    RESULT = None
    TIMEOUT_S = INVOKE_TIMEOUT_S

    mapping: str
    positions: dict[str, Annotated[int, msgspec.Meta(ge=0)]]  #: by shard
    by: str


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """What was given up by hand."""

    shard: str
    count: int  #: records; 0: what held it up has succeeded meanwhile
    failure_ids: Sequence[str]
    destination: str


class SkipRecords(Request[Skipped], frozen=True, kw_only=True):
    """Give up the first records of the batch that holds up a shard."""

    PATH = "mapping/skip"
    RESULT = Skipped
    TIMEOUT_S = INVOKE_TIMEOUT_S

    mapping: str
    shard: str
    count: int = 0  #: 0: the whole batch
    by: str


class ControlEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What a person did to a mapping."""

    at_ms: int
    by: str
    action: str  #: "pause", "resume", "seek" or "skip"
    shard: str  #: empty: the whole mapping
    detail: str = ""


class GetMappingLog(Request[Sequence[ControlEntry]], frozen=True, kw_only=True):
    """Ask what people did to a mapping, the oldest first."""

    PATH = "mapping/log"
    RESULT = tuple[ControlEntry, ...]

    mapping: str


class RedriveParked(Request[ParkedRedriven], frozen=True, kw_only=True):
    """Give parked records of one shard back to their function, in order per key; one bounded step."""

    PATH = "mapping/redrive"
    RESULT = ParkedRedriven
    TIMEOUT_S = INVOKE_TIMEOUT_S

    mapping: str
    shard: str
    besides: tuple[str, ...] = ()  #: keys to leave out: those that an earlier step found failing
    count_max: int = REDRIVE_RECORDS_MAX
    gives_up_missing: bool = False  #: go on without parked records that are not found


# -- failures ----------------------------------------------------------------------------------------------------------


class FailureSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A kept failure, without what it was given."""

    id: str
    mapping: str  #: empty for an event that a function destination failed
    function: str
    source: str
    shard: str
    first: str  #: position or message id of the first record
    last: str
    count: int
    reason: str
    attempts: int
    error_type: str
    error_message: str
    location: str  #: `file:line` in the user's code
    first_failure_ms: int
    created_ms: int
    is_final: bool  #: False while its message may still succeed


class FailedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record of a kept failure."""

    position: int
    id: str  #: of a message; empty for a record of a stream
    key: Text | None
    body: Text | None  #: None for a tombstone
    headers: Sequence[Header]


class FailureReport(FailureSummary, frozen=True, kw_only=True):
    """A kept failure, whole."""

    stack_trace: str
    request_id: str
    code_hash: str
    environment_names: Sequence[str]
    event: msgspec.Raw  #: as it was given; null where it was too large to keep
    is_event_kept: bool
    records: Sequence[FailedRecord]  #: none where the event was not kept, or was no batch


class ListFailures(Request[Sequence[FailureSummary]], frozen=True, kw_only=True):
    """Ask for kept failures, newest first."""

    PATH = "failures/ls"
    RESULT = tuple[FailureSummary, ...]

    mapping: str = ""  #: empty for all
    count_max: int = 100
    before_id: str = ""


class ShowFailure(Request[FailureReport], frozen=True, kw_only=True):
    """Ask for one failure."""

    PATH = "failures/show"
    RESULT = FailureReport

    id: str  #: or its first digits, 6 at least, where they are unique


class Retried(msgspec.Struct, frozen=True, kw_only=True):
    """What came of running a kept failure again."""

    id: str
    invoked: Invoked
    is_settled: bool  #: it succeeded: the failure is forgotten
    problem: str = ""  #: why it still fails
    destination: str = ""  #: where the record of the discard went, and still may stand
    dropped_from: Sequence[str] = ()  #: queues whose message was deleted, for it has been processed now
    stale_pid: int = 0  #: of the running engine whose environments still run other code; 0: of none


class RetryFailure(Request[Retried], frozen=True, kw_only=True):
    """Run a kept failure's function again with exactly what it was given.

    Once it succeeds the failure is forgotten, and a queue's message is deleted where it still stands: in its queue, or
    in that one's dead-letter queue.
    """

    PATH = "failures/retry"
    RESULT = Retried
    TIMEOUT_S = INVOKE_TIMEOUT_S

    id: str


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """What a drop has done."""

    ids: Sequence[str]


class DropFailures(Request[Dropped], frozen=True, kw_only=True):
    """Forget failures."""

    PATH = "failures/drop"
    RESULT = Dropped

    ids: tuple[str, ...]


#: Every request, by the path that it is asked under.
REQUESTS: dict[str, type[Request[Any]]] = {
    request.PATH: request
    for request in (
        GetStatus,
        Send,
        Invoke,
        InvokeAsync,
        ListQueues,
        PeekQueue,
        PlanRedrive,
        StartMove,
        FollowMove,
        CancelMove,
        ListMoves,
        PurgeQueue,
        ListShards,
        SplitStreamShard,
        MergeStreamShards,
        GetExtents,
        FindPositions,
        ReadRecords,
        PauseMapping,
        ResumeMapping,
        SeekMapping,
        SkipRecords,
        GetMappingLog,
        RedriveParked,
        ListFailures,
        ShowFailure,
        RetryFailure,
        DropFailures,
    )
}
