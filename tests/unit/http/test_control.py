"""The control socket: requests come in, answers go out, and neither strangers nor floods do harm."""

from __future__ import annotations

import signal
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import pytest

from eventcore.errors import CommandError
from eventcore.http.client import ControlClient
from eventcore.http.contract import (
    REQUEST_BYTES_MAX,
    REQUESTS,
    GetStatus,
    Invoke,
    PeekQueue,
    Request,
    Result,
    Send,
)
from eventcore.http.control import serve_control
from eventcore.http.sockets import SOCKET_NAME, bind_control
from eventcore.model import OutcomeKind
from eventcore.ports.connectors import OutgoingRecord
from tests.unit.http.pipeline import open_operations, received


async def ask(folder: Path, request: Request[Result]) -> Result:
    """Ask from another thread, as another process would."""
    return await anyio.to_thread.run_sync(ControlClient(folder).ask, request)


async def post(folder: Path, head: str, body: bytes = b"") -> bytes:
    """Send raw bytes and return the raw answer."""

    def exchange() -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(folder / SOCKET_NAME))
            connection.sendall(head.encode() + b"\r\n\r\n" + body)
            received = b""
            while data := connection.recv(65536):
                received += data
            return received

    return await anyio.to_thread.run_sync(exchange)


async def test_requests_are_answered(tmp_path: Path) -> None:
    async with open_operations() as (operations, _), serve_control(operations, tmp_path):
        send = Send(reference="queue:orders", records=(OutgoingRecord(body=b"\xff", headers=(("n", b"v"),)),))
        (place,) = await ask(tmp_path, send)
        (message,) = await ask(tmp_path, PeekQueue(queue="orders"))
        assert message.id == place.id
        assert (await ask(tmp_path, GetStatus())).queues


async def test_a_refusal_arrives_as_it_was_raised(tmp_path: Path) -> None:
    async with open_operations() as (operations, _), serve_control(operations, tmp_path):
        with pytest.raises(CommandError) as caught:
            await ask(tmp_path, PeekQueue(queue="nix"))
    assert caught.value.message == "there is no queue `nix`"
    assert caught.value.hint == "known: dead, discards, orders, parked"
    assert caught.value.exit_code == 1


async def test_many_ask_at_once(tmp_path: Path) -> None:
    answers: list[object] = []

    async def invoke(number: int) -> None:
        invoked = await ask(tmp_path, Invoke(function="answer", event=msgspec.Raw(b"%d" % number)))
        answers.append(msgspec.json.decode(invoked.response))

    async with (
        open_operations() as (operations, _),
        serve_control(operations, tmp_path),
        anyio.create_task_group() as tasks,
    ):
        for number in range(20):
            tasks.start_soon(invoke, number)
    assert sorted(answers) == list(range(20))  # type: ignore[type-var]


async def test_a_large_event_comes_back_whole(tmp_path: Path) -> None:
    event = msgspec.json.encode("x" * 5_000_000)
    async with open_operations() as (operations, _), serve_control(operations, tmp_path):
        invoked = await ask(tmp_path, Invoke(function="answer", event=msgspec.Raw(event)))
    assert bytes(invoked.response) == event


@pytest.mark.parametrize(
    ("head", "body", "said"),
    [
        ("POST /v1/nix HTTP/1.1\r\nContent-Length: 0", b"", "knows no `nix`"),
        ("POST /v1/queue/peek HTTP/1.1\r\nContent-Length: 2", b"{}", "missing required field `queue`"),
        ("POST /v1/queue/peek HTTP/1.1\r\nContent-Length: 3", b"xyz", "malformed"),
        ("POST /v1/status HTTP/1.1\r\nContent-Length: 9", b'{"nix":1}', "unknown field"),
    ],
)
async def test_what_is_no_request_is_refused(tmp_path: Path, head: str, body: bytes, said: str) -> None:
    async with open_operations() as (operations, _), serve_control(operations, tmp_path):
        answer = await post(tmp_path, f"{head}\r\nHost: x\r\nConnection: close", body)
    assert answer.startswith(b"HTTP/1.1 400")
    assert said in answer.decode()


@pytest.mark.parametrize(
    ("path", "event", "said"),
    [
        ("invoke", b'"\xff"', "the event is not JSON"),
        ("invoke", b"1e999", "the event is not JSON"),
        ("invoke", b"[" * 5_000 + b"]" * 5_000, "recursion"),
        ("invoke", b"[1,]", "malformed"),
        ("invoke/async", b'"\xff"', "the event is not JSON"),
        ("invoke/async", b"[" * 5_000 + b"]" * 5_000, "recursion"),
    ],
)
async def test_an_event_that_can_not_be_read_is_refused(tmp_path: Path, path: str, event: bytes, said: str) -> None:
    """No text, no number that fits, nested too deeply: told as any other mistake, and the next request is answered."""
    body = b'{"function":"answer","event":%b}' % event
    head = f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}"
    async with open_operations() as (operations, _), serve_control(operations, tmp_path):
        answer = await post(tmp_path, head, body)
        assert (await ask(tmp_path, Invoke(function="answer", event=msgspec.Raw(b"1")))).kind is OutcomeKind.SUCCESS
    assert answer.startswith(b"HTTP/1.1 400")
    assert said in answer.decode()
    assert received == [1]


async def test_a_request_is_bounded_before_it_is_read_whole(tmp_path: Path) -> None:
    flood = b"x" * (REQUEST_BYTES_MAX + 1)
    head = f"POST /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(flood)}"
    async with open_operations() as (operations, _), serve_control(operations, tmp_path):
        assert b"a request has at most" in await post(tmp_path, head, flood)


async def test_the_socket_is_the_owners_and_goes_with_the_engine(tmp_path: Path) -> None:
    path = tmp_path / SOCKET_NAME
    async with open_operations() as (operations, _):
        async with serve_control(operations, tmp_path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not path.exists()
        assert not ControlClient(tmp_path).is_reachable
        bind_control(tmp_path).close()
        assert path.exists(), "a stale socket, as a killed engine leaves it"
        async with serve_control(operations, tmp_path):
            assert ControlClient(tmp_path).is_reachable


async def test_a_path_past_what_a_socket_takes_is_reached(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    async with open_operations() as (operations, _), serve_control(operations, folder):
        assert (await ask(folder, GetStatus())).mappings
        assert (folder / SOCKET_NAME).is_socket()


async def test_signals_are_left_to_the_engine(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    async with open_operations() as (operations, _), serve_control(operations, tmp_path):
        await ask(tmp_path, GetStatus())
        assert {number: signal.getsignal(number) for number in before} == before


# -- an engine that fails ----------------------------------------------------------------------------------------------


@contextmanager
def answering(folder: Path, answer: bytes) -> Iterator[None]:
    """Answer one request with raw bytes, and close."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / SOCKET_NAME))
    listening.listen(1)

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join(timeout=10)
        listening.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "ended before it had answered"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", "ended before it had answered"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "can't be read"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "could not answer"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", "could not answer"),
    ],
)
def test_a_failing_engine_is_a_sentence(tmp_path: Path, answer: bytes, said: str) -> None:
    with answering(tmp_path, answer), pytest.raises(CommandError, match=said):
        ControlClient(tmp_path).ask(GetStatus())


def test_nobody_there_is_said_so(tmp_path: Path) -> None:
    assert not ControlClient(tmp_path / "nix").is_reachable
    with pytest.raises(CommandError, match="has ended"):
        ControlClient(tmp_path).ask(GetStatus())


def test_every_request_has_a_path_of_its_own_and_an_answer() -> None:
    """A request that is not in the table could never be asked of an engine."""
    kinds = Request.__subclasses__()
    assert set(REQUESTS.values()) == set(kinds)
    assert len(REQUESTS) == len(kinds)
    for kind in kinds:
        msgspec.json.Decoder(kind.RESULT)
