"""Hop 4 for a mapping with idempotency: records whose key was processed are not given to the function.

Keys are claimed in the store before an invocation and completed right after it, before anything is settled: so what
was completed is never invoked again, and a crash between the handler's end and that commit is the one moment after
which a record runs twice, once its claim has ended.

| crash | what the next process sees |
|---|---|
| before or during the invocation, or before its keys are completed | claims, until they end: then the records run |
| after the keys are completed, before the ack | the records come again, and are settled without an invocation |
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import anyio
import msgspec

from eventcore.clock import Clock
from eventcore.delivery.idempotency import (
    IdempotencyPolicy,
    Keyed,
    Known,
    Merged,
    Sorted,
    keys_of,
    merge,
    sort,
)
from eventcore.delivery.partial import SUCCESS, fail_behind
from eventcore.engine.dispatcher import Answer, Dispatcher
from eventcore.engine.record_keys import KeySource
from eventcore.engine.reporter import Reporter
from eventcore.engine.settler import SETTLE_GRACE_S
from eventcore.errors import StoreUnavailable
from eventcore.ids import IdFactory
from eventcore.model import Batch, OutgoingRecord
from eventcore.ports.keys import ClaimKeys, CompleteKeys, Completion, KeyKind, KeyState, ReleaseKeys
from eventcore.ports.sources import EventShape
from eventcore.ports.store import Operation, Store
from eventcore.registry import Function
from eventcore.telemetry.tracing import Tracing

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[OutgoingRecord, ...]).decode


class RecordKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What a mapping needs to tell repeated records."""

    policy: IdempotencyPolicy
    source: KeySource
    is_ordered: bool  #: nothing may pass a record that waits: of a stream, or a FIFO queue
    is_stream: bool  #: a response names the first record that failed, and those behind it were not tried (§4)
    store: Store
    clock: Clock
    ids: IdFactory


class IdempotentDispatcher(Dispatcher):
    """The way into one function for records with keys."""

    def __init__(
        self,
        function: Function,
        shape: EventShape,
        tracing: Tracing,
        reporter: Reporter,
        keys: RecordKeys,
        *,
        reports_failures: bool,
        wants_results: bool = False,
    ) -> None:
        """Prepare the way; see `Dispatcher`."""
        super().__init__(
            function,
            shape,
            tracing,
            reports_failures=reports_failures,
            wants_results=wants_results,
            reporter=reporter,
        )
        self._keys = keys
        self._told = reporter

    async def invoke(self, batch: Batch, *, now_ms: int | None = None) -> Answer:
        """Run the function once with the records that were not processed yet; return what became of all.

        Without any it is not run, nor where a key function could not be asked: that is the outcome then. Cancelled or
        failed on the way, the batch's keys are free again.

        Raises:
            StoreUnavailable: keys could not be claimed or completed.
        """
        keys = self._keys
        owner = keys.ids.new_id()
        known = await keys.source.find(batch, owner)
        if known.outcome is not None:
            return Answer(known.outcome, None, batch)
        keyed = known.keyed
        is_over = False
        try:
            states = await self._claim(owner, keyed)
            found = sort(
                keyed,
                states,
                requires_key=keys.policy.requires_key,
                is_ordered=keys.is_ordered,
                unread=known.unread,
            )
            outcome, report, part = None, SUCCESS, batch
            if found.fresh:
                part = batch if found.is_plain else _take(batch, found.fresh)
                outcome = (await super().invoke(part, now_ms=now_ms)).outcome
                report = self.read(part, outcome)
                if keys.is_stream and outcome.failed is None:
                    report = fail_behind(report, len(part))
            merged = merge(keyed, found, outcome, report, now_ms=keys.clock.now_ms())
            await self._complete(owner, keyed, found, merged)
            is_over = True
        finally:
            if not is_over:
                await self._release(owner, keys_of(keyed))
        self._told.repeated(batch.shard, merged.repeated)
        return Answer(merged.outcome, outcome, part)

    async def _claim(self, owner: str, keyed: Sequence[Keyed]) -> dict[bytes, Known]:
        keys, wanted = self._keys, keys_of(keyed)
        if not wanted:
            return {}
        now_ms = keys.clock.now_ms()
        claim = ClaimKeys(
            owner=owner,
            keys=wanted,
            now_ms=now_ms,
            until_ms=now_ms + keys.policy.in_progress_timeout_s * 1000,
            is_ordered=keys.is_ordered,
        )
        (states,) = await keys.store.commit([claim])
        return {key: _read_state(state) for key, state in zip(wanted, states, strict=True)}

    async def _complete(self, owner: str, keyed: Sequence[Keyed], found: Sorted, merged: Merged) -> None:
        """Remember what succeeded, and free what did not."""
        keys, policy = self._keys, self._keys.policy
        completions: list[Completion] = []
        too_large = 0
        for index in merged.done:
            if not keyed[index].key:
                continue
            made = merged.results.get(index)
            result = _encode(made) if made else b""
            if len(result) > policy.result_bytes_max:
                # It could not be sent on again: invoked again, it is made again.
                too_large += 1
            else:
                completions.append(Completion(keyed[index].key, keyed[index].payload, result))
        completed = {each.key for each in completions}
        left = tuple([key for index in found.fresh if (key := keyed[index].key) and key not in completed])
        operations: list[Operation] = []
        if completions:
            now_ms = keys.clock.now_ms()
            operations.append(
                CompleteKeys(
                    owner=owner,
                    completions=tuple(completions),
                    now_ms=now_ms,
                    expires_ms=now_ms + policy.expires_after_s * 1000,
                )
            )
        if left:
            operations.append(ReleaseKeys(owner=owner, keys=left))
        if operations:
            await self._commit(operations)
        self._told.not_remembered(too_large, policy.result_bytes_max)

    async def _commit(self, operations: Sequence[Operation]) -> None:
        with anyio.move_on_after(SETTLE_GRACE_S, shield=True) as scope:
            await self._keys.store.commit(operations)
        if scope.cancelled_caught:
            raise StoreUnavailable(f"the store took longer than {SETTLE_GRACE_S:.0f} s to complete keys")

    async def _release(self, owner: str, claimed: tuple[bytes, ...]) -> None:
        """Free keys; where that fails, their claim ends by itself."""
        if claimed:
            with suppress(StoreUnavailable):
                await self._commit([ReleaseKeys(owner=owner, keys=claimed)])


def _take(batch: Batch, indices: Sequence[int]) -> Batch:
    records = batch.records
    return msgspec.structs.replace(batch, records=[records[index] for index in indices])


def _read_state(state: KeyState) -> Known:
    if state.kind is KeyKind.CLAIMED:
        return _OURS
    if state.kind is KeyKind.IN_PROGRESS:
        return Known(busy_until_ms=state.until_ms)
    return Known(payload=state.payload, results=_decode(state.result) if state.result else ())


_OURS = Known(is_ours=True)
