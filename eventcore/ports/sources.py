"""Where records come from: queues (a lease per message) and streams (ordered shards).

A source knows nothing of functions, batches or policies. It hands out records, and is told what became of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from eventcore.delivery.ordering import EMPTY, ShardState
from eventcore.model import OutgoingRecord, Record


class EventShape(Protocol):
    """How a source's records look to a Lambda-shaped handler, to a report, and in a failure record."""

    arn: str  #: of the source; empty where it has none
    is_base64: bool  #: bodies are written in base64, which counts toward the batch's bytes
    record_overhead_bytes: int  #: JSON around one record's data, an upper bound

    def event(self, records: Sequence[Record], shard: str) -> Any:
        """Return the event value (JSON-compatible) for a batch. Source: Lambda semantics §3.1, §4, §5.1."""
        ...

    def identifier(self, record: Record, shard: str) -> Hashable:
        """Return the key under which a report names this record."""
        ...

    def read_identifier(self, value: Any) -> Hashable | None:
        """Return the key that an `itemIdentifier` of a response stands for; None when it can't be one."""
        ...

    def batch_info(self, records: Sequence[Record], shard: str) -> dict[str, Any]:
        """Return the part of an on-failure record that names the batch, as ``{"KafkaBatchInfo": {...}}`` (§4, §5.1).

        Without records, for the final call of a window, it names shard and source alone.
        """
        ...


# -- queues ------------------------------------------------------------------------------------------------------------


class QueueCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a queue can do; a kit tests what is claimed, and the engine refuses settings that need what is not."""

    receive_max: int  #: messages that one receive may return
    is_visibility_extendable: bool = True
    has_receive_count: bool = True
    delay_s_max: int = 0
    survives_restart: bool = False
    #: FIFO: messages of a group come in order, and none while another of it is hidden. What one receive brings may be
    #: worked on at the same time as what others bring, and is one batch by itself.
    keeps_groups: bool = False


class Redrive(msgspec.Struct, frozen=True):
    """A message that its redrive policy took away instead of handing it out once more."""

    id: str
    receive_count: int
    target: str  #: name of the dead-letter queue


class Received(msgspec.Struct, frozen=True):
    """What one receive brought."""

    records: Sequence[Record] = ()
    #: Wall time at which what it hid shows again, unless it is deleted or hidden for longer.
    hidden_until_ms: int = 0
    redriven: Sequence[Redrive] = ()  #: moved to the dead-letter queue by this receive
    expired: Sequence[str] = ()  #: ids of messages that retention has dropped since the last receive


class QueueSource(Protocol):
    """A queue: each receive hides what it returns until it is deleted or its visibility timeout ends (§3.2)."""

    capabilities: QueueCapabilities
    shape: EventShape

    async def receive(self, records_max: int, *, wait_s: float, visibility_timeout_s: int | None = None) -> Received:
        """Receive up to ``records_max`` messages and hide them.

        Returns as soon as there is one, or empty after ``wait_s``. Cancelled, it has hidden nothing, or returns
        what it hid all the same, or that comes back after the visibility timeout.

        Args:
            records_max: at least 1; more than `QueueCapabilities.receive_max` is cut to it.
            wait_s: seconds to wait for a first message.
            visibility_timeout_s: 0-43,200; None for the queue's own.

        Raises:
            SourceUnavailable: the queue can't be reached.
            SourceClosed: it was deleted.
        """
        ...

    async def delete(self, receipts: Sequence[str]) -> Sequence[str]:
        """Delete messages by receipt; return the receipts that no longer own theirs (those were not deleted)."""
        ...

    async def hand_back(self, receipts: Sequence[str], *, hidden_s: int = 0) -> None:
        """Show messages as if they had not been received: this receive does not count.

        Args:
            receipts: those that no longer own their message are passed over.
            hidden_s: 0-43,200; seconds before they show.
        """
        ...

    async def change_visibility(self, receipts: Sequence[str], timeout_s: int) -> Mapping[str, str]:
        """Hide received messages for ``timeout_s`` seconds counted from now; 0 shows them at once.

        Returns the receipts that still own their message, each with the receipt that replaces it. A receipt that is
        not returned is spent: another receive may own the message.
        """
        ...

    async def aclose(self) -> None:
        """Release connections. Messages that are still hidden come back by themselves."""
        ...


# -- streams -----------------------------------------------------------------------------------------------------------


class StreamCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream can do."""

    #: Shards come and go while it runs (rebalance); else all are taken at the start and kept.
    has_rebalance: bool = False
    #: `settle` returns when the checkpoint is durable; else it is written in the background, at most
    #: `checkpoint_lag_s_max` later.
    is_settle_durable: bool = True
    checkpoint_lag_s_max: float = 0.0
    survives_restart: bool = False
    takes_results: bool = False  #: it is a `ResultSource`
    keeps_windows: bool = False  #: `ShardState.window` is kept with the checkpoint, all or none


class TakenShard(msgspec.Struct, frozen=True, kw_only=True):
    """A shard that now is ours."""

    shard: str
    epoch: int  #: rises with every owner; `settle` with an older one is refused
    #: Position of the first record that is not settled; -1 when nothing was ever settled.
    checkpoint: int
    state: ShardState = EMPTY  #: the failing work that the owner before left


class LostRange(msgspec.Struct, frozen=True, kw_only=True):
    """Records that the source dropped before they could be settled."""

    shard: str
    first: int  #: position, inclusive
    last: int  #: position, inclusive


class ShardRecords(msgspec.Struct, frozen=True):
    """Records of one shard, in order, without a gap against what was received before but for `lost` ones."""

    shard: str
    records: Sequence[Record]
    lost: LostRange | None = None  #: before the first of these records
    is_end: bool = False  #: the shard was closed, and nothing comes behind them


class ShardListener(Protocol):
    """What a stream source calls when shards come and go; the engine implements it."""

    async def on_taken(self, shards: Sequence[TakenShard]) -> None:
        """Begin work on shards. Returns at once."""
        ...

    async def on_revoked(self, shards: Sequence[str], *, why: str = "") -> None:
        """Stop work on shards: returns when their batches are settled or handed back, within the engine's budget.

        The source still accepts `settle` for them until this returns.

        Args:
            shards: their names.
            why: for people; empty where another owner may take them.
        """
        ...

    async def on_lost(self, shards: Sequence[str]) -> None:
        """Abandon shards at once: another owner has them, and `settle` would be refused."""
        ...


class ShardLag(msgspec.Struct, frozen=True, kw_only=True):
    """How far behind its end a shard is."""

    shard: str
    checkpoint: int
    end: int  #: the position that the next record would get; -1 unknown
    lag: int  #: records between the checkpoint and the end, as far as known
    waits_for: str = ""  #: shards that are read to their ends before this one, which has no owner until then
    #: It was split or merged, and all of it is settled: it has no owner, unless it is moved back.
    is_drained: bool = False


class ResultRecord(msgspec.Struct, frozen=True):
    """What a mapping sends on: a function's result, or what became of a discarded batch."""

    topic: str
    record: OutgoingRecord


class StreamSource(Protocol):
    """A stream: ordered shards, one owner each, and a checkpoint a shard (§4, §5.1)."""

    capabilities: StreamCapabilities
    shape: EventShape

    async def open(self, listener: ShardListener) -> None:
        """Connect, check that the stream is there, and begin taking shards.

        Raises:
            SourceUnavailable: it can't be reached, or does not exist; the message names both address and stream.
        """
        ...

    async def receive(self, *, wait_s: float) -> Sequence[ShardRecords]:
        """Return records of owned shards that are not paused, each shard's in order.

        Returns as soon as there is one, or empty after ``wait_s``. Cancelling it loses no records: they are returned
        by the next call. Never returns a record of a shard after `ShardListener.on_revoked` or `on_lost` named it.
        """
        ...

    def pause(self, shard: str) -> None:
        """Return no more records of a shard until `resume`; a no-op for a shard that is not owned."""
        ...

    def resume(self, shard: str) -> None:
        """Return records of a shard again; a no-op for a shard that is not owned or not paused."""
        ...

    async def settle(self, shard: str, epoch: int, checkpoint: int, state: ShardState, *, is_urgent: bool) -> None:
        """Move a shard's checkpoint and keep its failing work.

        Args:
            shard: an owned shard.
            epoch: of `TakenShard`; an older one is refused.
            checkpoint: all before this position is settled; never goes back.
            state: replaces the state kept before.
            is_urgent: return only when it is durable, whatever the capabilities say: a failed attempt, a mark.

        Raises:
            ShardLost: the shard has another owner; nothing was written.
            SourceUnavailable: it may or may not have been written.
        """
        ...

    async def seek(self, shard: str, position: int, state: ShardState) -> TakenShard | None:
        """Move a shard's checkpoint anywhere, durably, and begin there anew; return the shard as taken again.

        What was received of it before is void: nobody works on it, and none of it is settled any more. No receive
        returns records from the new position on before this has returned.

        None for a shard of `lag` that waits or is drained. Before a drained one is read again, its listener is told
        that the shards it became are revoked: they wait for it once more. It is told of what can be read then, too.

        Args:
            shard: an owned shard, or one of those.
            position: the first record that `receive` returns next, if it is there.
            state: replaces the failing work; of a shard without an owner, parked keys alone are kept.

        Raises:
            ShardLost: the shard has another owner; nothing was written.
            SourceUnavailable: it may or may not have been written.
        """
        ...

    async def write_behind(self) -> None:
        """Make durable what was settled without being urgent, beside `receive`, until cancelled.

        Whoever opened the source runs it until nobody settles any more; without it, a checkpoint that is not urgent may
        be durable with `aclose` alone. Returns at once where `StreamCapabilities.is_settle_durable`. Cancelled, what is
        being written is written. A checkpoint that can't be written is tried again, and never raised; a transaction
        that can't be ended is undone, and its shard lost.
        """
        ...

    @property
    def waits_for(self) -> str:
        """What has to appear outside before there is anything to read, for people; empty when it is there."""
        ...

    async def lag(self) -> Sequence[ShardLag]:
        """Return how far behind each owned shard is, and each that waits or is drained, without asking outside."""
        ...

    async def aclose(self) -> None:
        """Write outstanding checkpoints and give up the shards. Calls `ShardListener.on_revoked` for none."""
        ...


class ResultSource(StreamSource, Protocol):
    """A stream that takes results as well (`StreamCapabilities.takes_results`)."""

    async def produce(self, shard: str, epoch: int, results: Sequence[ResultRecord]) -> None:
        """Send results on, in order per key; followed by the `settle` of what they were made of.

        At least once: they are durable when it returns. Exactly once: they become visible with the checkpoint of that
        `settle`, which is durable at most `StreamCapabilities.checkpoint_lag_s_max` later, or never.

        Raises:
            ShardLost: the shard has another owner, and they will never be visible; or, exactly once, what was not
                durable yet is undone, and the shard begins anew from its checkpoint.
            SourceUnavailable: at least once: they may or may not have been written.
        """
        ...
