"""When the lease keeper lengthens a message's visibility timeout.

Source: Lambda semantics §3.2; design, "Smaller decisions".
"""

from __future__ import annotations

#: The longest visibility timeout, and the longest a message may be hidden since its receive, seconds (§3.2).
VISIBILITY_MAX_S = 43_200
#: An extended lease ends at most this long after the function's timeout, counted from the receive, seconds: settling
#: needs a moment, and an engine that hangs must not keep a message for itself.
EXTENSION_MARGIN_S = 60
#: A lease is lengthened when this share of its visibility timeout is left: late enough to be rare, early enough for a
#: slow store.
RENEW_SHARE = 1 / 3


def renew_at_ms(*, hidden_until_ms: int, visibility_timeout_s: int) -> int:
    """Return the wall time at which a lease that ends at ``hidden_until_ms`` is to be lengthened."""
    return hidden_until_ms - int(visibility_timeout_s * 1000 * RENEW_SHARE)


def extension_s(
    *,
    received_ms: int,
    hidden_until_ms: int,
    deadline_ms: int,
    timeout_s: int,
    visibility_timeout_s: int,
    now_ms: int,
) -> int:
    """Return the visibility timeout to set now, in seconds from now; 0 when the lease is to be left alone.

    A lease is lengthened only when it would end before the invocation's deadline, so that a failed message comes back
    exactly at its visibility timeout in every other case; by at most one visibility timeout at a time, so that an
    engine that dies leaves the message for no longer than that; and never past ``timeout_s`` + `EXTENSION_MARGIN_S`
    after the receive, nor past `VISIBILITY_MAX_S`. A lease that has ended is not lengthened: the message may have
    another owner.
    """
    if hidden_until_ms >= deadline_ms or now_ms >= hidden_until_ms:
        return 0
    end_ms = received_ms + min(timeout_s + EXTENSION_MARGIN_S, VISIBILITY_MAX_S) * 1000
    wanted_s = min(visibility_timeout_s, (end_ms - now_ms) // 1000)
    return wanted_s if wanted_s > 0 and now_ms + wanted_s * 1000 > hidden_until_ms else 0
