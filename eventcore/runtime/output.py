"""What an environment writes, caught at descriptor level: lines into the log, each with its request id, bounded.

Three pipes: standard output, standard error, and our logging handler's. The end mark of an invocation's output is its
reply: what was written before it is in the pipes when the reply is there, so they are emptied then, up to what a pipe
can hold. (A mark within the pipe would cost the round trip a write, a read and a wake-up of the loop, and a handler
that has closed or replaced its standard output would never write it.)
"""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from functools import partial

from eventcore.ports.runtime import LOG_BYTES_MAX_PER_INVOCATION, LOG_LINE_BYTES_MAX
from eventcore.runtime.channel import unwatch, watch
from eventcore.runtime.report import Reporter

#: One read from a pipe: at a byte a line, which nobody writes but to hurt, it is some ten milliseconds of work.
READ_BYTES = 16 * 1024
#: What a pipe can hold; so much can have been written before a reply and be there still.
PIPE_BYTES = 64 * 1024
#: What a line costs of an invocation's log beside its text: without it, four million empty lines would be free.
LINE_OVERHEAD_BYTES = 26
#: Stands at the end of a line that was cut.
CUT_MARK = " [cut]"

STREAMS = ("stdout", "stderr", "log")


class OutputCapture:
    """The reading ends of an environment's pipes. From `open` to `close`; lines go to the reporter's sink."""

    def __init__(self, function: str, reporter: Reporter) -> None:
        self._function = function
        self._reporter = reporter
        self._request_id = ""
        self._left_bytes = LOG_BYTES_MAX_PER_INVOCATION
        self._dropped_bytes = 0
        self._begun: dict[str, bytearray] = {stream: bytearray() for stream in STREAMS}
        self._streams: dict[int, str] = {}
        self._poll = select.poll()

    def open(self) -> tuple[int, ...]:
        """Make the pipes and return their writing ends, in the order of `STREAMS`; the caller closes those.

        Raises:
            OSError: no more files can be opened; none is left open.
        """
        writing: list[int] = []
        try:
            for stream in STREAMS:
                reader, writer = os.pipe()
                writing.append(writer)
                os.set_blocking(reader, False)
                self._streams[reader] = stream
                self._poll.register(reader, select.POLLIN)
                watch(reader, partial(self._read, reader))
        except OSError:
            for writer in writing:
                os.close(writer)
            self.close()
            raise
        return tuple(writing)

    def begin(self, request_id: str) -> None:
        """Attribute what comes from now on to an invocation."""
        self._tell_dropped()
        self._request_id = request_id
        self._left_bytes = LOG_BYTES_MAX_PER_INVOCATION

    def end(self) -> None:
        """Take in all that was written until now, and finish the invocation's last lines."""
        for reader, _ in self._poll.poll(0):
            taken = 0
            while taken < PIPE_BYTES and (size := self._read(reader)):
                taken += size
        for stream, begun in self._begun.items():
            if begun:
                self._say(stream, [bytes(begun)], end_bytes=0)
                begun.clear()
        self._tell_dropped()

    def close(self) -> None:
        """Close the pipes. Safe to repeat."""
        for reader in list(self._streams):
            self._forget(reader)

    def _tell_dropped(self) -> None:
        if self._dropped_bytes:
            text = (
                f"{self._dropped_bytes} bytes of output were dropped: "
                f"one invocation may write {LOG_BYTES_MAX_PER_INVOCATION}"
            )
            self._dropped_bytes = 0
            self._reporter.say(self._function, self._request_id, text)

    def _forget(self, reader: int) -> None:
        unwatch(reader)
        self._poll.unregister(reader)
        del self._streams[reader]
        os.close(reader)

    def _read(self, reader: int) -> int:
        """Take in one read's worth; return its size, 0 when there is nothing or never will be."""
        try:
            data = os.read(reader, READ_BYTES)
        except BlockingIOError:
            return 0
        stream = self._streams[reader]
        if not data:  # every writer has closed its end: watching on would wake the loop for ever
            self._forget(reader)
        elif self._left_bytes <= 0:
            self._dropped_bytes += len(data)
        else:
            self._take(stream, data)
        return len(data)

    def _take(self, stream: str, data: bytes) -> None:
        *whole, rest = data.split(b"\n")
        begun = self._begun[stream]
        if begun and whole:
            _extend(begun, whole[0])
            whole[0] = bytes(begun)
            begun.clear()
        self._say(stream, whole)
        if self._left_bytes > 0:
            _extend(begun, rest)
        else:
            self._dropped_bytes += len(rest)

    def _say(self, stream: str, lines: Sequence[bytes], end_bytes: int = 1) -> None:
        """Write whole lines into the log, as many of them as the invocation may still write."""
        texts = []
        for line in lines:
            if self._left_bytes <= 0:
                self._dropped_bytes += len(line) + end_bytes
            else:
                self._left_bytes -= len(line) + LINE_OVERHEAD_BYTES
                texts.append(_text_of(line))
        self._reporter.say_all(self._function, self._request_id, texts, stream)


def _text_of(line: bytes) -> str:
    if len(line) <= LOG_LINE_BYTES_MAX:
        return line.decode(errors="replace")
    return line[: LOG_LINE_BYTES_MAX - len(CUT_MARK)].decode(errors="replace") + CUT_MARK


def _extend(begun: bytearray, data: bytes) -> None:
    """Add to an unfinished line, which is kept to one byte past the limit: enough to know that it was cut."""
    begun += data[: LOG_LINE_BYTES_MAX + 1 - len(begun)]
