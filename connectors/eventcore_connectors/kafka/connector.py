"""What eventcore finds under `kafka`. Imports a client library when something is opened, not before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from eventcore.config.reference import Reference
from eventcore.errors import ConnectorUnavailable
from eventcore.ports.connectors import ConnectorContext, OutgoingRecord, StreamRequest
from eventcore.ports.destinations import Destination
from eventcore.ports.ranges import RangeSource
from eventcore.ports.servers import PreparedServer, Progress, ServerRequest
from eventcore.ports.sources import StreamSource

if TYPE_CHECKING:
    from eventcore_connectors.kafka.membership import Member

#: What to install where the client library is missing.
REQUIREMENT = '"aiokafka[snappy,lz4,zstd]>=0.14,<0.15"'
#: The same for `client = "librdkafka"`.
LIBRDKAFKA_REQUIREMENT = '"eventcore-engine[librdkafka]"'


@contextmanager
def _client_library(requirement: str = REQUIREMENT) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConnectorUnavailable(requirement=requirement) from error


def make_member(request: StreamRequest) -> Member:
    """Return a member of the mapping's group, not connected yet, on the client that the connection names.

    Raises:
        Unreachable: a certificate or a key can't be loaded.
    """
    if request.connection.client == "librdkafka":
        from eventcore_connectors.kafka.librdkafka.member import LibrdkafkaMember

        return LibrdkafkaMember(request)
    from eventcore_connectors.kafka.member import GroupMember

    return GroupMember(request.connection, request.reference.part, request.consumer_group_id)


class KafkaConnector:
    """The connector for `kafka:CONNECTION/TOPIC` references; connections are `KafkaConfig` structs."""

    kind = "kafka"

    def open_stream(self, request: StreamRequest) -> StreamSource:
        """Return a source for a topic, not connected yet."""
        with _client_library():
            from eventcore_connectors.kafka.source import KafkaSource
        if request.connection.client == "librdkafka":
            with _client_library(LIBRDKAFKA_REQUIREMENT):
                # What the member is made of; when the source is opened there is nobody to say what to install.
                import confluent_kafka  # noqa: F401
        return KafkaSource(request, make_member)

    def open_range(self, reference: Reference, connection: Any) -> RangeSource:
        """Return what reads a topic by offsets, not connected yet."""
        with _client_library():
            from eventcore_connectors.kafka.ranges import KafkaRange
        return KafkaRange(reference, connection)

    def open_destination(self, reference: Reference, connection: Any, context: ConnectorContext) -> Destination:
        """Return a destination for a topic, not connected yet."""
        del context
        with _client_library():
            from eventcore_connectors.kafka.destination import KafkaDestination
        return KafkaDestination(reference, connection)

    async def send(
        self, reference: Reference, connection: Any, records: Sequence[OutgoingRecord]
    ) -> Sequence[tuple[str, int]]:
        """Send records; return where each went, as (shard, offset), once all in-sync replicas have them.

        Raises:
            DestinationUnavailable: no broker answers, or the topic does not exist; the message names both.
        """
        with _client_library():
            from eventcore_connectors.kafka.destination import send
        return await send(reference, connection, records)

    async def check(self, reference: Reference, connection: Any) -> str:
        """Return one line about the cluster and the topic.

        Raises:
            SourceUnavailable: no broker answers, or the topic does not exist; the message names both.
        """
        with _client_library():
            from eventcore_connectors.kafka.client import check
        return await check(reference, connection)

    def prepare_server(self, request: ServerRequest, progress: Progress) -> PreparedServer:
        """Choose what a broker on this machine runs in, and download what is missing, after saying so.

        Raises:
            ConnectorUnavailable: there is neither Docker nor Java; the message says what to install.
            CommandError: the download failed.
        """
        with _client_library():
            from eventcore_connectors.kafka.local.server import prepare_kafka
        return prepare_kafka(request, progress)
