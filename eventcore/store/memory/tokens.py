"""Which tokens were taken before: what makes a repeated write write once."""

from __future__ import annotations

import heapq

from eventcore.store.rules import TOKENS_SWEPT_MAX


class Tokens:
    """Tokens by scope, each with the time at which it is forgotten."""

    def __init__(self) -> None:
        self._forget_ms: dict[tuple[str, str], int] = {}
        self._oldest: list[tuple[int, str, str]] = []

    def take(self, scope: str, token: str, *, now_ms: int, forget_ms: int) -> bool:
        """Take a token until ``forget_ms``; return whether it was free."""
        if self._forget_ms.get((scope, token), 0) > now_ms:
            return False
        self.keep(scope, token, forget_ms)
        self._sweep(now_ms)
        return True

    def keep(self, scope: str, token: str, forget_ms: int) -> None:
        """Set when a token is forgotten."""
        self._forget_ms[scope, token] = forget_ms
        heapq.heappush(self._oldest, (forget_ms, scope, token))

    def _sweep(self, now_ms: int) -> None:
        for _ in range(TOKENS_SWEPT_MAX):
            if not self._oldest or self._oldest[0][0] > now_ms:
                return
            forget_ms, scope, token = heapq.heappop(self._oldest)
            if self._forget_ms.get((scope, token)) == forget_ms:
                del self._forget_ms[scope, token]
