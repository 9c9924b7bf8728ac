"""Fair queues: a tenant that floods a standard queue does not make the others wait (§3.2 "Fair queues")."""

from __future__ import annotations

from typing import Any

import anyio

import eventcore
from eventcore.model import Batch
from eventcore.testing import open_pipeline
from eventcore.testing.virtual_pipeline import VirtualPipeline

#: Messages that the noisy tenant sends: 200 s of work at ten batches of ten, two seconds each.
FLOOD = 10_000


class Dwell:
    """A handler that takes two seconds a batch, and remembers when each message began."""

    def __init__(self) -> None:
        self.began: dict[str, float] = {}
        self.order: list[str] = []

    def app(self, **function: Any) -> eventcore.App:
        app = eventcore.App()
        app.queue("orders")

        @app.function("work", runtime="inline", timeout=10, concurrency=10)
        async def work(batch: Batch) -> None:
            for record in batch.records:
                body = (record.body or b"").decode()
                self.began.setdefault(body, anyio.current_time())
                self.order.append(body)
            await anyio.sleep(2)

        app.mapping("orders", source="queue:orders", function="work")
        return app


def flood(pipeline: VirtualPipeline, *, key: str | None) -> None:
    for first in range(0, FLOOD, 1000):
        pipeline.send("queue:orders", [f"noisy-{number}" for number in range(first, first + 1000)], key=key)


def few(pipeline: VirtualPipeline, *, key: str | None) -> float:
    """Send ten messages of the other tenant; return when."""
    sent_s = pipeline.now_s
    pipeline.send("queue:orders", [f"quiet-{number}" for number in range(10)], key=key)
    return sent_s


def test_a_quiet_tenant_does_not_wait_for_a_noisy_ones_messages() -> None:
    dwell = Dwell()
    with open_pipeline(dwell.app()) as pipeline:
        flood(pipeline, key="noisy")
        pipeline.advance(60)
        sent_s = few(pipeline, key="quiet")
        pipeline.run_until_idle()
        waited = [dwell.began[f"quiet-{number}"] - sent_s for number in range(10)]
        # A batch in hand, and the one that was received ahead.
        assert max(waited) <= 4
        # Nothing was lost or came twice, and the noisy tenant had every slot that was free: 1,001 batches, ten at once.
        assert len(dwell.order) == len(dwell.began) == FLOOD + 10
        assert pipeline.now_s <= 230


def test_a_quiet_tenant_is_found_behind_messages_that_were_never_looked_at() -> None:
    dwell = Dwell()
    with open_pipeline(dwell.app()) as pipeline:
        flood(pipeline, key="noisy")
        sent_s = few(pipeline, key="quiet")
        pipeline.run_until_idle()
        # A receive looks at a thousand messages beyond those it takes.
        assert max(dwell.began[f"quiet-{number}"] - sent_s for number in range(10)) <= 12


def test_without_groups_messages_come_as_they_were_sent() -> None:
    dwell = Dwell()
    with open_pipeline(dwell.app()) as pipeline:
        flood(pipeline, key=None)
        few(pipeline, key=None)
        pipeline.run_until_idle()
        expected = [f"noisy-{number}" for number in range(FLOOD)] + [f"quiet-{number}" for number in range(10)]
        assert dwell.order == expected


def test_a_function_sees_the_tenant() -> None:
    seen: list[str] = []

    def work(event: dict[str, Any], context: Any) -> None:
        seen.extend(record["attributes"]["MessageGroupId"] for record in event["Records"])

    app = eventcore.App()
    app.queue("orders")
    app.function("work", runtime="inline")(work)
    app.mapping("orders", source="queue:orders", function="work")
    with open_pipeline(app) as pipeline:
        pipeline.send("queue:orders", ["a"], key="ada")
        pipeline.run_until_idle()
    assert seen == ["ada"]
