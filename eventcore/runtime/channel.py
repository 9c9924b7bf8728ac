"""The engine's end of a socket to an environment or a zygote: the one adapter to asyncio's loop.

One callback a readable descriptor and one future a reply. Measured over a round trip, that costs what anyio's Unix
socket stream does and half of an asyncio stream; but it also sends at once, without a task of the caller's having to
wait (to a process that does not exist yet), and can be read one last time when the process is gone.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections import deque
from collections.abc import Callable

from eventcore.runtime import protocol

#: Reads of what a process said before it was gone: 4 MiB, many times what a socket holds. One that is not gone, and
#: goes on, must not hold up the loop.
LAST_READS_MAX = 64


def watch(descriptor: int, on_readable: Callable[[], object]) -> None:
    """Call ``on_readable`` whenever ``descriptor`` can be read or is at its end."""
    asyncio.get_running_loop().add_reader(descriptor, on_readable)


def unwatch(descriptor: int) -> None:
    """Stop watching."""
    asyncio.get_running_loop().remove_reader(descriptor)


class Deadlines:
    """When waits of one loop are over: one timer for all of them, as hardly one ever runs out."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[asyncio.Future[None], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf

    def add(self, waiter: asyncio.Future[None], deadline: float) -> None:
        """Have a wait raise `TimeoutError` once the loop's time has passed ``deadline``."""
        self._waiting[waiter] = deadline
        if deadline < self._due:
            self._set_timer(deadline)

    def remove(self, waiter: asyncio.Future[None]) -> None:
        """Forget a wait; the timer stays, and finds nothing or the next one when it fires."""
        del self._waiting[waiter]

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_at(due, self._expire) if due < math.inf else None

    def _expire(self) -> None:
        due = self._due  # not the loop's time: it fires a little early, as far as the clock can tell
        for waiter, deadline in self._waiting.items():
            if deadline <= due and not waiter.done():
                waiter.set_exception(TimeoutError())
        self._set_timer(min((deadline for deadline in self._waiting.values() if deadline > due), default=math.inf))


class Channel:
    """Frames out and frames in, over a socket that this object owns.

    Open until the other end closes it, writes what is no frame, or `close`; then every wait gets None.
    """

    def __init__(self, end: socket.socket, deadlines: Deadlines) -> None:
        end.setblocking(False)
        self._deadlines = deadlines
        self._socket = end
        self._loop = asyncio.get_running_loop()
        self._frames = protocol.FrameBuffer()
        self._received: deque[bytes] = deque()
        self._unsent = b""
        self._waiter: asyncio.Future[None] | None = None
        self.is_open = True
        self._loop.add_reader(end.fileno(), self.read)

    async def receive(self, deadline: float = math.inf) -> bytes | None:
        """Return the next frame's body, or None when there will be none. For one waiting task at a time.

        Args:
            deadline: when to give up, by the loop's clock. Kept here, as a cancel scope costs a round trip a tenth.

        Raises:
            TimeoutError: there was none until then.
        """
        while not self._received and self.is_open:
            self._waiter = waiter = self._loop.create_future()
            self._deadlines.add(waiter, deadline)
            try:
                await waiter
            finally:
                self._waiter = None
                self._deadlines.remove(waiter)
        return self._received.popleft() if self._received else None

    def send(self, data: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Send a frame, with descriptors or without; what the socket does not take at once goes out when it does."""
        if not self.is_open:
            return
        try:
            if self._unsent:
                assert not descriptors
                sent = 0
            elif descriptors:
                sent = socket.send_fds(self._socket, [data], descriptors)
            else:
                sent = self._socket.send(data)
        except BlockingIOError:
            if descriptors:
                raise  # a zygote's requests are tiny, and thousands of them would have to wait
            sent = 0
        except OSError:
            self.read_last()
            return
        if sent < len(data):
            self._unsent += data[sent:]
            self._loop.add_writer(self._socket.fileno(), self._write)

    def read(self) -> bool:
        """Take in what has come, as much as one read gives; tell whether there may be more. Called by the loop."""
        if not self.is_open:
            return False
        try:
            data = self._socket.recv(protocol.READ_BYTES)
            if data:
                self._received += self._frames.feed(data)
        except BlockingIOError:
            return False
        except (OSError, protocol.BadFrame):
            data = b""
        if not data:
            self._end()
        elif self._received:
            self._wake()
        return self.is_open

    def read_last(self) -> None:
        """Take in what the other end said before it was gone, as much as a socket holds, and end."""
        for _ in range(LAST_READS_MAX):
            if not self.read():
                break
        self._end()

    def close(self) -> None:
        """Close the socket; waits get None. Safe to repeat."""
        self._end()
        self._socket.close()

    def _write(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self.read_last()
            return
        self._unsent = self._unsent[sent:]
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())

    def _end(self) -> None:
        if self.is_open:
            self.is_open = False
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
