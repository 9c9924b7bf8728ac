"""A program of its own: becomes another one, which the kernel ends when its parent ends, however that happens.

`python tied.py PARENT COMMAND…`. A broker that outlives its command would hold the port with nobody to stop it. Where
the kernel can't do that (macOS), the command's own end is all there is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        # It may have ended before the kernel was asked.
        if os.getppid() != int(sys.argv[1]):
            sys.exit(1)
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - that is what it is for
