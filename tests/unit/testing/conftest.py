"""Async tests of this folder run in virtual time, by the hook that pytest-asyncio has for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from eventcore.testing.virtual_loop import VirtualTimeLoop, virtual_loop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], VirtualTimeLoop]]:
    return {"virtual": virtual_loop}
