"""What must hold in every world, whatever went wrong. Each checker yields what it finds wrong, and knows no other."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from eventcore.embedded.shapes import sequence_position
from eventcore.model import Record
from eventcore.testing import Invoked
from tests.simulation.plan import BREAKER_FAILURES, BREAKER_PAUSE_S, QUEUES, RECEIVES_MAX
from tests.simulation.world import World

Checker = Callable[[World], Iterator[str]]


def no_loss(world: World) -> Iterator[str]:
    """Every record that was sent succeeded in a function, or was given up to where it can be looked at."""
    for place, record in world.sent.items():
        if not world.succeeded[record["n"]] and not _was_given_up(world, place, record["n"]):
            yield f"record {record} at {place} was neither processed nor given up"


def _was_given_up(world: World, place: tuple[str, int] | str, number: int) -> bool:
    if world.plan.kind in QUEUES:
        return number in world.dead
    shard, position = (place, 0) if isinstance(place, str) else place
    return any(told.shard == shard and position in told.positions for told in world.deliveries)


def poison_is_given_up(world: World) -> Iterator[str]:
    """A record that always fails reaches its destination: no checkpoint passes it by.

    What is parked is mended before it comes again, or none of its key would ever be done.
    """
    for place, record in world.sent.items():
        is_poison = record["do"] == "poison" and record["n"] not in world.healed
        if is_poison and not _was_given_up(world, place, record["n"]):
            yield f"poison {record} at {place} reached no destination"


def order(world: World) -> Iterator[str]:
    """No record is invoked before all earlier ones of its shard, key or group had succeeded or were given up."""
    if not world.chains:
        return
    done: set[int] = set()
    finished = sorted(_finished(world), key=lambda each: each[0])
    for call in world.invocations:
        while finished and finished[0][0] <= call.at_s:
            done.update(finished.pop(0)[1])
        first: dict[str, int] = {}
        for chain, number in _chained(world, call):
            first.setdefault(chain, number)
        for chain, number in first.items():
            earlier = world.chains[chain]
            missing = [each for each in earlier[: earlier.index(number)] if each not in done]
            if missing:
                yield f"{chain} at {call.at_s:g} s: {number} was invoked before {missing}"


def _finished(world: World) -> Iterator[tuple[float, list[int]]]:
    """Yield when records succeeded or were given up, and their numbers: a report says which of a call succeeded."""
    for call in world.invocations:
        if call.kind == "success" and call.ended_s is not None:
            yield call.ended_s, [json.loads(record.body or b"")["n"] for record in _not_reported(world, call)]
    for gone in world.trouble.given_up:
        if world.plan.kind in QUEUES:
            yield gone.at_s, [record["n"] for place, record in world.sent.items() if place == gone.first]
        else:
            lost = [record["n"] for (at, each), record in _placed(world) if at == gone.shard and each in gone.positions]
            yield gone.at_s, lost


def _placed(world: World) -> list[tuple[tuple[str, int], dict[str, Any]]]:
    return [(place, record) for place, record in world.sent.items() if not isinstance(place, str)]


def _not_reported(world: World, call: Invoked) -> list[Record]:
    """Return the records of a call that are done: in a shard, those before the first that was reported."""
    names = [each["itemIdentifier"] for each in (call.response or {}).get("batchItemFailures", [])]
    if world.plan.kind in QUEUES:
        return [record for record in call.records if record.id not in names]
    first = min((name["offset"] if isinstance(name, dict) else sequence_position(name) for name in names), default=None)
    return [record for record in call.records if first is None or record.position < first]


def _chained(world: World, call: Invoked) -> list[tuple[str, int]]:
    """Return what each record of an invocation is in order with, and its number."""
    records = [json.loads(record.body or b"") for record in call.records]
    return [(chain, record["n"]) for record in records for chain in world.chains_of(call.shard, record)]


def attempts(world: World) -> Iterator[str]:
    """A record that is given up alone has failed as often as is allowed; more only where an attempt could get lost."""
    allowed = 1 + world.plan.retries
    if world.plan.kind in QUEUES:
        yield from _receives(world)
        return
    if world.plan.batch_size != 1:
        return
    failed: Counter[tuple[str, int]] = Counter()
    begun: dict[tuple[str, int], float] = {}
    for call in world.invocations:
        place = (call.shard, call.records[0].position) if call.records else (call.request_id, 0)
        if call.kind == "failure" or (call.response or {}).get("batchItemFailures"):
            failed[place] += 1
            begun.setdefault(place, call.at_s)
    for told in world.deliveries:
        place = told.shard, told.first
        if told.reason not in {"RetryAttemptsExhausted", "RetriesExhausted"} or told.window or told.first != told.last:
            continue
        count, lost = failed[place], _disturbances(world, begun.get(place, 0))
        # What fails while a circuit breaker is open is no attempt.
        if count < allowed or (count > allowed + lost and not world.plan.breaks):
            yield f"{place} failed {count} times, and {allowed} are allowed with {lost} disturbances"


def _disturbances(world: World, since_s: float) -> int:
    """Return how often something happened that an attempt may have got lost in."""
    return sum(at_s >= since_s for at_s in (*world.disturbances, *world.trouble.disturbed))


def _receives(world: World) -> Iterator[str]:
    if world.plan.breaks:
        return
    counts: Counter[str] = Counter()
    for call in world.invocations:
        counts.update(record.id for record in call.records)
    for message, count in counts.items():
        if count > RECEIVES_MAX:
            yield f"message {message} was invoked {count} times, and may be received {RECEIVES_MAX} times"


def one_owner(world: World) -> Iterator[str]:
    """A checkpoint is written by the last who took the shard, and never goes back behind what its writer knows of."""
    owner: dict[str, int] = {}
    position: dict[str, int] = {}
    for entry in world.trouble.journal:
        if entry.kind == "taken":
            if entry.epoch <= owner.get(entry.shard, -1):
                yield f"{entry.shard} was taken with epoch {entry.epoch} after {owner[entry.shard]}"
            owner[entry.shard] = entry.epoch
            continue
        if entry.epoch != owner.get(entry.shard):
            yield f"{entry.shard} was settled by epoch {entry.epoch}, and belongs to {owner.get(entry.shard)}"
        known = position.get(entry.shard, 0)
        if entry.checkpoint < known:
            yield f"{entry.shard} went back from {known} to {entry.checkpoint}"
        if not entry.is_answer_lost:
            position[entry.shard] = max(entry.checkpoint, known)


def one_at_a_time(world: World) -> Iterator[str]:
    """What is in order runs one batch after another, but for an engine that others took for dead.

    A wall clock that jumps ends visibility timeouts early, and FIFO groups are no longer exclusive.
    """
    troubles = {what for _, what in world.plan.troubles}
    if "take_over" in troubles or (world.plan.kind == "fifo" and "skew" in troubles):
        return
    until: dict[str, float] = {}
    for call in world.invocations if world.chains else ():
        crash_s = min((at_s for at_s in world.crashes if at_s >= call.at_s), default=call.at_s)
        for chain in {chain for chain, _ in _chained(world, call)}:
            if call.at_s < until.get(chain, 0.0) - 1e-6:
                yield f"{chain} at {call.at_s:g} s: a batch begins while another runs until {until[chain]:g} s"
            until[chain] = call.ended_s if call.ended_s is not None else crash_s


def once_per_discard(world: World) -> Iterator[str]:
    """A destination is told of a record once; a dead-letter queue has a message once."""
    told: Counter[tuple[str, int | str]] = Counter()
    for each in world.deliveries:
        told.update(
            [(each.shard, each.window)] if each.window else [(each.shard, position) for position in each.positions]
        )
    for place, count in told.items():
        if count > 1:
            yield f"{place} was given up {count} times"
    for number, count in Counter(world.dead).items():
        if count > (sent := world.sends[number]):
            yield f"message {number} is {count} times in the dead-letter queue, and was sent {sent} times"


def states(world: World) -> Iterator[str]:
    """A window's state knows of each record that was processed in it, once, however often it was tried."""
    for window, seen in world.finals.items():
        came = sorted(number for number, place in world.windows.items() if place == window)
        if sorted(seen) != came:
            yield f"the window {window} ended with {sorted(seen)}, and processed {came}"


def windows_end(world: World) -> Iterator[str]:
    """A window in which a record was processed ends: with a final call, or given up after as many as are allowed."""
    gone = {(told.shard, told.window): told for told in world.deliveries if told.window}
    for window in sorted({*world.windows.values()} - world.closed - {*gone}):
        yield f"the window {window} has not ended"
    allowed = 1 + world.plan.retries
    for window, told in gone.items():
        count, lost = world.final_failures[window], _disturbances(world, 0)
        is_counted = told.reason == "RetryAttemptsExhausted"
        if is_counted and (count < allowed or (count > allowed + lost and not world.plan.breaks)):
            yield f"the final call of {window} failed {count} times, and {allowed} are allowed with {lost} disturbances"


def once_per_key(world: World) -> Iterator[str]:
    """With idempotency, a record succeeds once: again only where a disturbance kept its key from being completed."""
    if not world.plan.remembers:
        return
    troubles = [*world.disturbances, *world.trouble.disturbed]
    times: defaultdict[int, list[float]] = defaultdict(list)
    for call in world.invocations:
        if call.kind == "success":
            for record in _not_reported(world, call):
                times[json.loads(record.body or b"")["n"]].append(call.at_s)
    for number, began in times.items():
        for began_s, again_s in itertools.pairwise(began):
            if not any(began_s <= at_s <= again_s for at_s in troubles):
                yield f"record {number} succeeded at {began_s:g} s, and again at {again_s:g} s"


def breaker_holds(world: World) -> Iterator[str]:
    """After so many failed invocations in a row, none begins for as long as the breaker pauses.

    What ran when it opened may end meanwhile. A restart closes it; of two engines each has its own.
    """
    if not world.plan.breaks:
        return
    # An engine may die at the very moment in which a call of it has failed, and the next one begins then.
    troubles = [*world.disturbances, *world.trouble.disturbed]
    resets = [(at_s + later_s, 0, None) for at_s in troubles for later_s in (0, 1e-6)]
    # A call that took no time begins before it ends.
    ends = [(call.ended_s + 1e-7, 1, call) for call in world.invocations if call.ended_s is not None]
    begins = [(call.at_s, 2, call) for call in world.invocations]
    failed, opened_s = 0, -math.inf
    for at_s, what, call in sorted([*resets, *ends, *begins], key=lambda each: each[:2]):
        if any(began_s <= at_s <= ended_s + 1e-6 for began_s, ended_s in world.doubled):
            failed, opened_s = 0, -math.inf
        elif what == 2 and at_s < opened_s + BREAKER_PAUSE_S - 1e-6:
            yield f"an invocation began at {at_s:g} s, and the breaker opened at {opened_s:g} s"
        elif call is None or (what == 1 and not call.error.startswith("ConnectionError")):
            failed, opened_s = 0, -math.inf
        elif what == 1 and call.at_s >= opened_s:
            failed += 1
            if failed >= BREAKER_FAILURES:
                opened_s = at_s


def liveness(world: World) -> Iterator[str]:
    """Everything is settled or given up soon after the trouble ended."""
    if not world.is_idle:
        yield world.why_busy


def conserved(world: World) -> Iterator[str]:
    """What was received is settled, given up, returned, filtered, parked, or in somebody's hands."""
    yield from world.unbalanced


CHECKERS: tuple[Checker, ...] = (
    no_loss,
    poison_is_given_up,
    order,
    attempts,
    one_owner,
    one_at_a_time,
    once_per_discard,
    states,
    windows_end,
    once_per_key,
    breaker_holds,
    liveness,
    conserved,
)


def judge(world: World) -> list[str]:
    """Return everything that is wrong in a world that was played."""
    return [f"{checker.__name__}: {wrong}" for checker in CHECKERS for wrong in checker(world)]
