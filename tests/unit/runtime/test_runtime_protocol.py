"""Frames are cut out of whatever pieces arrive, and what is no frame is known at once."""

import itertools
import socket
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore.model import Batch, Fault, FaultCause, Outcome, OutcomeKind, Record, TimestampKind
from eventcore.runtime import protocol
from eventcore.runtime.context import Serving

SERVING = Serving(function="f", version="1", memory_size_mb=128, log_group="g", log_stream="s")
RECORD = Record(
    position=2**60,
    body=b"\xff\x00",
    key=b"k",
    arrived_ms=1,
    headers=(("a", b"1"), ("a", b"\xfe")),
    size_bytes=9,
    timestamp_kind=TimestampKind.LOG_APPEND_TIME,
    id="i",
    receipt="r",
    attributes={"x": "y"},
)
FAULT = Fault(
    cause=FaultCause.EXIT,
    error_type="T",
    message="m",
    request_id="r",
    stack_trace=("f\n",),
    location="l:1",
    exit_code=-9,
)


@given(
    bodies=st.lists(st.binary(max_size=40), max_size=6),
    cuts=st.lists(st.integers(min_value=0, max_value=200), max_size=12),
)
def test_finds_the_same_frames_in_any_pieces(bodies: list[bytes], cuts: list[int]):
    whole = b"".join(_frame(body) for body in bodies)
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    buffer = protocol.FrameBuffer()
    found: list[bytes] = []
    for start, end in itertools.pairwise(edges):
        found += buffer.feed(whole[start:end])
    assert found == bodies


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 200 OK", b"\0" * 8, b"ec1\n" + struct.pack("!I", protocol.FRAME_BYTES_MAX + 1)]
)
def test_refuses_what_is_no_frame(data: bytes):
    with pytest.raises(protocol.BadFrame):
        protocol.FrameBuffer().feed(data)


def test_refuses_garbage_behind_a_frame():
    buffer = protocol.FrameBuffer()
    with pytest.raises(protocol.BadFrame):
        buffer.feed(_frame(b"body") + b"garbage!")


@pytest.mark.parametrize(
    ("frame", "decoder"),
    [
        (protocol.Launch("fork", {"A": "ä"}), protocol.TO_ENVIRONMENT),
        (protocol.Setup(SERVING, "a.b", "/code"), protocol.TO_ENVIRONMENT),
        (protocol.Invoke("r", "arn", 3.0, "", b'{"a":1}'), protocol.TO_ENVIRONMENT),
        (
            protocol.Invoke("r", "arn", 3.0, "t", None, Batch(source="s", shard="0", records=[RECORD], attempt=2)),
            protocol.TO_ENVIRONMENT,
        ),
        (protocol.Unready(FAULT), protocol.FROM_ENVIRONMENT),
        (
            protocol.Reply("r", Outcome(kind=OutcomeKind.SUCCESS, failed=(1, 2), fault=FAULT), 7),
            protocol.FROM_ENVIRONMENT,
        ),
        (protocol.Exited(3, -9), protocol.FROM_ZYGOTE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_brings_every_field_across(frame: msgspec.Struct, decoder: msgspec.msgpack.Decoder):
    (body,) = protocol.FrameBuffer().feed(protocol.encode(frame))
    assert decoder.decode(body) == frame


def test_reads_one_frame_and_not_a_byte_more():
    """An environment may exec between two frames: the second one must be left to what it becomes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        launch, setup = protocol.Launch("spawn", {}), protocol.Setup(SERVING, "a.b", "/")
        ours.sendall(protocol.encode(launch) + protocol.encode(setup))
        first = protocol.read_body(theirs)
        assert first is not None
        assert protocol.TO_ENVIRONMENT.decode(first) == launch
        assert theirs.recv(4096) == protocol.encode(setup)


@pytest.mark.parametrize("sent", [b"", b"ec1\n", b"ec1\n\0\0\0\5ab"])
def test_reads_nothing_at_the_end(sent: bytes):
    """Also where a frame was cut off."""
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(sent)
        assert protocol.read_body(theirs) is None


def test_reads_frames_that_came_together_or_in_pieces_one_by_one():
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(_frame(b"one") + _frame(b"two") + _frame(b"three")[:9])
            reader = protocol.FrameReader(theirs)
            assert [reader.read(), reader.read()] == [b"one", b"two"]
            ours.sendall(_frame(b"three")[9:] + _frame(b"cut off")[:-1])
            assert reader.read() == b"three"
        assert reader.read() is None


def _frame(body: bytes) -> bytes:
    return b"ec1\n" + struct.pack("!I", len(body)) + body
