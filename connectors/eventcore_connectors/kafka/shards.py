"""What is known of an owned shard: what was delivered, what is settled, what the broker has. Pure.

Invariant: what is written is never ahead of what was settled. The one thing added to it: when every record that was
delivered is settled and nothing fails, the *position* is written, which is past transaction markers, aborted
transactions and offsets that compaction took. No record lies there, and lag reaches 0.
"""

from __future__ import annotations

import msgspec

from eventcore.delivery.ordering import ShardState, decode_state, encode_state
from eventcore_connectors.kafka.shape import Partition


class Mark(msgspec.Struct, frozen=True):
    """What is committed for a partition."""

    offset: int
    metadata: str


class OwnedShard:
    """One shard from the moment it is taken until it is given up."""

    def __init__(self, partition: Partition, epoch: int, *, start: int, state: ShardState, saved: Mark | None) -> None:
        """Take a shard.

        Args:
            partition: that it is.
            epoch: the group's generation in which it was taken.
            start: offset of the first record to be delivered.
            state: the failing work that the owner before left.
            saved: what the broker has; None when nothing was ever committed: then the start is written soon, so that
                a starting position like LATEST holds from now on.
        """
        self.name = partition.shard
        self.partition = partition
        self.epoch = epoch
        self.is_paused = False
        self._checkpoint = start
        self._metadata = encode_state(state)
        self._saved = saved
        self._is_in_doubt = False
        self._delivered_end = start  #: behind the last record that was delivered, or reported lost

    @property
    def checkpoint(self) -> int:
        """All before it is settled."""
        return self._checkpoint

    @property
    def has_unsettled(self) -> bool:
        """Tell whether records were delivered that are not settled."""
        return self._checkpoint < self._delivered_end

    def deliver(self, last: int) -> None:
        """Note the last record that is delivered, or reported lost."""
        self._delivered_end = last + 1

    def settle(self, checkpoint: int, state: ShardState) -> None:
        """Note what is settled, and the failing work; the checkpoint never goes back."""
        self._checkpoint = max(self._checkpoint, checkpoint)
        self._metadata = encode_state(state)

    def wanted(self, position: int | None) -> Mark:
        """Return what the broker should have.

        Args:
            position: offset at which the next fetch begins; None while it is not known.
        """
        if position is None or self._metadata or self.has_unsettled:
            return Mark(self._checkpoint, self._metadata)
        return Mark(max(self._checkpoint, position), "")

    def unsaved(self, position: int | None) -> Mark | None:
        """Return what has to be written, or None when the broker has it."""
        wanted = self.wanted(position)
        return None if wanted == self._saved else wanted

    def save(self, mark: Mark) -> None:
        """Note what the broker has."""
        self._saved = mark
        self._is_in_doubt = False

    @property
    def is_in_doubt(self) -> bool:
        """Tell whether a commit that was given up may have arrived, or arrive yet."""
        return self._is_in_doubt

    def doubt(self) -> None:
        """Note that a commit was given up: whatever is wanted is written behind it, on its way."""
        self._saved = None
        self._is_in_doubt = True

    def carry(self, mark: Mark) -> None:
        """Note what a transaction has committed."""
        self.settle(mark.offset, decode_state(mark.metadata))
        self.save(mark)
