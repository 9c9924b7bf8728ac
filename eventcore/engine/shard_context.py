"""What the workers of one mapping's shards share, however many lanes each of them has."""

from __future__ import annotations

import anyio
import msgspec

from eventcore.clock import Clock
from eventcore.delivery.batching import BatchPolicy
from eventcore.delivery.retry import StreamRetry
from eventcore.engine.breaker import MappingBreaker
from eventcore.engine.dispatcher import Dispatcher
from eventcore.engine.filtering import RecordFilter
from eventcore.engine.gate import Gate
from eventcore.engine.own_marks import OwnMarks
from eventcore.engine.rate import MappingRate
from eventcore.engine.reporter import Reporter
from eventcore.engine.results import Results
from eventcore.engine.settler import Settler
from eventcore.ids import IdFactory
from eventcore.ports.sources import StreamSource
from eventcore.telemetry.tracing import Tracing


class ShardContext(msgspec.Struct, frozen=True, kw_only=True):
    """What the shards of one mapping share."""

    mapping: str
    source_reference: str
    source: StreamSource
    dispatcher: Dispatcher
    settler: Settler
    retry: StreamRetry
    filter: RecordFilter | None  #: None: every record reaches the function
    batching: BatchPolicy
    record_bytes_max: int  #: data that one record may have; 0: no limit
    gate: Gate
    breaker: MappingBreaker | None
    rate: MappingRate | None  #: None: as fast as it can
    results: Results | None  #: where the function's results go; None where they don't
    lanes: int  #: batches of a shard at a time; 1: one after the other
    is_hashed: bool  #: lanes are shared by keys (the parallelization factor), and none is ever parked
    window_length_s: int  #: of tumbling windows; 0: none
    suspects: anyio.Lock  #: held by the one batch of the engine that runs although one may have died of it
    own_marks: OwnMarks  #: of the engine
    clock: Clock
    ids: IdFactory
    reporter: Reporter
    tracing: Tracing
