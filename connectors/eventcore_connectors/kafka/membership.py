"""What the source needs of a client library: a member of a consumer group that reads topics. Imports none of them.

`member.py` fulfils it on aiokafka, `librdkafka/member.py` on librdkafka. Both raise the errors that stand here.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from eventcore.config.structs import KafkaConfig
from eventcore.model import Record
from eventcore.patterns.topics import SIGN
from eventcore_connectors.kafka.shape import Partition
from eventcore_connectors.kafka.shards import Mark

#: A wrong address or a missing topic is reported by then, seconds: a person waits for it.
OPEN_TIMEOUT_S = 5.0
#: A topic that was made a moment ago may not be known to every broker yet, seconds.
MISSING_PATIENCE_S = 1.0

PartitionsHook = Callable[[Sequence[Partition]], Coroutine[Any, Any, None]]


class Unreachable(Exception):
    """A broker or a topic can't be reached; the message names both."""


class TopicMissing(Unreachable):
    """A topic does not exist, and no client of ours makes it: a misspelt name would become a topic."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"the topic does not exist: {where}; make it with kafka-topics.sh --create, or, on a broker of "
            "`eventcore up kafka`, with its --topic NAME:PARTITIONS"
        )


class ClientFailed(Exception):
    """The client library gives up, or the broker refuses for good; the message is its own."""


class ClientClosed(Exception):
    """The client was stopped meanwhile."""


class Fenced(Exception):
    """The generation is over: another member may own the partitions."""


class OutOfRange(Exception):
    """A partition has no record at the position, nor after it without a gap."""

    def __init__(self, partition: Partition, position: int) -> None:
        self.partition = partition
        self.position = position
        super().__init__(partition, position)


def locate(topics: str, config: KafkaConfig) -> str:
    """Return the words for a topic, or for all that match an expression, and where they are."""
    return f"{'topics' if topics.startswith(SIGN) else 'topic'} `{topics}` at {config.bootstrap_servers}"


def describe(error: BaseException) -> str:
    """Return an error's kind and text in one line; a client's own failure speaks for itself."""
    if isinstance(error, ClientFailed):
        return str(error)
    if "Unable to bootstrap" in str(error):
        return "no broker answers there"  # aiokafka's own text lists its addresses as the tuples that it keeps
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def write_metadata(metadata: str) -> str:
    """Return a commit's metadata as a C string, as confluent-kafka writes it.

    It reads past the end of one without the zero byte: librdkafka copies the length that the broker gave.
    """
    return f"{metadata}\0" if metadata else ""


def read_metadata(metadata: str | None) -> str:
    """Return a commit's metadata as it was given to `write_metadata`, or to confluent-kafka."""
    return (metadata or "").partition("\0")[0]


class Member(Protocol):
    """One member of a group: `join`, then anything, then `leave`. Not reusable."""

    async def join(self, on_revoked: PartitionsHook, on_assigned: PartitionsHook) -> Sequence[Partition]:
        """Connect, find the topics, and begin to join the group; partitions come later, through the hooks.

        Hooks run one after the other, in the loop. Whoever gets partitions next waits for `on_revoked`. Within
        `on_assigned` each partition is given its position with `seek`.

        Returns the partitions that there are now.

        Raises:
            Unreachable: no broker answers, or the topic does not exist.
        """
        ...

    async def leave(self) -> None:
        """Leave the group and disconnect, in bounded time. Calls no hook."""
        ...

    @property
    def generation(self) -> int:
        """The group's generation, or this member's epoch, in which it got partitions; it rises with every owner."""
        ...

    def is_over(self, generation: int) -> bool:
        """Tell whether partitions that were taken in that generation may have other owners by now."""
        ...

    @property
    def knows_topics(self) -> bool:
        """Whether the brokers' last answer had the topic, or one that matches, in it."""
        ...

    def set_active(self, is_active: bool) -> None:
        """Count as alive from now on, or be thrown out after `max_poll_interval_ms` of not being so."""
        ...

    async def poll(
        self, partitions: Sequence[Partition], wait_s: float, *, count_max: int
    ) -> Mapping[Partition, Sequence[Record]]:
        """Return records of the partitions, each partition's in order, or nothing after ``wait_s`` or `interrupt`.

        Records of other partitions wait. With no partitions it waits all the same. Cancelling it loses nothing.

        Raises:
            OutOfRange: the log has passed a position; it stays there until `seek`.
            ClientClosed: the member has left.
            ClientFailed: something that does not go away by itself.
        """
        ...

    def interrupt(self) -> None:
        """End a pending `poll`: what it waits for has changed."""
        ...

    def position(self, partition: Partition) -> int | None:
        """Return the offset behind what `poll` has returned, and behind what no record follows; None: not known."""
        ...

    def end(self, partition: Partition) -> int | None:
        """Return the offset that the next record gets, as of the last answer; None before the first."""
        ...

    def answered(self, partitions: Sequence[Partition]) -> int | None:
        """Return a number that changes when brokers of the partitions answer; None: silence would say nothing."""
        ...

    def seek(self, partition: Partition, position: int) -> None:
        """Read a partition from a position on; what was fetched before is dropped."""
        ...

    async def first_positions(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Return where each partition's oldest record is.

        Raises:
            ClientFailed: the brokers do not say.
        """
        ...

    async def end_positions(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Return the offset that each partition's next record gets; raises as `first_positions`."""
        ...

    async def positions_at(self, partitions: Sequence[Partition], at_ms: int) -> dict[Partition, int]:
        """Return where each partition's first record with that timestamp or a later one is; its end without one."""
        ...

    async def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Mark]:
        """Return what is committed, with its metadata; partitions without a commit are missing.

        Raises:
            ClientFailed: the group's coordinator does not say.
        """
        ...

    async def commit(self, generation: int, marks: Mapping[Partition, Mark]) -> None:
        """Commit offsets with their metadata as a member of that generation. The caller bounds and shields it.

        Args:
            generation: in which the partitions were taken; the first one, where they came one by one.
            marks: those of partitions that were given up since are not written.

        Raises:
            Fenced: the generation is over, or all were given up; nothing was written.
            ClientFailed: the broker refuses it for good (permissions, metadata too large).
        """
        ...

    def has_stray_commit(self, partition: Partition) -> bool:
        """Tell whether a commit of a partition is on its way that another one may overtake, or a transaction."""
        ...
