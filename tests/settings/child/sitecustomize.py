"""Holds a setting at its default in the engines that a test starts as processes, as `forced` does in its own.

Python imports a module of this name by itself when it starts; the folder stands on the path of such a test alone. What
an engine starts in turn is left as it is: it has its settings from the engine.
"""

from __future__ import annotations

import os
import sys

#: Modules that read settings, as they stand in a command: `python -m eventcore run`.
READERS = {"eventcore", "tests.servers.kafka_victim"}

if READERS & {*sys.orig_argv}:
    from tests.settings.forced import VARIABLE, hold

    hold(os.environ[VARIABLE])
