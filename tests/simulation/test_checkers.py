"""Each checker finds what it is there for: histories of right engines, falsified so that one checker alone is to speak.

The engines that are wrong (`mutants`) show that a fault inside reaches the checkers; here, that none of them is idle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from eventcore.testing import Invoked
from tests.simulation.checkers import CHECKERS, judge
from tests.simulation.plan import BREAKER_FAILURES, BREAKER_PAUSE_S, make_plan
from tests.simulation.world import World

#: Worlds in which something that can be falsified is looked for.
SEEDS = 40

#: Changes what a world says of itself; False where it has nothing to change.
Falsify = Callable[[World], bool]


def _span(world: World, number: int) -> tuple[str, int]:
    (place,) = [place for place, record in world.sent.items() if record["n"] == number]
    assert isinstance(place, tuple)
    return place


def _undeliver(world: World, number: int) -> None:
    shard, position = _span(world, number)
    world.deliveries = [told for told in world.deliveries if (told.shard, told.first) != (shard, position)]


def a_record_is_lost(world: World) -> bool:
    for record in world.sent.values():
        if record["do"] == "ok" and world.succeeded[record["n"]]:
            world.succeeded[record["n"]] = 0
            return True
    return False


def a_poison_is_passed_by(world: World) -> bool:
    """It counts as processed, so nothing is lost, and no destination has it."""
    poison = [record["n"] for record in world.sent.values() if record["do"] == "poison"]
    for number in poison:
        world.succeeded[number] = 1
        _undeliver(world, number)
    return bool(poison)


def _overtaking(world: World, later: Invoked, after: Invoked) -> bool:
    """Put an invocation of what came later between a failed one of an earlier record and its retry."""
    early = msgspec.structs.replace(later, at_s=after.ended_s, ended_s=after.ended_s)
    world.invocations.insert(world.invocations.index(after) + 1, early)
    return True


def _first_of(world: World, shard: str, *, after_position: int) -> Invoked | None:
    return next(
        (
            call
            for call in world.invocations
            if call.kind == "success"
            and call.shard == shard
            and call.records[0].position > after_position
            and not (call.response or {}).get("batchItemFailures")
        ),
        None,
    )


def a_record_that_will_be_given_up_is_overtaken(world: World) -> bool:
    for shard, first, *_ in world.deliveries:
        failed = [call for call in world.invocations if call.shard == shard and call.records[0].position == first]
        later = _first_of(world, shard, after_position=first)
        if len(failed) > 1 and failed[0].ended_s is not None and later is not None:
            return _overtaking(world, later, failed[0])
    return False


def a_record_that_was_reported_is_overtaken(world: World) -> bool:
    for call in world.invocations:
        if call.kind == "success" and (call.response or {}).get("batchItemFailures"):
            record: Any = call.records[0]
            number = next(each["n"] for place, each in world.sent.items() if place == (call.shard, record.position))
            later = _first_of(world, call.shard, after_position=record.position)
            if world.succeeded[number] and later is not None:
                return _overtaking(world, later, call)
    return False


def attempts_never_were(world: World) -> bool:
    """What was given up as retried to the end was never invoked."""
    for shard, first, _, reason, *_ in world.deliveries:
        if reason in {"RetryAttemptsExhausted", "RetriesExhausted"}:
            failed = [call for call in world.invocations if call.shard == shard and call.records[0].position == first]
            for call in failed:
                world.invocations.remove(call)
            return True
    return False


def an_owner_of_before_writes(world: World) -> bool:
    settled = [entry for entry in world.trouble.journal if entry.kind == "settled"]
    if settled:
        world.trouble.journal.append(settled[-1]._replace(epoch=settled[-1].epoch - 1))
    return bool(settled)


def two_batches_run_at_a_time(world: World) -> bool:
    """The first of two that overlap comes once more, as it was processed already."""
    done = [call for call in world.invocations if call.kind == "success" and (call.ended_s or 0) > call.at_s]
    for call in done:
        if not (call.response or {}).get("batchItemFailures"):
            again = msgspec.structs.replace(call, at_s=(call.at_s + (call.ended_s or 0)) / 2)
            world.invocations.insert(world.invocations.index(call) + 1, again)
            return True
    return False


def a_discard_is_told_twice(world: World) -> bool:
    world.deliveries += world.deliveries[:1]
    return bool(world.deliveries)


def a_window_forgets_a_record(world: World) -> bool:
    window = next((window for window, seen in world.finals.items() if seen), None)
    if window is not None:
        world.finals[window] = world.finals[window][1:]
    return window is not None


def a_window_never_ends(world: World) -> bool:
    ended = sorted(world.closed)
    world.closed -= set(ended[:1])
    return bool(ended)


def a_record_is_processed_again(world: World) -> bool:
    """Nothing happened that could have kept its key from being completed."""
    troubles = [*world.disturbances, *world.trouble.disturbed]
    for call in world.invocations if world.plan.remembers else ():
        end_s = call.ended_s or 0.0
        is_whole = call.kind == "success" and not (call.response or {}).get("batchItemFailures")
        if is_whole and not any(call.at_s <= at_s <= end_s for at_s in troubles):
            again = msgspec.structs.replace(call, at_s=end_s, ended_s=end_s)
            world.invocations.insert(world.invocations.index(call) + 1, again)
            return True
    return False


def a_breaker_lets_one_in(world: World) -> bool:
    """The last of the failed invocations that opened it comes again while it pauses, and nothing else runs."""
    calls = world.invocations
    for index in range(BREAKER_FAILURES - 1, len(calls) - 1):
        opening, last, after = calls[index + 1 - BREAKER_FAILURES : index + 1], calls[index], calls[index + 1]
        is_opened = all(call.error.startswith("ConnectionError") and call.at_s == call.ended_s for call in opening)
        disturbed = [*world.disturbances, *world.trouble.disturbed]
        is_quiet = not any(opening[0].at_s <= at_s <= last.at_s + BREAKER_PAUSE_S for at_s in disturbed)
        if is_opened and is_quiet and after.at_s >= last.at_s + BREAKER_PAUSE_S:
            early_s = last.at_s + 1
            calls.insert(index + 1, msgspec.structs.replace(last, at_s=early_s, ended_s=early_s))
            return True
    return False


def something_never_ends(world: World) -> bool:
    world.is_idle, world.why_busy = False, "queue orders holds 0 visible, 1 hidden"
    return True


def the_books_have_a_hole(world: World) -> bool:
    world.unbalanced.append("received 2, processed 1")
    return True


#: What is falsified, in worlds of which source, and the one checker that speaks.
FALSIFIED: list[tuple[Falsify, str, str]] = [
    (a_record_is_lost, "stream", "no_loss"),
    (a_poison_is_passed_by, "stream", "poison_is_given_up"),
    (a_record_that_will_be_given_up_is_overtaken, "stream", "order"),
    (a_record_that_was_reported_is_overtaken, "kafka", "order"),
    (a_record_that_was_reported_is_overtaken, "stream", "order"),
    (attempts_never_were, "stream", "attempts"),
    (an_owner_of_before_writes, "stream", "one_owner"),
    (two_batches_run_at_a_time, "stream", "one_at_a_time"),
    (a_discard_is_told_twice, "stream", "once_per_discard"),
    (a_window_forgets_a_record, "window", "states"),
    (a_window_never_ends, "window", "windows_end"),
    (a_record_is_processed_again, "stream", "once_per_key"),
    (a_breaker_lets_one_in, "stream", "breaker_holds"),
    (something_never_ends, "stream", "liveness"),
    (the_books_have_a_hole, "stream", "conserved"),
]


#: What simple worlds have nothing of.
IN_FULL_WORLDS = (a_record_that_was_reported_is_overtaken, a_record_is_processed_again, a_breaker_lets_one_in)


@pytest.mark.parametrize(
    ("falsify", "kind", "finder"), FALSIFIED, ids=[f"{falsify.__name__}-{kind}" for falsify, kind, _ in FALSIFIED]
)
def test_a_falsified_history_is_found_by_its_checker_alone(falsify: Falsify, kind: str, finder: str) -> None:
    for seed in range(SEEDS):
        world = World(seed, make_plan(seed, kind, is_simple=falsify not in IN_FULL_WORLDS))
        world.play()
        assert judge(world) == []
        if falsify(world):
            assert {wrong.partition(":")[0] for wrong in judge(world)} == {finder}
            return
    pytest.fail(f"{SEEDS} worlds have nothing to falsify")


def test_every_checker_has_a_history_that_it_alone_finds() -> None:
    assert {finder for *_, finder in FALSIFIED} == {checker.__name__ for checker in CHECKERS}
