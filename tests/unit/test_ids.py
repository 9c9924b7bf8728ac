"""Randomness: read in one place, and repeated by a seed."""

from __future__ import annotations

import uuid

import pytest

from eventcore.ids import IdFactory, SeededIds, SystemIds

FACTORIES = [SystemIds(), SeededIds(1)]


@pytest.mark.parametrize("ids", FACTORIES)
def test_ids_are_random_uuids(ids: IdFactory) -> None:
    made = [ids.new_id() for _ in range(1_000)]
    assert len(set(made)) == 1_000
    assert {uuid.UUID(each).version for each in made} == {4}
    assert {uuid.UUID(each).variant for each in made} == {uuid.RFC_4122}
    assert made[0] == str(uuid.UUID(made[0]))


@pytest.mark.parametrize("ids", FACTORIES)
def test_jitter_is_spread_over_its_range(ids: IdFactory) -> None:
    jitters = [ids.jitter() for _ in range(1_000)]
    assert 0 <= min(jitters) < 0.1
    assert 0.9 < max(jitters) < 1


@pytest.mark.parametrize("ids", FACTORIES)
def test_bits_are_as_many_as_asked_for(ids: IdFactory) -> None:
    drawn = [ids.random_bits(16) for _ in range(1_000)]
    assert all(0 <= bits < 2**16 for bits in drawn)
    assert any(bits >= 2**15 for bits in drawn)


def _draw(ids: IdFactory) -> list[object]:
    return [ids.new_id(), ids.jitter(), ids.random_bits(64), ids.new_id()]


def test_a_seed_repeats_and_another_does_not() -> None:
    assert _draw(SeededIds(7)) == _draw(SeededIds(7))
    assert _draw(SeededIds(7)) != _draw(SeededIds(8))
    assert _draw(SystemIds()) != _draw(SystemIds())
