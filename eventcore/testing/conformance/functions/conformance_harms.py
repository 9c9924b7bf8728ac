"""Handlers that harm their own process, and must harm no other."""

# ruff: noqa: ARG001 - a handler is given what Lambda gives, whether it looks or not
# ruff: noqa: LOG015, T201 - as users write them

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

#: Ends a handler that nobody ended, in seconds: no test waits for so long, and nothing is left behind by a broken one.
FOREVER_S = 120

_calls = 0


class Order(msgspec.Struct):
    """A typed record."""

    number: int
    journal: str  #: a file in which its number is written


def exit_with(event: Any, context: Any) -> None:
    """Leave as scripts do."""
    sys.exit(event)


def exit_at_once(event: Any, context: Any) -> None:
    """Leave without saying goodbye."""
    os._exit(event)


def kill_itself(event: Any, context: Any) -> None:
    """Die of a signal."""
    os.kill(os.getpid(), event)


def crash(event: Any, context: Any) -> None:
    """Read where nothing is."""
    ctypes.string_at(0)


def spin(event: Any, context: Any) -> None:
    """Use the processor and nothing else, deaf to SIGTERM, with a child of a session of its own that does the same."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pids = [os.getpid()]
    if event.get("forks"):
        pids.append(_fork_away())
    Path(event["pids"]).write_text(" ".join(map(str, pids)))
    end = time.monotonic() + FOREVER_S
    while time.monotonic() < end:
        pass


def leave_children(event: Any, context: Any) -> None:
    """Return, and leave a child in a session of its own, and a grandchild whose parent has ended."""
    child = _fork_away()
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, str(_fork_away()).encode())
        os._exit(0)
    grandchild = int(os.read(read, 20))
    os.wait()
    Path(event["pids"]).write_text(f"{os.getpid()} {child} {grandchild}")


def _fork_away() -> int:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(FOREVER_S)
        os._exit(0)
    return pid


def fork_and_return_twice(event: Any, context: Any) -> str:
    """Fork, and let the child return from the handler too."""
    return "child" if os.fork() == 0 else "parent"


def fork_for_order(order: Order) -> None:
    """Write down an order, and fork; both return."""
    with Path(order.journal).open("a") as journal:
        journal.write(f"{order.number}\n")
    os.fork()


def close_descriptors(event: Any, context: Any) -> None:
    """Close every descriptor there is."""
    os.closerange(0, 4096)


def write_garbage(event: Any, context: Any) -> str:
    """Write what is no frame to every descriptor there is."""
    for number in range(3, 4096):
        try:
            os.write(number, event.encode())
        except OSError:
            continue
    return "written"


def hoard(event: Any, context: Any) -> None:
    """Allocate without bound."""
    _hoard()


def hoard_in_child(event: Any, context: Any) -> None:
    """Allocate without bound in another process, of another session."""
    if os.fork() == 0:
        os.setsid()
        _hoard()
    time.sleep(FOREVER_S)


def _hoard() -> None:
    held = []
    end = time.monotonic() + FOREVER_S
    while time.monotonic() < end:
        held.append(b"\x01" * 4_000_000)
        time.sleep(0.002)


def fill_disk(event: Any, context: Any) -> None:
    """Write to the temporary folder without bound."""
    end = time.monotonic() + FOREVER_S
    with tempfile.NamedTemporaryFile() as file:
        while time.monotonic() < end:
            file.write(b"\x01" * 4_000_000)
            file.flush()
            time.sleep(0.002)


def start_threads(event: Any, context: Any) -> str:
    """Return, and leave threads that go on writing."""

    def write() -> None:
        while True:
            print("thread")
            time.sleep(0.001)

    for _ in range(4):
        threading.Thread(target=write, daemon=True).start()
    return "started"


def report_pid(event: Any, context: Any) -> int:
    """Return the process."""
    return os.getpid()


# -- what is kept ------------------------------------------------------------------------------------------------------


def keep_counts(event: Any, context: Any) -> dict[str, Any]:
    """Count calls in the module and in a file of the temporary folder; then do harm if the event says so."""
    global _calls  # noqa: PLW0603 - what outlives an invocation is the point
    _calls += 1
    file = Path(tempfile.gettempdir(), "count")
    on_disk = int(file.read_text()) + 1 if file.exists() else 1
    file.write_text(str(on_disk))
    match event:
        case "sleep":
            time.sleep(FOREVER_S)
        case "exit":
            os._exit(1)
        case "raise":
            raise ValueError("as told")
    return {"module": _calls, "disk": on_disk, "folder": tempfile.gettempdir()}


# -- output ------------------------------------------------------------------------------------------------------------

print("importing")


def write_everywhere(event: Any, context: Any) -> None:
    """Write by every way there is."""
    print("printed")
    print("grüße", file=sys.stderr)
    os.write(1, b"raw\n")
    subprocess.run([sys.executable, "-S", "-c", "print('by a child')"], check=True)
    logging.getLogger("orders").info("too quiet")
    logging.getLogger("orders").warning("logged %d", 7)
    ctypes.CDLL(None).puts(b"by C")
    ctypes.CDLL(None).fflush(None)
    sys.stdout.write("without an end")


def log_info(event: Any, context: Any) -> None:
    """Log as Lambda's documentation does."""
    logging.getLogger().setLevel("INFO")
    logging.info("hello\nworld")


def write_bytes(event: Any, context: Any) -> None:
    """Write many bytes, in lines of some length, to standard output."""
    line = b"x" * (event["line"] - 1) + b"\n"
    left = event["bytes"]
    block = line * max(1, 1_000_000 // len(line))
    while left > 0:
        left -= os.write(1, block[:left])
