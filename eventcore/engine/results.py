"""What a mapping sends on to topics: results of its function, and discards where they belong together.

Hop 7 writes them through the source, right before the checkpoint: durable first (at least once), or as one transaction
with it (exactly once).
"""

from __future__ import annotations

from collections.abc import Sequence

from eventcore.engine.settler import Discarded
from eventcore.model import Outcome, OutgoingRecord
from eventcore.ports.sources import ResultRecord, ResultSource


class Results:
    """Sends on what batches of one mapping made."""

    def __init__(self, source: ResultSource, *, topic: str, discards_topic: str) -> None:
        """Write to topics of the source's cluster.

        Args:
            source: of the mapping.
            topic: of results; empty: the function's results are not sent on.
            discards_topic: of discards; empty: they go another way.
        """
        self._source = source
        self._topic = topic
        self._discards_topic = discards_topic

    @property
    def is_exactly_once(self) -> bool:
        """Whether discards belong to the transaction, and the store keeps no note of them."""
        return bool(self._discards_topic)

    async def write(
        self, shard: str, epoch: int, outcome: Outcome | None, done: int, discarded: Sequence[Discarded]
    ) -> None:
        """Send on what belongs to the first ``done`` records of a batch, in order.

        Raises:
            ShardLost, SourceUnavailable: see `ResultSource.produce`.
        """
        made = outcome.results if outcome is not None else ()
        records = [ResultRecord(self._topic, record) for index, record in made if index < done]
        records += [
            ResultRecord(
                self._discards_topic,
                OutgoingRecord(
                    body=dispatch.payload,
                    key=dispatch.record_key,
                    headers=tuple([(name, value.encode()) for name, value in dispatch.attributes.items()]),
                ),
            )
            for entry in discarded
            if (dispatch := entry.dispatch) is not None
        ]
        if records:
            await self._source.produce(shard, epoch, records)
