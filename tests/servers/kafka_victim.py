"""A process that owns shards, and is killed by its test.

Called as `python -m tests.servers.kafka_victim ADDRESS TOPIC GROUP SETTINGS`: the last in JSON, of the connection.

Prints `ready` when it has settled part of what it received and kept failing work; then it holds what it has. After a
line of its input it settles one record more, and prints `lost` when that is refused.
"""

from __future__ import annotations

import json
import sys

import anyio
import anyio.to_thread

from eventcore.delivery.ordering import Part, ShardState
from eventcore.errors import ShardLost
from eventcore.testing.conformance.stream import reading
from tests.servers.kafka_cluster import open_cluster

#: What it leaves: the second try of records 2 to 4.
CHECKPOINT = 2
FAILING = ShardState(parts=(Part(last=4, attempt=1, first_failure_ms=1_700_000_000_000, request_id="r-1"),))
#: Its session, milliseconds: how long after its death others wait.
SESSION_TIMEOUT_MS = 2000
#: It ends by itself when nobody kills it, seconds.
LIFETIME_S = 60.0


async def main(address: str, topic: str, group: str, settings: str) -> None:
    """Own every shard until killed."""
    async with open_cluster(address) as cluster:
        cluster.client_settings = json.loads(settings)
        source = cluster.source(topic, group, session_timeout_ms=SESSION_TIMEOUT_MS)
        async with reading(source) as reader:
            await reader.until(lambda: len(reader.bodies(f"{topic}-0")) == 5)
            epoch = reader.taken[f"{topic}-0"].epoch
            await source.settle(f"{topic}-0", epoch, CHECKPOINT, FAILING, is_urgent=True)
            print("ready", flush=True)
            with anyio.move_on_after(LIFETIME_S):
                await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
                try:
                    await source.settle(f"{topic}-0", epoch, CHECKPOINT + 1, FAILING, is_urgent=True)
                except ShardLost:
                    print("lost", flush=True)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
