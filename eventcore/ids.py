"""The only reader of randomness: identifiers and jitter, injected so that a seed repeats a run."""

from __future__ import annotations

import os
import random
import struct
import uuid
from typing import Protocol

#: Identifiers that are made at a time: asking the system for randomness gives the interpreter's lock away, and getting
#: it back from the store's thread took 9 µs an identifier. They wait in memory, 25 KB.
_DRAWN_IDS = 256
#: The bits that a version 4 identifier fixes, and what they are, for all of those (RFC 9562, section 5.4).
_FIXED_BITS = int("000000000000f000c000000000000000" * _DRAWN_IDS, 16)
_VERSION_AND_VARIANT = int("00000000000040008000000000000000" * _DRAWN_IDS, 16)
#: How its digits are written (RFC 9562, section 4).
_PARTS = struct.Struct("8s4s4s4s12s")


class IdFactory(Protocol):
    """Makes identifiers and jitter."""

    def new_id(self) -> str:
        """Return a new identifier in UUID form."""
        ...

    def jitter(self) -> float:
        """Return a number in [0, 1) for spreading delays."""
        ...

    def random_bits(self, bits: int) -> int:
        """Return a random integer of at most ``bits`` bits."""
        ...


class SystemIds:
    """Identifiers from the operating system's randomness."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()
        # Jitter need not be unpredictable, and runs for every failed batch: the fast generator will do.
        self._jitter = random.Random()
        self._drawn: list[str] = []

    def new_id(self) -> str:
        """Return a random UUID (version 4). Not for both sides of a fork: they would draw the same ones."""
        if not self._drawn:
            self._drawn = _draw_ids()
        return self._drawn.pop()

    def jitter(self) -> float:
        """Return a number in [0, 1)."""
        return self._jitter.random()

    def random_bits(self, bits: int) -> int:
        """Return a random integer of at most ``bits`` bits."""
        return self._random.getrandbits(bits)


def _draw_ids() -> list[str]:
    """Return new identifiers, `str(uuid.uuid4())` each at a tenth of its cost: every message and invocation has one."""
    drawn = int.from_bytes(os.urandom(16 * _DRAWN_IDS)) & ~_FIXED_BITS | _VERSION_AND_VARIANT
    digits = drawn.to_bytes(16 * _DRAWN_IDS).hex().encode()
    return b" ".join(map(b"-".join, _PARTS.iter_unpack(digits))).decode().split()


class SeededIds:
    """Identifiers and jitter that a seed repeats; for tests and simulations, never for production."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def new_id(self) -> str:
        """Return the next UUID of this seed."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def jitter(self) -> float:
        """Return the next number in [0, 1) of this seed."""
        return self._random.random()

    def random_bits(self, bits: int) -> int:
        """Return the next integer of at most ``bits`` bits of this seed."""
        return self._random.getrandbits(bits)
