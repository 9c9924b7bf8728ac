"""A real engine in a child process, on SQLite, that a test kills: reads a scenario from its arguments.

Run as `python engine_process.py STATE KIND`: KIND is `stream`, `queue`, `fifo`, `events`,
or one of their variants. Invocations and what they saw go to
`STATE/invocations.log`, one JSON line each, written and flushed before the handler returns.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio

import eventcore
from eventcore.app import RunOptions, run_pipeline
from eventcore.engine import event_worker
from eventcore.engine.status import MappingState

POISON = 3
#: What becomes of events that wait for the function.
EVENTS: dict[str, Any] = {
    "maximum_retry_attempts": 0,
    "on_success": "queue:done",
    "on_failure": "queue:failed",
    "dead_letter_queue": "failed",
}
#: Lanes: records whose keys fail, long enough side by side that the second is parked.
FAILING = (POISON, 4)
LANES: dict[str, Any] = {
    "lanes": 2,
    "parking": "queue:parked",
    "retry_schedule": {"kind": "list", "seconds": [1.5]},
}
#: Long enough that what is sent at one moment is nearly always in one window.
WINDOW_S = 900


def build(kind: str, state: Path) -> eventcore.App:
    """One mapping whose function notes what it sees, and fails for `POISON`; some kinds die."""

    async def work(event: dict[str, Any], context: Any) -> None:
        bodies = [
            int(base64.b64decode(record["kinesis"]["data"])) if "kinesis" in record else int(record["body"])
            for record in ([{"body": event}] if kind.startswith("events") else event["Records"])
        ]
        entries = [] if kind.startswith("events") else event["Records"]
        receives = [int(entry["attributes"]["ApproximateReceiveCount"]) for entry in entries if "attributes" in entry]
        with (state / "invocations.log").open("a") as log:
            log.write(json.dumps({"bodies": bodies, "receives": receives}) + "\n")
        if kind == "stream-lanes" and bodies[0] in FAILING:
            raise ValueError("its key fails")
        if kind == "stream-neighbours" and POISON not in bodies:
            # Those before it in its shard are not, those of other shards are still running when it kills.
            await anyio.sleep(0.1 if 1 in bodies else 0.6)
        if kind in {"stream-killer", "stream-neighbours", "events-killer"} and POISON in bodies:
            os.kill(os.getpid(), 9)
        if POISON in bodies and not kind.endswith(("-keys", "-batches")):
            raise ValueError("poison")

    async def add_up(event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Note which records the state stands for, and hand it on with those of this call."""
        bodies = [int(base64.b64decode(record["kinesis"]["data"])) for record in event["Records"]]
        known = event["state"].get("bodies", [])
        with (state / "invocations.log").open("a") as log:
            seen = {"bodies": bodies, "known": known, "is_final": event["isFinalInvokeForWindow"]}
            log.write(json.dumps(seen) + "\n")
        return {"state": {"bodies": [*known, *bodies]}}

    async def end_early(event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Let the state of the first batch end its window, whose final call fails."""
        bodies = [int(base64.b64decode(record["kinesis"]["data"])) for record in event["Records"]]
        is_final = event["isFinalInvokeForWindow"]
        with (state / "invocations.log").open("a") as log:
            log.write(json.dumps({"bodies": bodies, "is_final": is_final, "known": len(str(event["state"]))}) + "\n")
        if is_final:
            raise ValueError("final")
        return {"state": {"large": "x" * (1024 * 1024 if 1 in bodies else 0)}}

    handlers = {"stream-windows": add_up, "stream-window-ends": end_early}
    app = eventcore.App(folder=state)
    keys: dict[str, Any] = {"key": "$", "in_progress_timeout": 1} if kind.endswith("-keys") else {}
    settings = EVENTS if kind.startswith("events") else {}
    app.function("work", runtime="inline", timeout=1, **settings)(handlers.get(kind, work))
    app.queue("failed", fifo_queue=kind.startswith("fifo"))
    if kind.startswith("events"):
        app.queue("done")
        # Else what a killed engine had in hand would show again after half a minute.
        event_worker.LEASE_MARGIN_S = 1
    elif kind.startswith("stream"):
        app.stream("orders", shards=4 if kind == "stream-neighbours" else 1)
        if kind == "stream-lanes":
            app.queue("parked")
        app.http("sink", url=os.environ.get("SINK_URL", "http://127.0.0.1:9/"))
        app.mapping(
            "orders",
            source="stream:orders",
            function="work",
            starting_position="TRIM_HORIZON",
            batch_size=1 if kind == "stream-lanes" else 2,
            maximum_retry_attempts=1,
            bisect_batch_on_function_error=kind != "stream-lanes",
            on_failure="http:sink" if kind == "stream-http" else "queue:failed",
            tumbling_window_in_seconds=WINDOW_S if kind.startswith("stream-window") else None,
            idempotency=keys or None,
            **LANES if kind == "stream-lanes" else {},
        )
    elif kind.startswith("fifo"):
        app.queue(
            "orders",
            fifo_queue=True,
            visibility_timeout=2,
            redrive_policy={"dead_letter_queue": "failed", "max_receive_count": 2},
        )
        app.mapping("orders", source="queue:orders", function="work", batch_size=3 if kind == "fifo-batches" else 1)
    else:
        app.queue(
            "orders",
            visibility_timeout=1,
            redrive_policy={"dead_letter_queue": "failed", "max_receive_count": 2},
        )
        # With keys all of them in one batch: what runs beside it could be in the gap that a test shows by itself.
        batch_size = 10 if keys else 1
        app.mapping("orders", source="queue:orders", function="work", batch_size=batch_size, idempotency=keys or None)
    return app


async def is_done(engine: Any) -> bool:
    """Whether every record is settled or given up and handed over."""
    status = await engine.status()
    for mapping in status.mappings:
        if mapping.state is not MappingState.ENABLED or mapping.running:
            return False
        if mapping.counters.in_flight or mapping.counters.retrying:
            return False
        if any(shard.lag > 0 for shard in mapping.shards):
            return False
    if any(destination.rows for destination in status.destinations):
        return False
    depths = {depth.queue: depth for depth in await engine.store.queue_depths()}
    waiting = [depths[name] for name in ("orders", "events.work") if name in depths]
    return not any(depth.visible or depth.hidden or depth.delayed for depth in waiting)


async def main(state: Path, kind: str) -> None:
    """Run until everything is done, then drain and end; the parent may kill it before."""
    app = build(kind, state)
    options = RunOptions(state=state, targets=app.targets)
    async with (
        run_pipeline(app.loaded(), options) as engine,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(engine.run)
        while not await is_done(engine):  # noqa: ASYNC110 - done is the absence of work: nothing could set an event
            await anyio.sleep(0.02)
        engine.drain()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), sys.argv[2])
