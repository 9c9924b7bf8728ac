"""The only reader of randomness: identifiers and jitter, injected so that a seed repeats a run."""

from __future__ import annotations

import os
import random
import uuid
from typing import Protocol

#: The bits of a UUID that say what kind it is, and theirs for random ones (RFC 9562, sections 4.1, 4.2 and 5.4).
_NOT_FIXED = ~((0xF << 76) | (0x3 << 62))
_VERSION_4 = (0x4 << 76) | (0x2 << 62)


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

    def new_id(self) -> str:
        """Return a random UUID (version 4)."""
        # `str(uuid.uuid4())`, at less than half its cost: every message and every invocation has one.
        bits = int.from_bytes(os.urandom(16), "big") & _NOT_FIXED | _VERSION_4
        digits = f"{bits:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def jitter(self) -> float:
        """Return a number in [0, 1)."""
        return self._jitter.random()

    def random_bits(self, bits: int) -> int:
        """Return a random integer of at most ``bits`` bits."""
        return self._random.getrandbits(bits)


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
