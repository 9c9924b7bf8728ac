"""A network of its own between clients and a broker, that can be cut, and that can be slow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import anyio.abc

#: Bytes handed on at once.
PIECE_BYTES = 64 * 1024
#: Pieces under way in a slow network, each way of each connection.
PIECES_MAX = 100


class Network:
    """Hands connections to one port of this machine on to another. Made by `open_network`."""

    def __init__(self, behind_port: int, tasks: anyio.abc.TaskGroup) -> None:
        self._behind_port = behind_port
        self._tasks = tasks
        self._connections: set[anyio.CancelScope] = set()
        self._is_cut = False
        self.latency_s = 0.0  #: of every piece, each way
        self.opened_count = 0  #: connections that were handed on so far

    def cut(self) -> None:
        """End every connection, and let nobody through until `heal`."""
        self._is_cut = True
        for scope in list(self._connections):
            scope.cancel()

    def heal(self) -> None:
        """Let clients through again."""
        self._is_cut = False

    async def serve(self, client: anyio.abc.SocketStream) -> None:
        """Hand one connection on until either side ends it, or it is cut."""
        with anyio.CancelScope() as scope:
            self._connections.add(scope)
            try:
                async with client:
                    if not self._is_cut:
                        await self._connect(client)
            except (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return
            finally:
                self._connections.discard(scope)

    async def _connect(self, client: anyio.abc.SocketStream) -> None:
        async with await anyio.connect_tcp("127.0.0.1", self._behind_port) as broker:
            self.opened_count += 1
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._pump, client, broker, tasks)
                tasks.start_soon(self._pump, broker, client, tasks)

    async def _pump(
        self, source: anyio.abc.SocketStream, target: anyio.abc.SocketStream, tasks: anyio.abc.TaskGroup
    ) -> None:
        sender, receiver = anyio.create_memory_object_stream[tuple[float, bytes]](PIECES_MAX)
        try:
            async with sender, receiver, anyio.create_task_group() as way:
                way.start_soon(self._deliver, receiver, target)
                while True:
                    piece = await source.receive(PIECE_BYTES)
                    await sender.send((anyio.current_time() + self.latency_s, piece))
        except* (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            tasks.cancel_scope.cancel()

    async def _deliver(
        self, receiver: anyio.abc.ObjectReceiveStream[tuple[float, bytes]], target: anyio.abc.SocketStream
    ) -> None:
        async for due, piece in receiver:
            await anyio.sleep_until(due)
            await target.send(piece)


@asynccontextmanager
async def open_network(front_port: int, behind_port: int) -> AsyncIterator[Network]:
    """Open one, on loopback."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=front_port) as listener,
        anyio.create_task_group() as tasks,
    ):
        network = Network(behind_port, tasks)
        tasks.start_soon(partial(listener.serve, network.serve))
        yield network
        tasks.cancel_scope.cancel()
