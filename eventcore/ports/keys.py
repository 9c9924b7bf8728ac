"""Operations of the store on idempotency keys: who works on a record's key, and what has become of it.

A key is free, in progress (an invocation has claimed it and is not over) or completed. A claim that is never completed
or released ends by itself, and so does what is remembered of a completion.
"""

from __future__ import annotations

import enum

import msgspec

from eventcore.ports.store import Operation

#: Keys that one sweep forgets: about 10 ms of one transaction.
SWEEP_MAX = 5_000


class KeyKind(enum.Enum):
    """What a claim has found."""

    CLAIMED = "claimed"  #: it was free, and is the claimer's now
    IN_PROGRESS = "in progress"  #: somebody else's
    COMPLETED = "completed"


class KeyState(msgspec.Struct, frozen=True, gc=False):
    """What a claim of one key has brought."""

    kind: KeyKind
    until_ms: int = 0  #: IN_PROGRESS: when the other claim ends by itself
    payload: bytes = b""  #: COMPLETED: as in `Completion`
    result: bytes = b""  #: COMPLETED: as in `Completion`


CLAIMED = KeyState(KeyKind.CLAIMED)


class ClaimKeys(Operation, frozen=True, kw_only=True):
    """Claim keys that are free, until ``until_ms``. Returns a list: one `KeyState` for each key."""

    owner: str  #: of this one invocation; not empty, and never used again
    keys: tuple[bytes, ...]  #: all different
    now_ms: int
    until_ms: int
    #: Claim none behind the first that is in progress elsewhere; those count as in progress for as long.
    is_ordered: bool = False


class Completion(msgspec.Struct, frozen=True, gc=False):
    """What is remembered of a key whose record was processed."""

    key: bytes
    payload: bytes = b""  #: hash of what must be the same when the key comes again; empty: nothing must
    result: bytes = b""  #: what was sent on; empty: nothing was


class CompleteKeys(Operation, frozen=True, kw_only=True):
    """Remember that keys were processed, until ``expires_ms``. Returns how many.

    A key that somebody else has claimed or completed since is left as it is.
    """

    owner: str
    completions: tuple[Completion, ...]
    now_ms: int
    expires_ms: int


class ReleaseKeys(Operation, frozen=True, kw_only=True):
    """Free keys that the owner has claimed and not completed. Returns None."""

    owner: str
    keys: tuple[bytes, ...]


class SweepKeys(Operation, frozen=True, kw_only=True):
    """Forget up to ``count_max`` keys that have ended by ``now_ms``, oldest end first. Returns how many."""

    now_ms: int
    count_max: int = SWEEP_MAX
