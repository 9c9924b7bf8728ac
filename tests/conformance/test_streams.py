"""Embedded streams keep the promises of their kit, on every store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eventcore.store.memory import open_memory_store
from eventcore.testing.conformance.stream import StreamConformance, StreamUnderTest
from tests.conformance.embedded_sources import AdjustableClock, open_stream


class TestStreamInMemory(StreamConformance):
    @pytest.fixture
    async def stream(self) -> AsyncIterator[StreamUnderTest]:
        async with open_stream(open_memory_store, AdjustableClock()) as stream:
            yield stream
