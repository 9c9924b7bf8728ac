"""A small HTTP/1.1 server on the loopback that answers as a test says, and keeps what it took."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import msgspec
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream


class Request(msgspec.Struct, frozen=True):
    """What the endpoint was sent."""

    method: str
    path: str
    headers: Mapping[str, str]  #: names in lower case
    body: bytes


class Answer(msgspec.Struct, frozen=True):
    """What the endpoint answers; status 0 hangs up, -1 never answers."""

    status: int = 200
    headers: Mapping[str, str] = {}
    body: bytes = b""
    is_endless: bool = False  #: the body is repeated until the other side hangs up


class Endpoint:
    """A small HTTP/1.1 server on the loopback."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}/results"
        self.requests: list[Request] = []
        self.answer: Callable[[Request], Answer] = lambda _: Answer()

    async def serve(self, stream: SocketStream) -> None:
        """Answer the requests of one connection."""
        async with stream:
            reader = BufferedByteReceiveStream(stream)
            try:
                while True:
                    request = await _read_request(reader)
                    answer = self.answer(request)
                    if 200 <= answer.status < 300:
                        self.requests.append(request)
                    if answer.status == 0:
                        return
                    if answer.status == -1:
                        await anyio.sleep_forever()
                    length = 10**15 if answer.is_endless else len(answer.body)
                    lines = [f"HTTP/1.1 {answer.status} X", f"Content-Length: {length}"]
                    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
                    await stream.send("\r\n".join([*lines, "", ""]).encode() + answer.body)
                    while answer.is_endless:
                        await stream.send(answer.body)
            except (anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return


async def _read_request(reader: BufferedByteReceiveStream) -> Request:
    head, *lines = (await reader.receive_until(b"\r\n\r\n", 65_536)).decode().split("\r\n")
    method, path, _ = head.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.receive_exactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body)


@asynccontextmanager
async def open_endpoint() -> AsyncIterator[Endpoint]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    endpoint = Endpoint(listener.extra(anyio.abc.SocketAttribute.local_port))
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, endpoint.serve)
        yield endpoint
        tasks.cancel_scope.cancel()
