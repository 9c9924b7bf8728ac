"""Shards that were fenced off while the group knew of no other owner. Pure.

Most of the time it tells a heartbeat later: of the rebalance in which the shard goes, or that the member is over. If it
does not, a stranger has the shard's transactional id, and nobody would work on the shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from eventcore_connectors.kafka.shards import OwnedShard


class _Fenced(NamedTuple):
    epoch: int
    message: str
    until_s: float  #: the group has told by then


class FencedShards:
    """Those that the group may tell of yet, by name. Times are the loop's, in seconds."""

    def __init__(self, *, patience_s: float) -> None:
        """Know of none.

        Args:
            patience_s: what is to be told of a member is told so long after.
        """
        self._patience_s = patience_s
        self._fenced: dict[str, _Fenced] = {}

    def note(self, shard: OwnedShard, message: str, now_s: float) -> None:
        """Note a shard that was fenced off now, and how."""
        self._fenced[shard.name] = _Fenced(shard.epoch, message, now_s + self._patience_s)

    def forget(self, shards: Iterable[str]) -> None:
        """Let go of shards that the group takes back: whoever gets them begins with them anew."""
        for shard in shards:
            self._fenced.pop(shard, None)

    def complaint(self, is_over: Callable[[int], bool], now_s: float) -> str:
        """Return how a shard was fenced off that the group told of no other owner for; empty when there is none.

        Args:
            is_over: whether shards of an epoch may have other owners by what the group has told.
            now_s: the loop's time.
        """
        for name, fenced in list(self._fenced.items()):
            if is_over(fenced.epoch):
                del self._fenced[name]
            elif now_s >= fenced.until_s:
                return fenced.message
        return ""
