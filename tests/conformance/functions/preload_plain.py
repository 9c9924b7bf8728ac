"""A module that may be preloaded: it leaves nothing behind."""

import os

IMPORTED_IN = os.getpid()
