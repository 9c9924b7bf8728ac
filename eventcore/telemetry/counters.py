"""What one mapping has done, counted from the engine's events."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from eventcore.model import DiscardReason
from eventcore.telemetry.events import (
    BatchBisected,
    BatchInvoked,
    BatchRetried,
    BatchSettled,
    EngineEvent,
    InvocationFinished,
    RecordsDiscarded,
    RecordsFiltered,
    RecordsLost,
    RecordsParked,
    RecordsReceived,
    RecordsRepeated,
    RecordsReturned,
    ShardReleased,
    ShardTaken,
    WindowCalled,
)


class CountersSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The counters at one moment.

    The books balance: ``received`` is the sum of ``settled``, ``filtered``, ``returned``, ``discarded``, ``parked``,
    ``in_flight`` and ``retrying``.
    """

    mapping: str
    received: int  #: records; one that comes again after it was returned counts again
    settled: int  #: records that were processed
    filtered: int  #: records that matched no filter
    repeated: int = 0  #: of the settled ones, those that were not invoked: their key was processed before
    returned: int  #: records that went back to their source: failed messages of a queue, drain, a lost shard
    in_flight: int  #: records that wait for their first invocation or are in it
    retrying: int  #: records of streams that have failed and are held for another invocation
    parked: int = 0  #: records that wait elsewhere until they are redriven; those are received again
    discarded: Mapping[DiscardReason, int]  #: received records that were given up
    lost: Mapping[DiscardReason, int]  #: records that the source gave up unreceived; outside the balance
    invoked: int  #: invocations begun
    failed_invocations: int
    retried: int  #: batches that were put back for another invocation
    bisected: int  #: batches that were split
    #: The highest of the owned shards: how old the last record of the last batch was when it was invoked (Lambda
    #: semantics §4 "IteratorAge"); None before the first, and for queues.
    iterator_age_ms: int | None = None

    @property
    def expired(self) -> int:
        """Records that the source's retention dropped before they were received."""
        return self.lost.get(DiscardReason.RECORD_EXPIRED, 0)

    @property
    def is_balanced(self) -> bool:
        """Whether every received record is accounted for."""
        done = self.settled + self.filtered + self.returned + self.parked + sum(self.discarded.values())
        return min(self.in_flight, self.retrying) >= 0 and self.received == done + self.in_flight + self.retrying


class MappingCounters:
    """Counts the events of one mapping; subscribe it to `EngineEvents`.

    Every record that is received is held by its shard until an event takes it away. Of those, a shard's leading
    `retrying` ones belong to batches that have failed: what fails in a shard is always its head, so that settling and
    discarding take from them first.
    """

    def __init__(self, mapping: str) -> None:
        self.mapping = mapping
        self.received = 0
        self.settled = 0
        self.filtered = 0
        self.repeated = 0
        self.returned = 0
        self.parked = 0
        self.invoked = 0
        self.failed_invocations = 0
        self.retried = 0
        self.bisected = 0
        self.discarded: dict[DiscardReason, int] = {}
        self.lost: dict[DiscardReason, int] = {}
        #: Records by shard: as many entries as the mapping has shards.
        self._held: dict[str, int] = {}
        self._retrying: dict[str, int] = {}
        #: By owned shard of a stream: how old the last record of the last batch was when it was invoked.
        self.iterator_ages_ms: dict[str, int] = {}

    def __call__(self, event: EngineEvent) -> None:
        """Count an event; those of other mappings are passed over."""
        if event.mapping != self.mapping:
            return
        match event:
            case RecordsReceived():
                self.received += event.count
                self._held[event.shard] = self._held.get(event.shard, 0) + event.count
            case BatchInvoked():
                self.invoked += 1
                if event.iterator_age_ms is not None:
                    self.iterator_ages_ms[event.shard] = event.iterator_age_ms
            case WindowCalled():
                self.invoked += 1
            case InvocationFinished():
                self.failed_invocations += event.fault is not None
            case BatchSettled():
                self.settled += event.count
                self._take(event.shard, event.count)
            case BatchRetried():
                self._count_retried(event)
            case BatchBisected():
                self.bisected += 1
                self._hold_back(event.shard, event.left_count + event.right_count)
            case RecordsDiscarded():
                self.discarded[event.reason] = self.discarded.get(event.reason, 0) + event.count
                self._take(event.shard, event.count)
            case RecordsParked():
                self.parked += event.count
                self._take(event.shard, event.count)
            case RecordsFiltered():
                # At the tail of what is held, unlike everything else that leaves.
                self.filtered += event.count
                self._held[event.shard] = self._held.get(event.shard, 0) - event.count
            case RecordsRepeated():
                self.repeated += event.count
            case RecordsReturned():
                self.returned += event.count
                self._take(event.shard, event.count)
            case RecordsLost():
                self.lost[event.reason] = self.lost.get(event.reason, 0) + event.count
            case ShardTaken() | ShardReleased():
                # After a change of owner, what was held and is not settled is received anew.
                self.returned += self._held.pop(event.shard, 0)
                self._retrying.pop(event.shard, None)
                self.iterator_ages_ms.pop(event.shard, None)
            case _:
                pass

    def snapshot(self) -> CountersSnapshot:
        """Return the counters as they are now."""
        retrying = sum(self._retrying.values())
        return CountersSnapshot(
            mapping=self.mapping,
            received=self.received,
            settled=self.settled,
            filtered=self.filtered,
            repeated=self.repeated,
            returned=self.returned,
            parked=self.parked,
            in_flight=sum(self._held.values()) - retrying,
            retrying=retrying,
            discarded=dict(self.discarded),
            lost=dict(self.lost),
            invoked=self.invoked,
            failed_invocations=self.failed_invocations,
            retried=self.retried,
            bisected=self.bisected,
            iterator_age_ms=max(self.iterator_ages_ms.values(), default=None),
        )

    def _count_retried(self, event: BatchRetried) -> None:
        self.retried += 1
        if event.is_returned:
            self.returned += event.count
            self._take(event.shard, event.count)
        else:
            self._hold_back(event.shard, event.count)

    def _take(self, shard: str, count: int) -> None:
        self._held[shard] = self._held.get(shard, 0) - count
        if retrying := self._retrying.get(shard):
            self._retrying[shard] = max(0, retrying - count)

    def _hold_back(self, shard: str, count: int) -> None:
        # Not a sum: a part that fails again was among the retrying ones already.
        self._retrying[shard] = max(self._retrying.get(shard, 0), count)
