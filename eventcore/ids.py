"""The only reader of randomness: identifiers and jitter, injected so that a seed repeats a run."""

from __future__ import annotations

import os
import random
import uuid
from typing import Protocol

#: The digit that begins with a UUID's two fixed bits, by a random one (RFC 9562, section 4.1).
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
#: Digits of an identifier, and bytes of randomness that are drawn at a time: asking the system gives the interpreter's
#: lock away, and getting it back from the store's thread took 9 µs an identifier. 256 of them wait in memory.
_ID_DIGITS = 32
_DRAWN_BYTES = 4096


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
        self._digits = ""
        self._used = 0

    def new_id(self) -> str:
        """Return a random UUID (version 4). Not for both sides of a fork: they would draw the same ones."""
        # `str(uuid.uuid4())`, at a quarter of its cost: every message and every invocation has one. The third part
        # begins with the version (RFC 9562, section 5.4).
        begin = self._used
        if begin == len(self._digits):
            self._digits, begin = os.urandom(_DRAWN_BYTES).hex(), 0
        self._used = begin + _ID_DIGITS
        digits = self._digits[begin : self._used]
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"

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
