"""Handlers for what only the process runtime does: freezing, preloading, spawning."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from eventcore.model import Outcome, OutcomeKind
from eventcore.runtime import protocol

IMPORTED_IN = os.getpid()


def describe(event, context):
    return {
        "pid": os.getpid(),
        "imported_in": IMPORTED_IN,
        "parent": os.getppid(),
        "modules": sorted(name for name in sys.modules if name.startswith("preload_")),
        "environment": dict(os.environ),
        "path": sys.path,
    }


def tick(event, context):
    """Return, and leave a thread that counts into a file."""

    def count():
        for number in range(1_000_000):
            Path(event).write_text(str(number))
            time.sleep(0.005)

    threading.Thread(target=count, daemon=True).start()
    return os.getpid()


def forge_reply(event, context):
    """Answer for another invocation, in a frame as good as any."""
    reply = protocol.Reply("another", Outcome(kind=OutcomeKind.SUCCESS, response=b'"forged"'), 0)
    for number in range(1000, 1024):
        with contextlib.suppress(OSError):
            os.write(number, protocol.encode(reply))
    return "own"


def list_childs_descriptors(event, context):
    """Return which descriptors a program has that this process starts without closing any."""
    script = "import os; print(*os.listdir('/proc/self/fd'))"
    command = [sys.executable, "-S", "-c", script]
    done = subprocess.run(command, close_fds=False, capture_output=True, check=True)
    return sorted(map(int, done.stdout.split()))


def linger(event, context):
    time.sleep(event)
    return os.getpid()


def kill_parent(event, context):
    os.kill(os.getppid(), 9)
    time.sleep(60)
