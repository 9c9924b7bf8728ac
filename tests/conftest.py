"""What every test shares: how hard the properties look, that no test leaves a hook behind, and the last summary."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from eventcore import signals
from tests.conformance.recorded_summary import summarise

# What scenarios assert is told as what a test asserts.
pytest.register_assert_rewrite("tests.conformance.scenarios", "tests.simulation")

# No deadlines: on a shared machine a slow example says nothing about the code.
settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile(
    "ci", max_examples=500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("nightly", max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# A shell ignores Ctrl-C in what it starts in the background, and the programs that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(autouse=True)
def _no_hooks_are_left() -> Iterator[None]:
    yield
    signals.clear_hooks()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end which of the recorded cases passed, are refused, awaited or not applicable, by family."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    if lines := summarise(reports):
        terminalreporter.section("recorded cases of event source mappings")
        for line in lines:
            terminalreporter.write_line(line)
