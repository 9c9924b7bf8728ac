"""Destinations outside the store keep the promises of their kit: a real HTTP endpoint, a real pipe."""

import os
import select
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from email.utils import formatdate
from urllib.parse import unquote

import anyio
import anyio.lowlevel
import msgspec
import pytest

from eventcore.config.reference import Reference
from eventcore.config.structs import HttpConfig
from eventcore.errors import DestinationRefused, DestinationUnavailable, ProgrammingError, SourceUnavailable
from eventcore.ids import SeededIds
from eventcore.ports.connectors import Connector, ConnectorContext, OutgoingRecord, StartingPosition, StreamRequest
from eventcore.ports.store import OutboxRow
from eventcore.testing.conformance.destination import (
    DestinationConformance,
    DestinationTraits,
    DestinationUnderTest,
    Taken,
)
from eventcore_connectors.http import RETRY_AFTER_S_MAX, HttpDestination
from eventcore_connectors.http import connector as http_connector
from eventcore_connectors.stdout import StdoutDestination
from eventcore_connectors.stdout import connector as stdout_connector
from tests.conformance.http_endpoint import Answer, Endpoint, open_endpoint

HTTP = Reference("http", "audit")
STDOUT = Reference("stdout")
#: The wall time of every test here: a whole second, as HTTP writes dates.
NOW_MS = 1_770_000_000_000


class _StandingClock:
    def now_ms(self) -> int:
        return NOW_MS


def _http_date(time_ms: int) -> str:
    return formatdate(time_ms / 1000, usegmt=True)


CONTEXT = ConnectorContext(clock=_StandingClock(), ids=SeededIds(1), region="us-east-1", account_id="000000000000")
ROW = OutboxRow(key="k", destination="http:audit", lane="orders/0", payload=b'{"a": 1}')


# -- HTTP --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_http(endpoint: Endpoint, **settings: object) -> AsyncIterator[HttpDestination]:
    config = msgspec.convert({"url": endpoint.url, **settings}, HttpConfig)
    destination = http_connector.open_destination(HTTP, config, CONTEXT)
    await destination.open()
    try:
        yield destination
    finally:
        await destination.aclose()


class HttpUnderTest:
    """An endpoint and the destination that speaks to it."""

    traits = DestinationTraits()

    def __init__(self, endpoint: Endpoint, away: Answer) -> None:
        self.destination = http_connector.open_destination(HTTP, HttpConfig(url=endpoint.url), CONTEXT)
        self._endpoint = endpoint
        self._away = away

    async def taken(self) -> Sequence[Taken]:
        prefix = "x-eventcore-"
        return [
            Taken(
                key=request.headers["idempotency-key"],
                payload=msgspec.json.decode(request.body),
                attributes={
                    name.removeprefix(prefix): unquote(value)
                    for name, value in request.headers.items()
                    if name.startswith(prefix)
                },
            )
            for request in self._endpoint.requests
        ]

    async def leave(self) -> None:
        self._endpoint.answer = lambda _: self._away

    async def come_back(self) -> None:
        self._endpoint.answer = lambda _: Answer()

    async def refuse(self, key: str) -> None:
        self._endpoint.answer = lambda request: Answer(400 if request.headers["idempotency-key"] == key else 200)


class HttpConformance(DestinationConformance):
    away: Answer

    def open_destination(self) -> AbstractAsyncContextManager[DestinationUnderTest]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[DestinationUnderTest]:
            async with open_endpoint() as endpoint:
                yield HttpUnderTest(endpoint, self.away)

        return opened()


class TestHttpThatAnswers503(HttpConformance):
    away = Answer(503, body=b"down for repair")


class TestHttpThatHangsUp(HttpConformance):
    away = Answer(0)


class TestHttpAnswers:
    """What each answer of an endpoint means."""

    @pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
    async def test_2xx_takes_the_row(self, status: int) -> None:
        async with open_endpoint() as endpoint, open_http(endpoint) as destination:
            endpoint.answer = lambda _: Answer(status)
            await destination.deliver([ROW])
            assert len(endpoint.requests) == 1

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
    async def test_what_may_change_is_tried_again(self, status: int) -> None:
        async with open_endpoint() as endpoint, open_http(endpoint) as destination:
            endpoint.answer = lambda _: Answer(status, body=b"later")
            with pytest.raises(DestinationUnavailable, match=f"{endpoint.url} answered {status}: later") as caught:
                await destination.deliver([ROW])
            assert caught.value.retry_after_s is None

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415, 422])
    async def test_what_will_not_change_is_refused(self, status: int) -> None:
        async with open_endpoint() as endpoint, open_http(endpoint) as destination:
            endpoint.answer = lambda _: Answer(status, body=b"never")
            with pytest.raises(DestinationRefused, match=f"{endpoint.url} answered {status}: never"):
                await destination.deliver([ROW])

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    async def test_a_redirect_is_not_followed(self, status: int) -> None:
        async with open_endpoint() as endpoint, open_endpoint() as other, open_http(endpoint) as destination:
            endpoint.answer = lambda _: Answer(status, {"Location": other.url})
            with pytest.raises(DestinationRefused, match=other.url):
                await destination.deliver([ROW])
            assert other.requests == []

    @pytest.mark.parametrize(
        ("value", "least_s", "most_s"),
        [
            ("7", 7, 7),
            ("0", 0, 0),
            (_http_date(NOW_MS + 1_000_000), 1000, 1000),
            (_http_date(NOW_MS - 1_000_000), 0, 0),
            ("99999999999", RETRY_AFTER_S_MAX, RETRY_AFTER_S_MAX),
        ],
    )
    async def test_retry_after_is_honoured(self, value: str, least_s: float, most_s: float) -> None:
        async with open_endpoint() as endpoint, open_http(endpoint) as destination:
            endpoint.answer = lambda _: Answer(429, {"Retry-After": value})
            with pytest.raises(DestinationUnavailable) as caught:
                await destination.deliver([ROW])
            assert caught.value.retry_after_s is not None
            assert least_s <= caught.value.retry_after_s <= most_s

    async def test_a_retry_after_that_is_no_time_is_left_out(self) -> None:
        async with open_endpoint() as endpoint, open_http(endpoint) as destination:
            endpoint.answer = lambda _: Answer(503, {"Retry-After": "soon"})
            with pytest.raises(DestinationUnavailable) as caught:
                await destination.deliver([ROW])
            assert caught.value.retry_after_s is None

    async def test_a_silent_endpoint_is_left_at_the_timeout(self) -> None:
        """The timeout bounds the whole request."""
        async with open_endpoint() as endpoint, open_http(endpoint, timeout=0.2) as destination:
            endpoint.answer = lambda _: Answer(-1)
            with anyio.fail_after(30), pytest.raises(DestinationUnavailable, match=r"did not answer in 0\.2 s"):
                await destination.deliver([ROW])

    async def test_a_port_that_nobody_listens_on_is_unavailable(self) -> None:
        async with open_endpoint() as endpoint:
            pass
        async with open_http(endpoint) as destination:
            with pytest.raises(DestinationUnavailable, match=endpoint.url):
                await destination.deliver([ROW])

    async def test_an_endless_answer_is_not_read_to_its_end(self) -> None:
        """Only what a message quotes matters of an answer: a large one costs no memory, and takes the row."""
        async with open_endpoint() as endpoint, open_http(endpoint) as destination:
            endpoint.answer = lambda _: Answer(200, body=b"x" * 10_000, is_endless=True)
            await destination.deliver([ROW, msgspec.structs.replace(ROW, key="k2")])
            assert [request.headers["idempotency-key"] for request in endpoint.requests] == ["k", "k2"]

    async def test_the_configured_headers_are_sent(self) -> None:
        """Also those that no ASCII text could hold; the key is ours alone."""
        headers = {"Authorization": "Bearer geheim-ü", "idempotency-key": "theirs", "Content-Type": "text/plain"}
        async with open_endpoint() as endpoint, open_http(endpoint, headers=headers) as destination:
            await destination.deliver([ROW])
            (request,) = endpoint.requests
            assert (request.method, request.path, request.body) == ("POST", "/results", ROW.payload)
            assert request.headers["authorization"] == "Bearer geheim-ü"
            assert request.headers["content-type"] == "text/plain"
            assert request.headers["idempotency-key"] == "k"

    async def test_rows_that_were_taken_are_not_sent_again(self) -> None:
        """A failure in the middle says how many rows were taken, so that only the rest is sent again."""
        rows = [msgspec.structs.replace(ROW, key=f"k{number}") for number in range(4)]
        async with open_endpoint() as endpoint, open_http(endpoint) as destination:
            endpoint.answer = lambda request: Answer(503 if request.headers["idempotency-key"] == "k2" else 200)
            with pytest.raises(DestinationUnavailable) as failure:
                await destination.deliver(rows)
            assert failure.value.taken_count == 2
            endpoint.answer = lambda _: Answer()
            await destination.deliver(rows[failure.value.taken_count :])
            keys = [request.headers["idempotency-key"] for request in endpoint.requests]
            assert keys == ["k0", "k1", "k2", "k3"]  # the endpoint notes what it took

    async def test_it_must_be_open(self) -> None:
        destination = http_connector.open_destination(HTTP, HttpConfig(url="http://127.0.0.1:1/"), CONTEXT)
        with pytest.raises(ProgrammingError, match="http:audit is not open"):
            await destination.deliver([ROW])
        await destination.aclose()

    async def test_check_tells_how_it_answers(self) -> None:
        async with open_endpoint() as endpoint:
            endpoint.answer = lambda request: Answer(405 if request.method == "HEAD" else 200)
            line = await http_connector.check(HTTP, HttpConfig(url=endpoint.url))
            assert "405" in line
            assert endpoint.url in line
        with pytest.raises(SourceUnavailable, match=endpoint.url):
            await http_connector.check(HTTP, HttpConfig(url=endpoint.url))


# -- standard output ---------------------------------------------------------------------------------------------------


class PipeUnderTest:
    """A pipe in the place of standard output; another task reads it."""

    traits = DestinationTraits(can_refuse=False)

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self._reader, self._writer = os.pipe()
        self._read = b""
        self._reading = anyio.CancelScope()
        self._is_idle = anyio.Event()
        self._is_idle.set()
        self.destination = StdoutDestination(STDOUT, descriptor=self._writer)

    def begin(self) -> None:
        """Read from now on, as another process would."""
        self._is_idle = anyio.Event()
        self._tasks.start_soon(self._run)

    async def _run(self) -> None:
        with anyio.CancelScope() as self._reading:
            while True:
                await anyio.wait_readable(self._reader)
                self._read_ready()
        self._is_idle.set()

    def _read_ready(self) -> None:
        while select.select([self._reader], [], [], 0)[0]:
            self._read += os.read(self._reader, 65_536)

    async def taken(self) -> Sequence[Taken]:
        self._read_ready()
        assert self._read == b"" or self._read.endswith(b"\n")
        # Lines end with a line feed alone, whatever else a text may hold.
        lines = [msgspec.json.decode(line) for line in self._read.split(b"\n")[:-1]]
        return [Taken(key=line["key"], payload=line["payload"], attributes=line["attributes"]) for line in lines]

    async def leave(self) -> None:
        self._reading.cancel()
        await self._is_idle.wait()
        self._read_ready()
        os.close(self._reader)

    async def come_back(self) -> None:
        self._reader, writer = os.pipe()
        os.dup2(writer, self._writer)
        os.close(writer)
        self.begin()

    async def refuse(self, key: str) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await self.leave()
        os.close(self._writer)


class TestStdout(DestinationConformance):
    def open_destination(self) -> AbstractAsyncContextManager[DestinationUnderTest]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[DestinationUnderTest]:
            async with anyio.create_task_group() as tasks:
                pipe = PipeUnderTest(tasks)
                pipe.begin()
                # The reader has begun when `leave` cancels it.
                await anyio.lowlevel.checkpoint()
                yield pipe
                await pipe.aclose()

        return opened()

    def test_a_reader_that_stops_stops_only_the_destination(self) -> None:
        """A full pipe lets the loop go on; when it is read again the line goes on where it was."""
        large = msgspec.structs.replace(ROW, payload=msgspec.json.encode("x" * 1_000_000))

        async def body() -> None:
            async with anyio.create_task_group() as tasks:
                pipe = PipeUnderTest(tasks)
                with anyio.move_on_after(0.1) as scope:
                    await pipe.destination.deliver([large])
                assert scope.cancelled_caught
                pipe.begin()
                with anyio.fail_after(30):
                    await pipe.destination.deliver([ROW])
                first, second = await pipe.taken()
                assert first.payload == "x" * 1_000_000
                assert second.payload == {"a": 1}
                await pipe.aclose()

        anyio.run(body)

    async def test_a_regular_file_takes_rows(self, tmp_path) -> None:
        """Redirected into a file, which no selector waits for."""
        with (tmp_path / "out").open("wb") as file:
            destination = StdoutDestination(STDOUT, descriptor=file.fileno())
            await destination.deliver([ROW, ROW])
        assert (tmp_path / "out").read_bytes() == b'{"key":"k","attributes":{},"payload":{"a":1}}\n' * 2

    async def test_it_writes_to_standard_output(self, capfd) -> None:
        destination = stdout_connector.open_destination(STDOUT, None, CONTEXT)
        await destination.open()
        await destination.deliver([ROW])
        await destination.aclose()
        assert msgspec.json.decode(capfd.readouterr().out) == {"key": "k", "attributes": {}, "payload": {"a": 1}}


# -- as connectors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connector", "reference", "connection"),
    [(http_connector, HTTP, HttpConfig(url="http://127.0.0.1:1/")), (stdout_connector, STDOUT, None)],
)
async def test_they_are_no_sources_and_take_nothing_by_hand(connector: Connector, reference, connection) -> None:
    request = StreamRequest(
        reference=reference,
        connection=connection,
        mapping="orders",
        starting_position=StartingPosition("LATEST"),
        consumer_group_id="",
        records_ahead_max=1,
        context=CONTEXT,
    )
    with pytest.raises(ProgrammingError, match=f"{reference} is no source"):
        connector.open_stream(request)
    with pytest.raises(ProgrammingError, match=f"{reference} takes the results of mappings"):
        await connector.send(reference, connection, [OutgoingRecord(body=b"{}")])


async def test_stdout_tells_what_it_is(capfd) -> None:
    assert "not a terminal" in await stdout_connector.check(STDOUT, None)
