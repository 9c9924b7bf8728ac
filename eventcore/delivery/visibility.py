"""How long a received message stays hidden, and when the lease keeper lengthens it.

Source: Lambda semantics §3.2; design, "Smaller decisions".
"""

from __future__ import annotations

#: The longest visibility timeout, and the longest a message may be hidden since its receive, seconds (§3.2).
VISIBILITY_MAX_S = 43_200
#: An extended lease ends this long after the function's deadline, seconds: settling needs a moment.
EXTENSION_MARGIN_S = 60


def extension_s(*, received_ms: int, hidden_until_ms: int, deadline_ms: int, timeout_s: int, now_ms: int) -> int:
    """Return the visibility timeout to set now, in seconds from now; 0 when the lease needs no extension.

    A lease is lengthened only when it would end before the invocation's deadline, so that a failed message comes back
    exactly at its visibility timeout in every other case; and never past ``timeout_s`` + `EXTENSION_MARGIN_S` after
    the receive, nor past `VISIBILITY_MAX_S`.
    """
    if hidden_until_ms >= deadline_ms or now_ms >= hidden_until_ms:
        return 0
    end_ms = received_ms + min(timeout_s + EXTENSION_MARGIN_S, VISIBILITY_MAX_S) * 1000
    end_ms = max(end_ms, hidden_until_ms)
    wanted_s = -(-(end_ms - now_ms) // 1000)
    return wanted_s if now_ms + wanted_s * 1000 > hidden_until_ms else 0
