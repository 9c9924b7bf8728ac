"""A key function of a process-isolated function runs in an environment, and never in the engine (design §8)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.behaviours.commands import run, running, write_pipeline

pytestmark = pytest.mark.slow

PIPELINE = """
[queues.orders]

[functions.work]
handler = "handlers.work"
environment = { SHOP = "north" }

[mappings.orders]
source = "queue:orders"
function = "work"
idempotency = { key_function = "handlers.key_of" }
"""

HANDLERS = """
import os
import eventcore

def key_of(record: eventcore.Record) -> str:
    print("asked in", os.getpid(), os.environ["SHOP"])
    return record.body.decode().strip().lower()

def work(batch: eventcore.Batch) -> None:
    for record in batch:
        print("worked on", record.body.decode())
"""


def test_it_runs_in_an_environment_with_the_functions_own_settings(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, HANDLERS, PIPELINE)
    with running("dev", cwd=folder) as engine:
        for body, said in [("First", "worked on First"), (" first ", "asked in"), ("second", "worked on second")]:
            assert run("send", "queue:orders", body, cwd=folder).returncode == 0
            engine.wait_line(said)
        engine.send_signal(signal.SIGTERM)
        assert engine.wait() == 0
    asked = [line.split("asked in ")[1].split() for line in engine.lines if "asked in" in line]
    assert len(asked) == 3
    assert all(shop == "north" and pid != str(engine.process.pid) for pid, shop in asked)
    assert [line.split("worked on ")[1] for line in engine.lines if "worked on" in line] == ["First", "second"]
