"""The connector of buckets: which of the two kinds a bucket is, and that it is no source yet."""

from __future__ import annotations

from collections.abc import Sequence

from eventcore.config.reference import Reference
from eventcore.config.structs_buckets import BucketPlace
from eventcore.errors import ConnectorUnavailable, DestinationError, ProgrammingError, SourceUnavailable
from eventcore.ports.connectors import ConnectorContext, OutgoingRecord, StreamRequest
from eventcore.ports.destinations import Destination
from eventcore.ports.ranges import RangeSource
from eventcore.ports.sources import StreamSource
from eventcore_connectors.bucket.folder import FolderDestination
from eventcore_connectors.bucket.object_store import ObjectStoreDestination, open_s3

#: What to install where the client library of object stores is missing.
REQUIREMENT = '"eventcore-engine[s3]"'


class BucketConnector:
    """Buckets that take records of failures; they are no sources."""

    kind = "bucket"

    def open_stream(self, request: StreamRequest) -> StreamSource:
        """Refuse: nothing tells what is put into a bucket."""
        raise ProgrammingError(f"{request.reference} is no source: a bucket only takes records of failures")

    def open_range(self, reference: Reference, connection: object) -> RangeSource:
        """Refuse, as `open_stream` does."""
        del connection
        raise ProgrammingError(f"{reference} is no source: a bucket only takes records of failures")

    def open_destination(
        self, reference: Reference, connection: BucketPlace, context: ConnectorContext
    ) -> FolderDestination | ObjectStoreDestination:
        """Return a destination that is not open yet.

        Raises:
            ConnectorUnavailable: it is on an object store, and the client library is not installed.
        """
        del context
        if connection.folder is not None:
            return FolderDestination(reference, connection.folder)
        assert connection.store is not None, "lint refuses a bucket without a place"
        try:
            store = open_s3(connection.store, connection.bucket)
        except ImportError as error:
            raise ConnectorUnavailable(requirement=REQUIREMENT) from error
        return ObjectStoreDestination(reference, store, f"{connection.store.endpoint}/{connection.bucket}")

    async def send(
        self, reference: Reference, connection: BucketPlace, records: Sequence[OutgoingRecord]
    ) -> Sequence[tuple[str, int]]:
        """Refuse: there is no position that a record put there could be found at."""
        del connection, records
        raise ProgrammingError(f"{reference} takes the results of mappings")

    async def check(self, reference: Reference, connection: BucketPlace) -> str:
        """Return where the bucket is; of an object store nothing is asked: there may be a right to write alone.

        Raises:
            SourceUnavailable: it is a folder that is not there.
            ConnectorUnavailable: as `open_destination`.
        """
        if connection.folder is None:
            assert connection.store is not None, "lint refuses a bucket without a place"
            return f"{connection.store.endpoint}/{connection.bucket}"
        destination: Destination = FolderDestination(reference, connection.folder)
        try:
            await destination.open()
        except DestinationError as error:
            raise SourceUnavailable(str(error), source=str(reference)) from error
        return f"the folder {connection.folder}"
