"""The frames between the engine, its zygotes and the environments.

A frame is four fixed bytes, a length, and a msgpack array. The fixed bytes are there for hostile handlers: what one
writes to our descriptor is recognised at once, instead of being waited for as a frame of a gigabyte. Nothing here
waits or imports an event loop: the environments pay for this import.
"""

from __future__ import annotations

import select
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from eventcore.model import Batch, Fault, Outcome
from eventcore.ports.runtime import HandlerForm
from eventcore.runtime.context import Serving

#: Ten times the largest payload: a native batch of 6 MB carries keys, headers and attributes that were not counted.
FRAME_BYTES_MAX = 64 * 1024 * 1024
#: Bytes of one read: a usual frame in one, and a large one does not keep the engine's loop for long.
READ_BYTES = 64 * 1024

_MAGIC = b"ec1\n"
_HEADER = struct.Struct("!4sI")
_ENCODER = msgspec.msgpack.Encoder()

Frame = TypeVar("Frame", bound=msgspec.Struct)


class BadFrame(Exception):
    """The other side wrote something that is no frame."""


# -- engine to environment ---------------------------------------------------------------------------------------------


class Launch(msgspec.Struct, frozen=True, array_like=True, tag="launch"):
    """How the forked process becomes an environment. Goes past the zygote, which so never sees a function's secrets."""

    start: str  #: "fork": go on in this process; "spawn": exec a fresh interpreter
    variables: dict[str, str]  #: all environment variables


class Setup(msgspec.Struct, frozen=True, array_like=True, tag="setup"):
    """What an environment serves, for its whole life."""

    serving: Serving
    handler: str
    code: str


class Invoke(msgspec.Struct, frozen=True, array_like=True, tag="invoke"):
    """One invocation: the event for a Lambda-shaped handler, else the batch."""

    request_id: str
    arn: str
    timeout_s: float
    trace_header: str
    event: bytes | None = None  #: JSON
    batch: Batch | None = None
    wants_results: bool = False


# -- environment to engine ---------------------------------------------------------------------------------------------


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """The handler is imported."""

    form: HandlerForm


class Unready(msgspec.Struct, frozen=True, array_like=True, tag="unready"):
    """The handler can't be imported; the environment ends."""

    fault: Fault


class Reply(msgspec.Struct, frozen=True, array_like=True, tag="reply"):
    """What came of one invocation."""

    request_id: str
    outcome: Outcome
    memory_kb: int  #: the environment's own peak of resident memory


# -- engine to zygote --------------------------------------------------------------------------------------------------


class Start(msgspec.Struct, frozen=True, array_like=True, tag="start"):
    """Start an environment. Its descriptors travel with the frame: control, stdout, stderr, log."""

    number: int  #: the engine's name for it


# -- zygote to engine --------------------------------------------------------------------------------------------------


class Started(msgspec.Struct, frozen=True, array_like=True, tag="started"):
    """The environment's process exists."""

    number: int
    pid: int


class NotStarted(msgspec.Struct, frozen=True, array_like=True, tag="not-started"):
    """The operating system refused another process."""

    number: int
    reason: str


class Exited(msgspec.Struct, frozen=True, array_like=True, tag="exited"):
    """The environment's process ended, and what it left was killed."""

    number: int
    exit_code: int  #: negative for a signal


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """The preload failed or left something that must not be forked; the zygote ends."""

    reason: str


ToEnvironment = Launch | Setup | Invoke
FromEnvironment = Ready | Unready | Reply
FromZygote = Started | NotStarted | Exited | Refused

TO_ENVIRONMENT: msgspec.msgpack.Decoder[ToEnvironment] = msgspec.msgpack.Decoder(ToEnvironment)
FROM_ENVIRONMENT: msgspec.msgpack.Decoder[FromEnvironment] = msgspec.msgpack.Decoder(FromEnvironment)
TO_ZYGOTE: msgspec.msgpack.Decoder[Start] = msgspec.msgpack.Decoder(Start)
FROM_ZYGOTE: msgspec.msgpack.Decoder[FromZygote] = msgspec.msgpack.Decoder(FromZygote)


def encode(frame: msgspec.Struct) -> bytes:
    """Return a frame's bytes."""
    body = _ENCODER.encode(frame)
    return _HEADER.pack(_MAGIC, len(body)) + body


class FrameBuffer:
    """Cuts received bytes into frames' bodies."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Take received bytes and return the bodies that are now complete, in order.

        Raises:
            BadFrame: the bytes are no frame.
        """
        if not self._data and len(data) >= _HEADER.size and len(data) == _HEADER.size + _length(data):
            return (data[_HEADER.size :],)  # by far the commonest: one read, one frame
        self._data += data
        bodies = []
        while len(self._data) >= _HEADER.size:
            end = _HEADER.size + _length(self._data)
            if len(self._data) < end:
                break
            bodies.append(bytes(self._data[_HEADER.size : end]))
            del self._data[:end]
        return bodies


def _length(data: bytes | bytearray) -> int:
    magic, length = _HEADER.unpack_from(data)
    if magic != _MAGIC or length > FRAME_BYTES_MAX:
        raise BadFrame
    return int(length)


def read_body(control: socket.socket) -> bytes | None:
    """Block until one frame has come, and return its body; None at the end of file.

    Reads not a byte more, so that an environment may exec between two frames.
    """
    header = _read_exactly(control, _HEADER.size)
    return None if header is None else _read_exactly(control, _length(header))


class FrameReader:
    """Reads frames one by one, each with one read if it came as a whole; blocks."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._frames = FrameBuffer()
        self._bodies: deque[bytes] = deque()
        # A read that waits is also woken when the other side takes what we sent, for nothing; this is not.
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def read(self) -> bytes | None:
        """Return the next frame's body; None at the end of file."""
        while not self._bodies:
            self._poll.poll()
            data = self._control.recv(READ_BYTES)
            if not data:
                return None
            self._bodies += self._frames.feed(data)
        return self._bodies.popleft()


def _read_exactly(control: socket.socket, size: int) -> bytes | None:
    data = control.recv(size, socket.MSG_WAITALL)
    while 0 < len(data) < size:  # a signal cut the wait short
        more = control.recv(size - len(data), socket.MSG_WAITALL)
        if not more:
            return None
        data += more
    return data or None
