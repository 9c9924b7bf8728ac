"""What must hold in every world, whatever went wrong. Each checker yields what it finds wrong, and knows no other."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from tests.simulation.world import RECEIVES_MAX, World

Checker = Callable[[World], Iterator[str]]


def no_loss(world: World) -> Iterator[str]:
    """Every record that was sent succeeded in a function, or was given up to where it can be looked at."""
    for place, record in world.sent.items():
        if world.succeeded[record["n"]] or _was_given_up(world, place, record["n"]):
            continue
        yield f"record {record} at {place} was neither processed nor given up"


def _was_given_up(world: World, place: tuple[str, int] | str, number: int) -> bool:
    if isinstance(place, str):
        return number in world.dead
    shard, position = place
    return any(each == shard and first <= position <= last for each, first, last, _ in world.deliveries)


def poison_is_given_up(world: World) -> Iterator[str]:
    """A record that always fails reaches its destination: no checkpoint passes it by."""
    for place, record in world.sent.items():
        if record["do"] == "poison" and not _was_given_up(world, place, record["n"]):
            yield f"poison {record} at {place} reached no destination"


def order(world: World) -> Iterator[str]:
    """No record of a shard is invoked before all earlier ones of it have succeeded or were given up."""
    done: dict[str, set[int]] = defaultdict(set)
    for shard, first, last, _ in world.deliveries:
        done[shard].update(range(first, last + 1))
    calls = [call for call in world.invocations if call.shard]
    finished = sorted((call for call in calls if call.kind == "success"), key=lambda call: call.ended_s or 0)
    for call in calls:
        while finished and (finished[0].ended_s or 0) <= call.at_s:
            ended = finished.pop(0)
            done[ended.shard].update(record.position for record in ended.records if _is_done(world, record.body))
        missing = set(range(call.records[0].position)) - done[call.shard]
        if missing:
            yield f"{call.shard} at {call.at_s:g} s: {call.records[0].position} was invoked before {sorted(missing)}"


def _is_done(world: World, body: bytes | None) -> bool:
    assert body is not None
    return bool(world.succeeded[json.loads(body)["n"]])


def attempts(world: World) -> Iterator[str]:
    """A record that is given up alone has failed as often as is allowed; more only where an attempt could get lost."""
    allowed = 1 + world.plan.retries
    if world.plan.kind == "queue":
        yield from _receives(world)
        return
    if world.plan.batch_size != 1:
        return
    failed: Counter[tuple[str, int]] = Counter()
    begun: dict[tuple[str, int], float] = {}
    for call in world.invocations:
        place = call.shard, call.records[0].position
        if call.kind == "failure" or (call.response or {}).get("batchItemFailures"):
            failed[place] += 1
            begun.setdefault(place, call.at_s)
    for shard, first, last, reason in world.deliveries:
        if reason != "RetryAttemptsExhausted" or first != last:
            continue
        count = failed[shard, first]
        lost = sum(at_s >= begun.get((shard, first), 0) for at_s in world.disturbances) + world.trouble.disturbed
        if not allowed <= count <= allowed + lost:
            yield f"{shard} {first} failed {count} times, and {allowed} are allowed with {lost} disturbances"


def _receives(world: World) -> Iterator[str]:
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
    """A shard's batches run one after another, but for an engine that others took for dead."""
    if any(what == "take_over" for _, what in world.plan.troubles):
        return
    until: dict[str, float] = {}
    for call in world.invocations:
        if not call.shard:
            continue
        if call.at_s < until.get(call.shard, 0.0) - 1e-6:
            yield f"{call.shard} at {call.at_s:g} s: a batch begins while another runs until {until[call.shard]:g} s"
        crash_s = min((at_s for at_s in world.crashes if at_s >= call.at_s), default=call.at_s)
        until[call.shard] = call.ended_s if call.ended_s is not None else crash_s


def once_per_discard(world: World) -> Iterator[str]:
    """A destination is told of a record once; a dead-letter queue has a message once."""
    told: Counter[tuple[str, int]] = Counter()
    for shard, first, last, _ in world.deliveries:
        told.update((shard, position) for position in range(first, last + 1))
    for place, count in told.items():
        if count > 1:
            yield f"{place} was given up {count} times"
    for number, count in Counter(world.dead).items():
        if count > (sent := world.sends[number]):
            yield f"message {number} is {count} times in the dead-letter queue, and was sent {sent} times"


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
    liveness,
    conserved,
)


def judge(world: World) -> list[str]:
    """Return everything that is wrong in a world that was played."""
    return [f"{checker.__name__}: {wrong}" for checker in CHECKERS for wrong in checker(world)]
