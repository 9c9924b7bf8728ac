"""What is given up is kept under an id of its own, whatever its code's folder looks like (design §3, §12)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import eventcore
from eventcore.store.memory import open_memory_store
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.orders import play, send_numbers


async def _fail(event: dict[str, Any], context: Any) -> None:
    raise ValueError("always")


def _app(stream: str, folder: Path | None = None) -> eventcore.App:
    app = eventcore.App()
    app.stream(stream, shards=1)
    app.queue("failed")
    code: dict[str, Any] = {} if folder is None else {"code": str(folder)}
    app.function("work", runtime="inline", **code)(_fail)
    app.mapping(
        "orders",
        source=f"stream:{stream}",
        function="work",
        starting_position="TRIM_HORIZON",
        maximum_retry_attempts=0,
        on_failure="queue:failed",
    )
    return app


def test_of_two_streams_that_one_mapping_has_read() -> None:
    """Equal shards and positions of another source are other records: both failures are kept, both are discarded."""

    async def run() -> None:
        async with open_memory_store() as store:
            for stream in ("first", "second"):
                async with open_harness(_app(stream), store=store) as harness:
                    await send_numbers(harness, 1, source=f"stream:{stream}")
                    await harness.run_until_idle()
                    failures = await harness.failures()
                    messages = await harness.messages("failed")
        assert sorted(failure.source for failure in failures) == ["stream:first", "stream:second"]
        assert len({dict(message.headers)["eventcore-failure-id"] for message in messages}) == 2

    run_virtual(run)


def _loop(folder: Path) -> None:
    (folder / "itself.py").symlink_to("itself.py")


def _unreadable(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("the superuser reads every folder")
    (folder / "database").mkdir(mode=0)


@pytest.mark.parametrize("spoil", [_loop, _unreadable])
def test_of_code_in_a_folder_that_can_not_be_read_as_a_whole(spoil: Any, tmp_path: Path) -> None:
    """Another program's data below the code is no reason to give nothing up."""
    spoil(tmp_path)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.run_until_idle()
        (failure,) = await harness.failures()
        assert failure.code_hash
        assert len(await harness.messages("failed")) == 1

    play(_app("orders", tmp_path), scenario)
