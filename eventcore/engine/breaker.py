"""A mapping's circuit breaker at work: it holds the mapping's gate while it is open, and for all but one batch after.

What holds the gate stops the pulling of every kind of mapping as a pause by hand does: receives end, shards stay ours
and are paused by their bounds, nothing is begun. Rules: `delivery.breaker`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import anyio

from eventcore.clock import Clock
from eventcore.delivery.breaker import Breaker, BreakerPolicy, BreakerState
from eventcore.delivery.decide import find_final
from eventcore.delivery.partial import Report
from eventcore.engine.dispatcher import Answer
from eventcore.engine.gate import Gate
from eventcore.engine.reporter import Reporter
from eventcore.engine.status import BreakerStatus, Pause
from eventcore.loop import loop_time, open_scope
from eventcore.model import Batch, Outcome, OutcomeKind
from eventcore.telemetry.events import fault_text

#: What an invocation becomes that failed while the breaker was open or half open: no attempt.
UNCOUNTED = Outcome(kind=OutcomeKind.RELEASED)
#: Shards that have tried since the breaker opened leave the next probe to the others for so long, seconds: who has a
#: record to try begins within milliseconds.
TURN_S = 0.5
#: Who holds a gate that a breaker holds.
HOLDER = "its circuit breaker"


class MappingBreaker:
    """The breaker of one mapping, closed at first."""

    def __init__(self, policy: BreakerPolicy, gate: Gate, clock: Clock, reporter: Reporter) -> None:
        self._breaker = Breaker(policy)
        self._gate = gate
        self._clock = clock
        self._reporter = reporter
        self._changed = anyio.Event()
        self._probe: str | None = None  #: the request id of the one batch
        self._why = ""
        self._held: frozenset[str] | None = None  #: shards, all of them when empty; None: the gate is open
        self._had_turn: set[str] = set()  #: shards of the probes since it opened, or since all had theirs
        self._turns_end_s: float | None = None  #: until then they wait for the others
        gate.breaker = self
        gate.hold(None)

    @property
    def is_half_open(self) -> bool:
        """Whether one batch is let in, to find out."""
        return self._breaker.state is BreakerState.HALF_OPEN

    @property
    def is_holding(self) -> bool:
        """Whether nothing may begin."""
        return not self._breaker.lets_in

    @property
    def pause_left_s(self) -> float:
        """How long it is until the next probe; 0 unless it is open."""
        is_open = self._breaker.state is BreakerState.OPEN
        return max(0.0, self._breaker.probe_s - loop_time()) if is_open else 0.0

    def is_probe(self, batch: Batch) -> bool:
        """Tell whether a batch is the one that is let in, to find out."""
        return self._probe is not None and self._probe == batch.request_id

    def begin(self, batch: Batch) -> None:
        """Note that a batch will be invoked, which the gate has let in; nobody may wait in between. `end` follows."""
        if self._breaker.begin():
            self._probe = batch.request_id
            if batch.shard:
                self._had_turn.add(batch.shard)
            self._turns_end_s = None
            self._hold()

    def end(self, batch: Batch, answer: Answer, read: Callable[[Batch, Outcome], Report]) -> Outcome:
        """Note what came back; return the batch's outcome, or `UNCOUNTED`.

        Args:
            batch: what `begin` was told.
            answer: of the dispatcher; only what the function itself returned counts.
            read: tells which records an outcome names failed.
        """
        own = answer.own or UNCOUNTED
        report = read(answer.given, own)
        is_probe = self.is_probe(batch)
        if is_probe:
            self._probe = None
        before = self._breaker.state
        given = len(answer.given)
        if own.faults and report.failed and batch.shard:
            # A typed handler of an ordered source was called up to the first record that failed.
            given = report.failed[0] + 1
        is_uncounted = self._breaker.end(own, report, given, loop_time(), is_probe=is_probe)
        after = self._breaker.state
        if after is BreakerState.OPEN and before is not after:
            self._why = fault_text(own.fault) or "every record of a batch failed"
        if after is BreakerState.CLOSED:
            self._end_turns()
        if is_probe or before is not after:
            self._hold()
        if before is not after:
            self._tell()
        # What no retry changes is given up, whoever is down.
        return UNCOUNTED if is_uncounted and find_final(answer.outcome.fault) is None else answer.outcome

    async def run(self) -> None:
        """Let a probe in whenever a pause is over, until cancelled."""
        while True:
            self._changed = anyio.Event()
            is_open = self._breaker.state is BreakerState.OPEN
            until_s = self._breaker.probe_s if is_open else self._turns_end_s
            with open_scope(math.inf if until_s is None else until_s):
                await self._changed.wait()
                continue
            if is_open:
                self._breaker.half_open()
                self._begin_turns()
                self._tell()
            else:
                self._end_turns()
            self._hold()

    def _begin_turns(self) -> None:
        """Let those shards try that have not, where any waits: one poison record must not be every probe."""
        if self._had_turn and self._gate.waiting - self._had_turn:
            self._turns_end_s = loop_time() + TURN_S
        else:
            self._end_turns()

    def _end_turns(self) -> None:
        """Let every shard try."""
        self._had_turn.clear()
        self._turns_end_s = None

    def close(self) -> bool:
        """Close it by hand; tell whether it was not closed."""
        if self._breaker.state is BreakerState.CLOSED:
            return False
        self._breaker.close()
        self._probe = None
        self._end_turns()
        self._hold()
        self._tell()
        return True

    def status(self) -> BreakerStatus:
        """Return a snapshot."""
        state, elapsed = self._breaker.state, loop_time()
        now_ms = self._clock.now_ms()
        if state is BreakerState.CLOSED:
            return BreakerStatus(state=state.value)
        return BreakerStatus(
            state=state.value,
            since_ms=now_ms - round((elapsed - self._breaker.opened_s) * 1000),
            why=self._why,
            next_probe_ms=now_ms + round((self._breaker.probe_s - elapsed) * 1000) if state is BreakerState.OPEN else 0,
        )

    def _hold(self) -> None:
        """Hold the gate, for all or for those that had their turn, or let go of it."""
        self._changed.set()
        held: frozenset[str] | None = None
        if self.is_holding:
            held = frozenset()
        elif self._turns_end_s is not None:
            held = frozenset(self._had_turn)
        if held == self._held:
            return
        self._held = held
        if held is None:
            self._gate.hold(None)
        else:
            self._gate.hold(self._gate.held or Pause(by=HOLDER, since_ms=self._clock.now_ms()), held)

    def _tell(self) -> None:
        status = self.status()
        pause_ms = max(0, status.next_probe_ms - self._clock.now_ms())
        self._reporter.breaker(status.state, self._why if status.since_ms else "", pause_ms)


async def guarded(breaker: MappingBreaker | None, poll: Callable[[], Awaitable[None]]) -> None:
    """Poll with a breaker's probes beside it, until cancelled."""
    if breaker is None:
        await poll()
        return
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(breaker.run)
        await poll()
