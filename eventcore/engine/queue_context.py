"""What the batches of one queue mapping share."""

from __future__ import annotations

import msgspec

from eventcore.clock import Clock
from eventcore.delivery.batching import BatchPolicy
from eventcore.delivery.retry import RetryPlan
from eventcore.delivery.scaling import QueueScaling
from eventcore.engine.breaker import MappingBreaker
from eventcore.engine.dispatcher import Dispatcher
from eventcore.engine.filtering import RecordFilter
from eventcore.engine.gate import Gate
from eventcore.engine.rate import MappingRate
from eventcore.engine.reporter import Reporter
from eventcore.engine.settler import Settler
from eventcore.ids import IdFactory
from eventcore.ports.recorder import Recorder
from eventcore.ports.sources import EventShape, QueueSource
from eventcore.telemetry.tracing import Tracing


class QueueContext(msgspec.Struct, frozen=True, kw_only=True):
    """What the batches of one mapping share."""

    mapping: str
    source_reference: str
    source: QueueSource
    shape: EventShape
    dispatcher: Dispatcher
    settler: Settler
    recorder: Recorder
    filter: RecordFilter | None  #: None: every record reaches the function
    batching: BatchPolicy
    scaling: QueueScaling
    visibility_timeout_s: int
    retry: RetryPlan | None  #: None: what failed comes back when its visibility timeout ends
    gate: Gate
    breaker: MappingBreaker | None
    rate: MappingRate | None  #: None: as fast as it can
    clock: Clock
    ids: IdFactory
    reporter: Reporter
    tracing: Tracing
