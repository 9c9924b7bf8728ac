"""The state: queues, streams, checkpoints, outbox, failures, behind one writer.

Writes are *operations*: plain structs, given to `Store.commit` as one list that takes effect as a whole or not at all.
The store may put the lists of many callers into one transaction (group commit); each caller awaits its own result.
Operations carry the wall time they need; a store reads no clock. Reads see everything that was committed before them.

Fixed bounds: a commit holds at most `OPERATIONS_MAX` operations; a message or record body at most `BODY_BYTES_MAX`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from eventcore.delivery.ordering import EMPTY, ShardState

OPERATIONS_MAX = 10_000
#: The largest body of a message or record, bytes: SQS's limit since 2025 (Lambda semantics §3.2).
BODY_BYTES_MAX = 1_048_576


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A write. Each subclass says what it does and what `Store.commit` returns for it."""


# -- queues (Lambda semantics §3.2) ------------------------------------------------------------------------------------


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a queue remembers of its definition. Times in seconds."""

    visibility_timeout: int = 30
    message_retention_period: int = 345_600
    delay: int = 0
    maximum_message_size: int = BODY_BYTES_MAX
    dead_letter_queue: str = ""  #: empty: none
    max_receive_count: int = 0  #: receives after which a message goes to the dead-letter queue; 0 without one
    #: Messages of a group are handed out in order, and none while another of it is hidden; it can't be changed later.
    fifo_queue: bool = False
    #: FIFO: a message without a deduplication id has the SHA-256 of its body as one.
    content_based_deduplication: bool = False
    deduplication_scope: str = "queue"  #: FIFO: `queue` or `messageGroup`: within what a deduplication id is one


class DefineQueue(Operation, frozen=True, kw_only=True):
    """Make a queue, or change its settings; its messages stay. Returns None.

    Raises:
        ValueError: the redrive policy is half a policy, or leads to the queue itself; a queue that is there can't
            become a FIFO queue, or stop being one.
    """

    queue: str
    settings: QueueSettings


class NewMessage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A message to send."""

    id: str
    body: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    group: str = ""  #: message group, of a standard queue the tenant; empty without one
    delay_s: int | None = None  #: None for the queue's own
    #: A message with a token that the queue has taken before is dropped silently, for as long as
    #: `IDEMPOTENCY_DAYS`; empty: never dropped. Not for FIFO queues.
    idempotency_token: str = ""
    #: FIFO queues only: a message whose id was sent within `DEDUPLICATION_S` before is taken, and not delivered.
    deduplication_id: str = ""


#: A destination's row that a redelivered batch writes again is recognised for this long: longer than any retention.
IDEMPOTENCY_DAYS = 15
#: The header that names the queue from which a message came to its dead-letter queue.
DEAD_LETTER_SOURCE = "eventcore-dead-letter-source"
#: The header that says how often such a message had been received before it came.
DEAD_LETTER_RECEIVES = "eventcore-dead-letter-receives"
#: How long a FIFO queue knows a deduplication id, seconds (Lambda semantics §3.2 "FIFO").
DEDUPLICATION_S = 300


class SendMessages(Operation, frozen=True, kw_only=True, gc=False):
    """Put messages into a queue, in order. Returns the ids of those that were new, in order.

    A FIFO queue returns one id for each message: for a duplicate that of the message that was sent before.

    Raises:
        KeyError: the queue is not defined.
        ValueError: a message is longer than `BODY_BYTES_MAX`, or than the queue allows its senders; or it is not of
            the queue's type: a FIFO queue needs a group and a deduplication id, and takes no delay.
    """

    queue: str
    messages: tuple[NewMessage, ...]
    now_ms: int
    #: Refuse what is longer, headers included, than the queue's `maximum_message_size`: asked of those who send, and
    #: not of what mappings give up.
    is_bounded: bool = False


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A message as it stands in a queue."""

    number: int  #: rises as sent
    id: str
    body: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    group: str = ""
    sent_ms: int = 0
    receive_count: int = 0
    first_receive_ms: int = 0  #: 0 before the first
    visible_ms: int = 0  #: hidden until then; 0 when visible
    receipt: str = ""  #: of the receive that returned it; empty when peeked
    deduplication_id: str = ""  #: of a message of a FIFO queue


class ReceiveMessages(Operation, frozen=True, kw_only=True):
    """Hide up to ``count_max`` visible messages and return them: a `ReceiveResult`.

    With ``count_max`` 0 nothing is handed out, and what retention has ended is swept all the same, in bounded steps.
    Oldest first as far as retries allow, but messages of a noisy tenant (`store/tenants.py`) after those of all others;
    what is passed over counts as looked at. A message whose receives of this queue would exceed its limit goes to the
    dead-letter queue instead, with its id (trap 16); one past its retention is dropped. Delays and visibility
    timeouts that have ended by ``now_ms`` count as ended.

    What goes to the dead-letter queue keeps its receive count and first receive, and has the headers
    `DEAD_LETTER_SOURCE`, which names the queue, and `DEAD_LETTER_RECEIVES`: a limit of that queue does not count them.

    A FIFO queue hands out as many messages of a group as it can before it turns to the next one, groups by their
    oldest message, and none of a group of which a message is hidden. Its dead-letter queue counts retention anew, and
    knows a message's id as its deduplication id.
    """

    queue: str
    count_max: int
    now_ms: int
    visibility_timeout_s: int | None = None  #: None for the queue's own


class MovedMessage(msgspec.Struct, frozen=True):
    """A message that went to the dead-letter queue."""

    id: str
    receive_count: int
    target: str


class ReceiveResult(msgspec.Struct, frozen=True):
    """What a receive brought."""

    messages: Sequence[StoredMessage] = ()
    moved: Sequence[MovedMessage] = ()
    expired: Sequence[str] = ()  #: ids that retention dropped
    next_visible_ms: int = 0  #: when the next hidden or delayed message shows; 0 when there is none


class DeleteMessages(Operation, frozen=True, kw_only=True, gc=False):
    """Delete received messages. Returns the receipts that no longer owned theirs, as a list.

    A receipt owns its message until another receive of it; of a FIFO queue, until its visibility timeout has ended by
    ``now_ms`` (Lambda semantics §3.2 "ReceiptHandle").

    Raises:
        FencedOut: `is_required`, and a receipt does not own its message; the whole commit has no effect.
    """

    queue: str
    receipts: tuple[str, ...]
    now_ms: int = 0
    #: The rest of the commit is for those alone who own every message, as they stand before it.
    is_required: bool = False


class ChangeVisibility(Operation, frozen=True, kw_only=True):
    """Hide received messages until ``now_ms`` + ``timeout_s``. Returns a dict: old receipt to new one, owners only."""

    queue: str
    receipts: tuple[str, ...]
    timeout_s: int
    now_ms: int
    is_uncounted: bool = False  #: they were as good as not received, and count one receive less


class PurgeQueue(Operation, frozen=True, kw_only=True):
    """Delete every message of a queue, hidden ones too. Returns how many there were."""

    queue: str


class MovedCount(msgspec.Struct, frozen=True):
    """What a move has done."""

    taken: int = 0  #: messages that have left the source
    moved: int = 0  #: of them, those that are in the target: the others were past their retention, or known there


class MoveMessages(Operation, frozen=True, kw_only=True):
    """Move up to ``count_max`` visible messages to another queue, oldest first. Returns a `MovedCount`.

    They become new messages: receive count 0, sent now, without the headers of a dead letter (Lambda semantics §3.2
    "StartMessageMoveTask"; §12). Of a FIFO queue none of a group is moved of which a message is hidden; one whose
    deduplication id the target knows is not moved, and gone.

    Raises:
        ValueError: one of the two is a FIFO queue, the other is not.
    """

    source: str
    target: str
    count_max: int
    now_ms: int
    ids: tuple[str, ...] = ()  #: new ones, ``count_max`` of them; empty: they keep theirs
    through_number: int = 0  #: none that was sent after this one; 0: whichever


class DropMessages(Operation, frozen=True, kw_only=True):
    """Delete messages by their id, wherever they stand in the queue. Returns how many there were."""

    queue: str
    ids: tuple[str, ...]


class QueueDepth(msgspec.Struct, frozen=True, kw_only=True):
    """How many messages a queue holds, from counters."""

    queue: str
    visible: int
    hidden: int  #: received and not settled
    delayed: int  #: not yet received, and not yet due; of a standard queue also what was handed back as not received
    oldest_ms: int = 0  #: sent time of the oldest; 0 when empty
    last_number: int = 0  #: of the message that was sent last; 0 before the first
    settings: QueueSettings = QueueSettings()


# -- streams -----------------------------------------------------------------------------------------------------------


class StreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream remembers of its definition."""

    shards: int = 4
    retention_period: int = 86_400  #: seconds
    retention_bytes: int = 0  #: of bodies, all shards together; 0: no limit
    #: Shards were split or merged since it was made; kept by the store, whatever a definition says.
    is_resharded: bool = False


class DefineStream(Operation, frozen=True, kw_only=True):
    """Make a stream, or change its settings. Returns None.

    Raises:
        ValueError: the number of shards differs from the one it was made with.
    """

    stream: str
    settings: StreamSettings


class NewRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record to append."""

    shard: int
    body: bytes
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    idempotency_token: str = ""  #: as in `NewMessage`


class AppendRecords(Operation, frozen=True, kw_only=True):
    """Append records to a stream. Returns their positions in order, rising by one a shard; -1 for a repeated one.

    A record for a shard that was split or merged goes to the open descendant that holds its key.

    Raises:
        KeyError: the stream is not defined.
        FencedOut: `is_strict`, and a shard is closed; the whole commit has no effect.
    """

    stream: str
    records: tuple[NewRecord, ...]
    now_ms: int
    is_strict: bool = False  #: refuse records for a closed shard, for senders who tell where their records are


class SplitShard(Operation, frozen=True, kw_only=True):
    """Close a shard and open two that share its hash keys. Returns their numbers, the lower one first.

    Raises:
        KeyError: the stream is not defined.
        ValueError: there is no such shard, it is closed, or the hash key is not inside its range.
    """

    stream: str
    shard: int
    at: str = ""  #: first hash key of the upper one, a decimal number; empty: the middle


class MergeShards(Operation, frozen=True, kw_only=True):
    """Close two shards whose hash keys adjoin and open one that has all of them. Returns its number.

    Raises:
        KeyError: the stream is not defined.
        ValueError: there is no such shard, one is closed, or they do not adjoin.
    """

    stream: str
    shard: int
    other: int


class ShardLineage(msgspec.Struct, frozen=True, kw_only=True):
    """Which hash keys a shard has, and what it was made from and into."""

    first_hash_key: str  #: a decimal number of up to 39 digits, inclusive
    last_hash_key: str  #: the same
    parents: tuple[int, ...] = ()  #: numbers of the shards that it was split or merged from
    children: tuple[int, ...] = ()  #: of those that it was split or merged into; it is closed when there are any


class StoredRecord(msgspec.Struct, frozen=True, gc=False):
    """A record as it stands in a stream."""

    position: int
    body: bytes
    key: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    arrived_ms: int


class TrimStream(Operation, frozen=True, kw_only=True):
    """Drop records that arrived before ``before_ms``, and the oldest past ``retention_bytes``, in bounded steps.

    Returns how many were dropped by this step; call again until 0.
    """

    stream: str
    before_ms: int
    count_max: int = 1000


class ShardExtent(msgspec.Struct, frozen=True, kw_only=True):
    """Where a shard of an embedded stream begins and ends."""

    shard: int
    first: int  #: position of the oldest record kept; equals `end` when empty
    end: int  #: position that the next record gets; of a closed shard it stays
    #: None for a shard that the stream was made with and that was never split or merged.
    lineage: ShardLineage | None = None

    @property
    def is_closed(self) -> bool:
        """Whether nothing comes any more."""
        return self.lineage is not None and bool(self.lineage.children)

    @property
    def parents(self) -> tuple[int, ...]:
        """Numbers of the shards that it was made from."""
        return self.lineage.parents if self.lineage is not None else ()


# -- checkpoints -------------------------------------------------------------------------------------------------------


class TakeShard(Operation, frozen=True, kw_only=True):
    """Become a shard's owner. Returns a `Checkpoint` with a new, higher epoch."""

    mapping: str
    shard: str


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A shard's progress for one mapping."""

    mapping: str
    shard: str
    epoch: int
    position: int  #: first position that is not settled; -1 when nothing was ever settled
    state: ShardState = EMPTY


class SaveCheckpoint(Operation, frozen=True, kw_only=True):
    """Move a shard's checkpoint and replace its state. Returns None.

    Raises:
        FencedOut: the epoch is not the newest, or the position goes back; the whole commit has no effect.
    """

    mapping: str
    shard: str
    epoch: int
    position: int
    state: ShardState = EMPTY


class SeekCheckpoint(Operation, frozen=True, kw_only=True):
    """Set a shard's checkpoint to any position, drop its state and raise its epoch. Returns the new epoch."""

    mapping: str
    shard: str
    position: int


# -- outbox ------------------------------------------------------------------------------------------------------------


class OutboxRow(msgspec.Struct, frozen=True, kw_only=True):
    """Something to hand over to a destination outside the store."""

    key: str  #: unique: a redelivered batch writes its row once (design §3)
    destination: str  #: reference, as `kafka:local/failed`
    lane: str  #: rows of one (destination, lane) are handed over in order: mapping and shard
    payload: bytes
    record_key: bytes | None = None  #: the key of a Kafka record
    attributes: Mapping[str, str] = {}
    created_ms: int = 0
    attempts: int = 0
    due_ms: int = 0  #: not to be tried before
    number: int = 0  #: rises as written; set by the store
    last_error: str = ""


class PutOutbox(Operation, frozen=True, kw_only=True):
    """Add a row, or do nothing when its key was ever there. Returns whether it was new."""

    row: OutboxRow


class MarkSent(Operation, frozen=True, kw_only=True):
    """Take rows out that were handed over; their keys are kept for `IDEMPOTENCY_DAYS`. Returns None."""

    keys: tuple[str, ...]
    now_ms: int


class PostponeOutbox(Operation, frozen=True, kw_only=True):
    """Note a failed hand-over: attempts + 1, the error, and when to try again. Returns None."""

    key: str
    due_ms: int
    error: str


class OutboxDepth(msgspec.Struct, frozen=True, kw_only=True):
    """What waits for one destination."""

    destination: str
    rows: int
    size_bytes: int
    oldest_ms: int
    last_error: str = ""


# -- failures ----------------------------------------------------------------------------------------------------------


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A failed batch, kept for looking at and running again."""

    id: str
    mapping: str
    function: str
    source: str
    shard: str
    first: str  #: position or message id of the first record
    last: str
    count: int  #: records
    reason: str  #: a `DiscardReason`, or "Failing" for a queue's message that will come back
    attempts: int
    error_type: str = ""
    error_message: str = ""
    stack_trace: str = ""
    location: str = ""  #: `file:line` in the user's code
    code_hash: str = ""  #: SHA-256 of the function's code folder, first 16 hex digits
    environment_names: tuple[str, ...] = ()  #: names only: values may be secrets
    request_id: str = ""
    first_failure_ms: int = 0
    created_ms: int = 0
    #: The event exactly as it was given, JSON; empty where it was larger than `FAILURE_EVENT_BYTES_MAX`.
    event: bytes = b""
    #: The records as msgpack (`model.Record`), so that a native or typed handler can be run again.
    records: bytes = b""
    is_final: bool = True  #: False while its message may still succeed


#: A larger event is kept without its body, and says so.
FAILURE_EVENT_BYTES_MAX = 6 * 1024 * 1024 + 512 * 1024


class KeepFailure(Operation, frozen=True, kw_only=True):
    """Keep a failure, or replace the one with the same id. Returns None."""

    failure: Failure


class SealFailures(Operation, frozen=True, kw_only=True):
    """Make kept failures final, with a new reason: their message left its queue. Returns how many."""

    ids: tuple[str, ...]
    reason: str


class DropFailures(Operation, frozen=True, kw_only=True):
    """Forget failures. Returns how many there were."""

    ids: tuple[str, ...]


class TrimFailures(Operation, frozen=True, kw_only=True):
    """Forget the oldest failures past a size or an age. Returns how many were forgotten."""

    before_ms: int
    size_bytes_max: int


# -- notes -------------------------------------------------------------------------------------------------------------


class PutNote(Operation, frozen=True, kw_only=True):
    """Keep a small named value (counters, the state of a mapping). Returns None."""

    name: str
    value: bytes


# -- the port ----------------------------------------------------------------------------------------------------------


class StoreCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a store can promise."""

    is_durable: bool  #: a commit survives SIGKILL and power loss
    is_shared: bool = False  #: several engines may use it at once


class StoreStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot."""

    commits: int  #: transactions
    operations: int
    waiting: int  #: callers whose commit has not begun


class Store(Protocol):
    """State with one writer. Opened by an async context manager of the implementation's module."""

    capabilities: StoreCapabilities

    async def commit(self, operations: Sequence[Operation]) -> list[Any]:
        """Carry out operations in order, all or none; return one result each.

        When it returns they are durable (`StoreCapabilities.is_durable`). Cancelled before its transaction began,
        nothing is written; cancelled later, everything may have been written.

        Raises:
            FencedOut: a conditional write was refused; nothing of this list was written.
            KeyError, ValueError: an operation names what is not there; nothing of this list was written.
            StoreUnavailable: disk full, read-only, locked; nothing of this list was written.
            StoreCorrupt: the file is damaged.
        """
        ...

    def watch(self, topic: str) -> AbstractAsyncContextManager[Watch]:
        """Watch a topic (`queue:NAME`, `stream:NAME`, `outbox`) for commits that may give a reader something to do."""
        ...

    async def queue_depths(self) -> Sequence[QueueDepth]:
        """Return all queues by name."""
        ...

    async def peek(
        self, queue: str, *, count_max: int, after_number: int = 0, now_ms: int = 0
    ) -> Sequence[StoredMessage]:
        """Return messages in the order they were sent, without receiving them; `visible_ms` tells their state.

        Raises:
            KeyError: the queue is not defined.
        """
        ...

    async def streams(self) -> Mapping[str, StreamSettings]:
        """Return all streams by name."""
        ...

    async def extents(self, stream: str) -> Sequence[ShardExtent]:
        """Return where each shard begins and ends.

        Raises:
            KeyError: the stream is not defined.
        """
        ...

    async def read(
        self, stream: str, shard: int, position: int, *, count_max: int, size_bytes_max: int
    ) -> Sequence[StoredRecord]:
        """Return records from ``position`` on, in order, at least one if there is one."""
        ...

    async def find_position(self, stream: str, shard: int, at_ms: int) -> int:
        """Return the position of the first record that arrived at or after ``at_ms``; the end when there is none."""
        ...

    async def checkpoints(self, mapping: str | None = None) -> Sequence[Checkpoint]:
        """Return checkpoints, of one mapping or of all, by mapping and shard."""
        ...

    async def due_outbox(self, destination: str, *, now_ms: int, count_max: int) -> Sequence[OutboxRow]:
        """Return a destination's rows that may be handed over now, in order of their number.

        A lane whose oldest row is not due holds back its later ones; other lanes pass.
        """
        ...

    async def next_outbox_ms(self, destination: str) -> int:
        """Return when the destination's next row becomes due; 0 when none waits."""
        ...

    async def outbox_depths(self) -> Sequence[OutboxDepth]:
        """Return what waits, by destination."""
        ...

    async def failures(
        self, *, mapping: str | None = None, count_max: int = 100, before_id: str = ""
    ) -> Sequence[Failure]:
        """Return failures, newest first, without `Failure.event` and `Failure.records`."""
        ...

    async def failure(self, failure_id: str) -> Failure | None:
        """Return one whole failure; a prefix of its id of at least 6 characters will do if it is unique."""
        ...

    async def note(self, name: str) -> bytes | None:
        """Return a small named value."""
        ...

    def statistics(self) -> StoreStatistics:
        """Return a snapshot."""
        ...


class Watch(Protocol):
    """Wakes up after commits that concern its topic; wake-ups coalesce."""

    async def wait(self) -> None:
        """Return at once if something was committed since the last return, else when something is."""
        ...
