"""What properties need beyond other tests: time, as continuous integration looks at ten times as many examples."""

from __future__ import annotations

from pathlib import Path

import pytest

#: For one property, seconds.
PROPERTY_TIMEOUT_S = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test of this folder the time that its examples take."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(PROPERTY_TIMEOUT_S))
