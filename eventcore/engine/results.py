"""What a mapping sends on to topics: results of its function, and discards where they belong together.

Hop 7 writes them through the source, right before the checkpoint: durable first (at least once), or as one transaction
with it (exactly once).
"""

from __future__ import annotations

from collections.abc import Sequence

from eventcore.delivery.lineage import LINEAGE, hand_on_lineage, lineage_of
from eventcore.engine.settler import Discarded
from eventcore.model import Outcome, OutgoingRecord, Record
from eventcore.ports.sources import ResultRecord, ResultSource


class Results:
    """Sends on what batches of one mapping made."""

    def __init__(self, source: ResultSource, *, function: str, topic: str, discards_topic: str) -> None:
        """Write to topics of the source's cluster.

        Args:
            source: of the mapping.
            function: its name.
            topic: of results; empty: the function's results are not sent on.
            discards_topic: of discards; empty: they go another way.
        """
        self._source = source
        self._function = function
        self._topic = topic
        self._discards_topic = discards_topic

    @property
    def is_exactly_once(self) -> bool:
        """Whether discards belong to the transaction, and the store keeps no note of them."""
        return bool(self._discards_topic)

    async def write(
        self, shard: str, epoch: int, outcome: Outcome | None, done: Sequence[Record], discarded: Sequence[Discarded]
    ) -> None:
        """Send on what belongs to the leading records of a batch that are done, in order.

        Raises:
            ShardLost, SourceUnavailable: see `ResultSource.produce`.
        """
        records = self._made(outcome, done) if outcome is not None and outcome.results else []
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

    def _made(self, outcome: Outcome, done: Sequence[Record]) -> list[ResultRecord]:
        """Return what the function made of records, each with the lineage of all that it may have been made of."""
        lineage = (LINEAGE, hand_on_lineage(lineage_of(done), self._function).encode())
        topic = self._topic
        return [
            ResultRecord(topic, OutgoingRecord(body=made.body, key=made.key, headers=(*made.headers, lineage)))
            for index, made in outcome.results
            if index < len(done)
        ]
