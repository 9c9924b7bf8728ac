"""The control server: what commands ask of a running engine, on a Unix socket in its state folder.

`POST /v1/PATH` with a request of `eventcore.http.contract` as JSON; the answer is its result, or status 400 and a
`Refusal`. Whoever may open the socket may do everything: it belongs to the folder's owner alone (mode 0600).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from eventcore.errors import CommandError, EventcoreError
from eventcore.http.contract import REQUEST_BYTES_MAX, REQUESTS, Refusal, Request
from eventcore.http.operations import Operations
from eventcore.http.refusals import ExitCode, explain
from eventcore.http.sockets import SOCKET_NAME, bind_control
from eventcore.model import UNREADABLE_JSON

#: Requests at the same time: people and their scripts; more get status 503 from the server.
REQUESTS_MAX = 64
#: What running requests get when the server closes, seconds: enough for a look or a send, not for a long invocation,
#: which `Control.wait_idle` waits for before.
CLOSE_GRACE_S = 1.0
#: What connections get to take their last answers, seconds.
DISCONNECT_GRACE_S = 2

_encoder = msgspec.json.Encoder()


class Control:
    """A running control server. Made by `serve_control`."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._answering: set[anyio.CancelScope] = set()
        self._answered = anyio.Event()

    async def wait_idle(self) -> None:
        """Wait until no request is being answered."""
        while self._answering:
            await self._answered.wait()

    def cut_off(self) -> None:
        """Give the requests that are being answered `CLOSE_GRACE_S` to finish."""
        for scope in self._answering:
            scope.deadline = anyio.current_time() + CLOSE_GRACE_S

    async def answer(self, http: HttpRequest) -> Response:
        """Answer one request."""
        # A scope of its own: a request that the server itself would have to cancel is logged as a defect.
        with anyio.CancelScope() as scope:
            self._answering.add(scope)
            try:
                return await self._perform(http)
            finally:
                self._answering.discard(scope)
                self._answered.set()
                self._answered = anyio.Event()
        return _refuse(CommandError("the engine ended before it had answered"))

    async def _perform(self, http: HttpRequest) -> Response:
        try:
            request = _decode(http.path_params["path"], await _read_body(http))
            result = await self._operations.perform(request)
        except EventcoreError as error:
            return _refuse(error)
        return Response(_encoder.encode(result), media_type="application/json")


@asynccontextmanager
async def serve_control(operations: Operations, folder: Path) -> AsyncIterator[Control]:
    """Answer commands for as long as the block runs; the socket is there when it begins, and gone when it has ended.

    Raises:
        CommandError: no socket can be made in the folder.
    """
    listening = bind_control(folder)
    control = Control(operations)
    server = _Server(
        uvicorn.Config(
            Starlette(routes=[Route("/v1/{path:path}", control.answer, methods=["POST"])]),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            limit_concurrency=REQUESTS_MAX,
            timeout_graceful_shutdown=DISCONNECT_GRACE_S,
        )
    )
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listening])
            try:
                yield control
            finally:
                control.cut_off()
                server.should_exit = True
    finally:
        listening.close()
        (folder / SOCKET_NAME).unlink(missing_ok=True)


class _Server(uvicorn.Server):
    """A server that leaves signals to the engine."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no handlers: the first signal drains the engine, which needs this server meanwhile."""
        yield


async def _read_body(http: HttpRequest) -> bytes:
    body = bytearray()
    async for part in http.stream():
        body += part
        if len(body) > REQUEST_BYTES_MAX:
            raise CommandError(f"a request has at most {REQUEST_BYTES_MAX:,} bytes")
    return bytes(body)


def _decode(path: str, body: bytes) -> Request[Any]:
    kind = REQUESTS.get(path)
    if kind is None:
        raise CommandError(f"this engine knows no `{path}`", hint="its version differs from the command's")
    try:
        request: Request[Any] = msgspec.json.decode(body or b"{}", type=kind)
    except UNREADABLE_JSON as error:
        raise CommandError(f"{path}: {error}", exit_code=ExitCode.USAGE) from error
    return request


def _refuse(error: EventcoreError) -> Response:
    told = explain(error)
    assert told is not None, "every error of ours can be explained"
    refusal = Refusal(message=told.message, hint=told.hint, exit_code=told.exit_code)
    return Response(_encoder.encode(refusal), status_code=400, media_type="application/json")
