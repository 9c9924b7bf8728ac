"""HTTP endpoints as destinations: a POST for each result.

The endpoint sees every result at least once, in order per mapping and shard, each with the same `Idempotency-Key`
however often it is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime

import anyio
import httpx

from eventcore.clock import Clock
from eventcore.config.reference import Reference
from eventcore.config.structs import HttpConfig
from eventcore.errors import (
    DestinationError,
    DestinationRefused,
    DestinationUnavailable,
    ProgrammingError,
    SourceUnavailable,
)
from eventcore.ports.connectors import ConnectorContext, OutgoingRecord, StreamRequest
from eventcore.ports.ranges import RangeSource
from eventcore.ports.sources import StreamSource
from eventcore.ports.store import OutboxRow
from eventcore_connectors.header_text import header_name, header_value

#: Answers that a later try may change, besides 5xx: Request Timeout, Too Early, Too Many Requests (RFC 9110, 8470,
#: 6585).
_TRANSIENT = frozenset({408, 425, 429})
#: Each attribute travels as a header under this prefix.
ATTRIBUTE_PREFIX = "x-eventcore-"
#: What is read of an answer, bytes: a reason is short, and the connection of a longer one is not used again.
ANSWER_BYTES_MAX = 64 * 1024
#: What a message quotes of an answer, characters.
_QUOTE_MAX = 200
#: The longest pause that an endpoint may ask for, seconds: past an hour it is asked again all the same.
RETRY_AFTER_S_MAX = 3600.0


class HttpDestination:
    """An endpoint. Open → closed; not reusable.

    Each row is a POST of its payload with the row's key as `Idempotency-Key` and each attribute as the header
    `x-eventcore-NAME`; what is not visible ASCII in a value, and the percent sign, are percent-encoded as UTF-8.
    """

    def __init__(self, reference: Reference, config: HttpConfig, clock: Clock) -> None:
        self.reference = str(reference)
        self._config = config
        self._clock = clock
        self._client: httpx.AsyncClient | None = None

    async def open(self) -> None:
        """Get ready. The endpoint is first spoken to when there is something for it: a probe would be a request too."""
        # Redirects are not followed: they would take the results, and the secrets in headers, to somebody else.
        self._client = httpx.AsyncClient(timeout=None, follow_redirects=False)  # noqa: S113 - `_post` bounds it all

    async def deliver(self, rows: Sequence[OutboxRow]) -> None:
        """POST each row in order; when it returns, every one was answered with 2xx.

        Raises:
            DestinationUnavailable: no answer, 408, 425, 429 or 5xx; ``retry_after_s`` as the answer asked.
            DestinationRefused: any other answer; a redirect is not followed.
            ProgrammingError: it is not open.
        """
        if self._client is None:
            raise ProgrammingError(f"{self.reference} is not open")
        for index, row in enumerate(rows):
            try:
                with anyio.fail_after(self._config.timeout):
                    answer, said = await self._post(self._client, row)
            except TimeoutError as error:
                message = f"{self._config.url} did not answer in {self._config.timeout:g} s"
                raise self._unavailable(message, index) from error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                message = f"{self._config.url} can't be reached: {_reason(error)}"
                raise self._unavailable(message, index) from error
            if not answer.is_success:
                raise self._failure(answer, said, index)

    async def _post(self, client: httpx.AsyncClient, row: OutboxRow) -> tuple[httpx.Response, str]:
        """Send one row; return the answer and the beginning of its body."""
        body = b""
        request = client.stream("POST", self._config.url, content=row.payload, headers=self._headers(row))
        async with request as answer:
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > ANSWER_BYTES_MAX:
                    break
        return answer, body.decode(errors="replace").strip()[:_QUOTE_MAX]

    def _headers(self, row: OutboxRow) -> Mapping[bytes, bytes]:
        headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            **self._config.headers,
            **{
                ATTRIBUTE_PREFIX + header_name(name): header_value(value, keeps_spaces=True)
                for name, value in row.attributes.items()
            },
            "Idempotency-Key": row.key,
        }
        return {name.encode(): value.encode() for name, value in headers.items()}

    def _unavailable(
        self, message: str, taken_count: int, retry_after_s: float | None = None
    ) -> DestinationUnavailable:
        return DestinationUnavailable(
            message, destination=self.reference, taken_count=taken_count, retry_after_s=retry_after_s
        )

    def _failure(self, answer: httpx.Response, said: str, taken_count: int) -> DestinationError:
        message = f"{self._config.url} answered {answer.status_code}" + (f": {said}" if said else "")
        if answer.status_code in _TRANSIENT or answer.is_server_error:
            pause_s = _retry_after_s(answer.headers.get("Retry-After", ""), self._clock)
            return self._unavailable(message, taken_count, pause_s)
        if answer.has_redirect_location:
            message += f"; it redirects to {answer.headers['Location']}, which is not followed: name that address"
        return DestinationRefused(message, destination=self.reference, taken_count=taken_count)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None


class HttpConnector:
    """Endpoints that take results; they are no sources."""

    kind = "http"

    def open_stream(self, request: StreamRequest) -> StreamSource:
        """Refuse: an endpoint can't be read."""
        raise ProgrammingError(f"{request.reference} is no source: an HTTP endpoint only takes results")

    def open_range(self, reference: Reference, connection: object) -> RangeSource:
        """Refuse, as `open_stream` does."""
        del connection
        raise ProgrammingError(f"{reference} is no source: an HTTP endpoint only takes results")

    def open_destination(
        self, reference: Reference, connection: HttpConfig, context: ConnectorContext
    ) -> HttpDestination:
        """Return a destination that is not open yet."""
        return HttpDestination(reference, connection, context.clock)

    async def send(
        self, reference: Reference, connection: HttpConfig, records: Sequence[OutgoingRecord]
    ) -> Sequence[tuple[str, int]]:
        """Refuse: there is no position that a record sent there could be found at."""
        del connection, records
        raise ProgrammingError(f"{reference} takes the results of mappings: use an HTTP client to send to it by hand")

    async def check(self, reference: Reference, connection: HttpConfig) -> str:
        """Return how the endpoint answers a HEAD request: any answer shows that it is there.

        Raises:
            SourceUnavailable: it does not answer.
        """
        try:
            async with httpx.AsyncClient(timeout=connection.timeout) as client:
                answer = await client.head(connection.url, headers=connection.headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            message = f"{connection.url} can't be reached: {_reason(error)}"
            raise SourceUnavailable(message, source=str(reference)) from error
        return f"{connection.url} answers ({answer.status_code} {answer.reason_phrase} to HEAD)"


def _reason(error: Exception) -> str:
    """Return what happened; the timeouts of httpx have no text."""
    return str(error) or type(error).__name__


def _retry_after_s(value: str, clock: Clock) -> float | None:
    """Read a `Retry-After` header: seconds, or a date. Source: RFC 9110, "Retry-After"."""
    if value.isdecimal():
        return min(float(value), RETRY_AFTER_S_MAX)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return min(max(0.0, moment.timestamp() - clock.now_ms() / 1000), RETRY_AFTER_S_MAX)


connector = HttpConnector()
