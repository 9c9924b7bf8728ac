"""What a process said before it was gone is heard, however the engine learns that it is."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import anyio

from eventcore.clock import SystemClock
from eventcore.model import Outcome, OutcomeKind
from eventcore.runtime import protocol
from eventcore.runtime.channel import LAST_READS_MAX, Channel, Deadlines
from eventcore.runtime.output import OutputCapture
from eventcore.runtime.remote import RemoteEnvironment
from eventcore.runtime.report import Reporter

#: A frame that takes several reads.
FRAME = protocol.encode(protocol.Refused("x" * 2 * protocol.READ_BYTES))
#: Whatever a test waits for has happened by then, seconds.
HAPPENS_WITHIN_S = 30.0


def _body() -> bytes:
    (body,) = protocol.FrameBuffer().feed(FRAME)
    return body


async def _receive(channel: Channel) -> bytes | None:
    with anyio.fail_after(HAPPENS_WITHIN_S):
        return await channel.receive()


async def test_a_send_to_an_end_that_is_gone_takes_in_what_it_had_said() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours, Deadlines())
    theirs.sendall(FRAME)
    theirs.close()
    channel.send(b"anybody?")
    assert not channel.is_open
    assert await _receive(channel) == _body()
    assert await _receive(channel) is None
    channel.close()


async def test_what_waits_to_be_sent_to_an_end_that_is_gone_takes_in_what_it_had_said() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours, Deadlines())
    channel.send(b"x" * 4 * 1024 * 1024)
    theirs.sendall(FRAME)
    theirs.close()
    assert await _receive(channel) == _body()
    assert await _receive(channel) is None
    channel.close()


async def test_all_that_an_end_had_said_is_taken_in_at_the_last() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        channel = Channel(ours, Deadlines())
        theirs.sendall(FRAME)
        channel.read_last()
        assert not channel.is_open
        assert await _receive(channel) == _body()
        channel.close()


async def test_an_environment_that_is_gone_may_have_answered(tmp_path: Path) -> None:
    """Its process ended right behind the reply, and that is told before the reply was read."""
    output = OutputCapture("work", Reporter(SystemClock(), lambda _: None))
    environment = RemoteEnvironment(1, tmp_path, output, Deadlines(), replaces_lost=False)
    control, *others = environment.open(lambda _: None)
    response = b'"' + b"x" * 2 * protocol.READ_BYTES + b'"'
    reply = protocol.Reply("r", Outcome(kind=OutcomeKind.SUCCESS, response=response), 0)
    with socket.socket(fileno=control) as theirs:
        theirs.sendall(protocol.encode(reply))
    for descriptor in others:
        os.close(descriptor)
    environment.set_exited(0)
    with anyio.fail_after(HAPPENS_WITHIN_S):
        assert await environment.receive() == reply


async def test_an_end_that_goes_on_writing_does_not_hold_up_the_loop() -> None:
    """It refuses what it is sent, and is not gone."""
    ours, theirs = socket.socketpair()
    reads = 0

    class Flooded(socket.socket):
        """Has always more to be read."""

        def recv(self, size: int, flags: int = 0) -> bytes:
            nonlocal reads
            reads += 1
            assert reads <= LAST_READS_MAX
            theirs.sendall(b"x")
            return super().recv(size, flags) and protocol.encode(protocol.Refused(""))

    with theirs:
        channel = Channel(Flooded(fileno=ours.detach()), Deadlines())
        channel.read_last()
        assert not channel.is_open
        channel.close()
    assert reads == LAST_READS_MAX
