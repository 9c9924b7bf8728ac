"""Standard output as a destination: one line of JSON for each result, for pipes and for looking.

`{"key": "...", "attributes": {...}, "payload": {...}}`: the key is the same however often a result is written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import anyio
import msgspec

from eventcore.config.reference import Reference
from eventcore.errors import DestinationUnavailable, ProgrammingError
from eventcore.ports.connectors import ConnectorContext, OutgoingRecord, StreamRequest
from eventcore.ports.ranges import RangeSource
from eventcore.ports.sources import StreamSource
from eventcore.ports.store import OutboxRow

STDOUT = 1  #: the file descriptor
#: A descriptor that is ready takes this much without blocking: POSIX's least PIPE_BUF is 512, Linux's 4,096 bytes.
WRITE_BYTES_MAX = 512


class StdoutDestination:
    """Lines on a file descriptor. A reader that stops reading stops this destination, never the engine.

    Invariant: a line that was begun is finished before another one begins, also after a cancelled `deliver`.
    """

    def __init__(self, reference: Reference, *, descriptor: int = STDOUT) -> None:
        self.reference = str(reference)
        self._descriptor = descriptor
        self._unwritten = b""

    async def open(self) -> None:
        """Do nothing: the descriptor is open as long as the process is."""

    async def deliver(self, rows: Sequence[OutboxRow]) -> None:
        """Write each row as a line, in order.

        Raises:
            DestinationUnavailable: nobody reads any more, or the disk behind it is full.
        """
        for row in rows:
            await self._finish()
            self._unwritten = _line(row)
        await self._finish()

    async def _finish(self) -> None:
        try:
            while self._unwritten:
                await _wait_writable(self._descriptor)
                written = os.write(self._descriptor, self._unwritten[:WRITE_BYTES_MAX])
                self._unwritten = self._unwritten[written:]
        except OSError as error:
            message = f"standard output does not take more: {error.strerror}"
            raise DestinationUnavailable(message, destination=self.reference) from error

    async def aclose(self) -> None:
        """Do nothing: others use the descriptor too."""


async def _wait_writable(descriptor: int) -> None:
    try:
        await anyio.wait_writable(descriptor)
    except PermissionError:
        # epoll refuses regular files: they are always ready.
        return


def _line(row: OutboxRow) -> bytes:
    # JSON text never holds a raw line end but between tokens; formatting takes those out.
    payload = msgspec.Raw(msgspec.json.format(row.payload, indent=-1))
    return msgspec.json.encode({"key": row.key, "attributes": row.attributes, "payload": payload}) + b"\n"


class StdoutConnector:
    """The standard output of the engine; it is no source."""

    kind = "stdout"

    def open_stream(self, request: StreamRequest) -> StreamSource:
        """Refuse: standard output can't be read."""
        raise ProgrammingError(f"{request.reference} is no source: standard output only takes results")

    def open_range(self, reference: Reference, connection: object) -> RangeSource:
        """Refuse, as `open_stream` does."""
        del connection
        raise ProgrammingError(f"{reference} is no source: standard output only takes results")

    def open_destination(self, reference: Reference, connection: None, context: ConnectorContext) -> StdoutDestination:
        """Return the destination."""
        del connection, context
        return StdoutDestination(reference)

    async def send(
        self, reference: Reference, connection: None, records: Sequence[OutgoingRecord]
    ) -> Sequence[tuple[str, int]]:
        """Refuse: there is no position that a record sent there could be found at."""
        del connection, records
        raise ProgrammingError(f"{reference} takes the results of mappings")

    async def check(self, reference: Reference, connection: None) -> str:
        """Return what standard output is."""
        del reference, connection
        return "a terminal" if os.isatty(STDOUT) else "not a terminal: a file or a pipe"


connector = StdoutConnector()
