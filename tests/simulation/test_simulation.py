"""The engine in simulated worlds: crashes, lost answers, rebalances, slow functions, clocks that are off (design §10).

A seed is a world. One that fails is named, and runs alone: `EVENTCORE_SIMULATION_SEEDS=123 pytest tests/simulation`; a
range is `1000-2000`.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation import mutants
from tests.simulation.checkers import judge
from tests.simulation.mutants import Mutant
from tests.simulation.plan import SOURCES, make_plan
from tests.simulation.world import World

#: Worlds of every run.
SEEDS = 200
#: A mutant is caught within so many worlds.
MUTANT_SEEDS = 60


def _seeds() -> range:
    first, _, last = os.environ.get("EVENTCORE_SIMULATION_SEEDS", "").partition("-")
    return range(int(first), int(last or first) + 1) if first else range(SEEDS)


def play(seed: int, kind: str | None = None, *, is_simple: bool = False) -> World:
    world = World(seed, make_plan(seed, kind, is_simple=is_simple), is_simple=is_simple)
    world.play()
    return world


@pytest.mark.parametrize("seed", _seeds())
def test_world(seed: int) -> None:
    world = play(seed)
    wrong = judge(world)
    assert not wrong, "\n".join([f"seed {seed}: {world.plan.kind}, {world.plan.troubles}", *wrong])


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_a_seed_repeats_its_world(seed: int) -> None:
    first, second = play(seed), play(seed)
    assert first.pipeline.timeline() == second.pipeline.timeline()
    assert first.trouble.journal == second.trouble.journal


def test_the_worlds_are_troubled_enough() -> None:
    """What the checkers look at happens: crashes, discards, retries, every trouble and every kind of source."""
    worlds = [play(seed, kind) for kind in SOURCES for seed in range(18 if kind == "kafka" else 6)]
    troubles = {what for world in worlds for _, what in world.plan.troubles}
    assert troubles >= {"crash", "point", "restart", "skew", "store", "outage", "settle", "revoke", "lose", "take_over"}
    assert troubles >= {"away", "split", "merge", "redrive"}
    assert any(told.window for world in worlds for told in world.deliveries)
    assert any(world.healed for world in worlds), "nothing was parked"
    side_by_side = [call for world in worlds if world.plan.kind == "parallel" for call in world.invocations]
    assert any(len(call.records) > 1 for call in side_by_side)
    assert sum(len(world.crashes) for world in worlds) > 20
    assert sum(len(world.deliveries) + len(world.dead) for world in worlds) > 40
    assert sum(len(world.trouble.disturbed) for world in worlds) > 30
    assert any(call.error.startswith("Sandbox.Timedout") for world in worlds for call in world.invocations)


#: What is wrong, where it shows (the source, and whether crashes alone will do), and who finds it.
MUTANTS: list[tuple[Mutant, str, bool, set[str]]] = [
    (mutants.ack_before_the_store, "stream", True, {"no_loss", "poison_is_given_up"}),
    (mutants.outbox_row_after_the_ack, "stream", True, {"no_loss", "poison_is_given_up"}),
    (mutants.checkpoint_beyond_a_failed_record, "kafka", True, {"no_loss", "poison_is_given_up", "order"}),
    (mutants.attempts_forgotten, "stream", True, {"attempts"}),
    (mutants.epoch_not_checked, "kafka", False, {"one_owner"}),
    (mutants.window_state_forgotten, "window", True, {"states"}),
    (mutants.final_call_forgotten, "window", True, {"windows_end"}),
    (mutants.keys_not_completed, "stream", False, {"once_per_key"}),
    (mutants.breaker_never_opens, "kafka", False, {"breaker_holds"}),
    (mutants.parked_key_forgotten, "lanes", False, {"order"}),
    (mutants.children_before_their_parents, "stream", False, {"order"}),
]


@pytest.mark.parametrize(
    ("mutant", "kind", "is_simple", "finders"), MUTANTS, ids=[mutant.__name__ for mutant, *_ in MUTANTS]
)
def test_a_mutant_is_caught(
    mutant: Mutant, kind: str, is_simple: bool, finders: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same worlds without the mutant are clean: the checkers find it, and not something else."""
    mutant(monkeypatch)
    caught = next((seed for seed in range(MUTANT_SEEDS) if _find(seed, kind, is_simple) & finders), None)
    assert caught is not None, f"{mutant.__name__} was not caught in {MUTANT_SEEDS} worlds"
    monkeypatch.undo()
    assert judge(play(caught, kind, is_simple=is_simple)) == []


def _find(seed: int, kind: str, is_simple: bool) -> set[str]:
    return {wrong.partition(":")[0] for wrong in judge(play(seed, kind, is_simple=is_simple))}
