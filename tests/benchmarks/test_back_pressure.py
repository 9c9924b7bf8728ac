"""A slow handler holds the source up: memory stays where it is, however much is waiting (issue 3, section 2)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

GROWTH_MB_MAX = 20


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_after_a_million_records_is_that_after_a_hundred_thousand() -> None:
    script = Path(__file__).with_name("back_pressure.py")
    done = subprocess.run(
        [sys.executable, str(script), "1000000"], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    growth_mb = measured["resident_mb_after_all"] - measured["resident_mb_after_100000"]
    assert growth_mb <= GROWTH_MB_MAX, measured
    assert measured["made_ahead"] <= 20_000, measured
