"""A process that owns shards, and is killed by its test: `python -m tests.servers.kafka_victim ADDRESS TOPIC GROUP`.

Prints `ready` when it has settled part of what it received and kept failing work; then it holds what it has.
"""

from __future__ import annotations

import sys

import anyio

from eventcore.delivery.ordering import Part, ShardState
from eventcore.testing.conformance.stream import reading
from tests.servers.kafka_cluster import open_cluster

#: What it leaves: the second try of records 2 to 4.
CHECKPOINT = 2
FAILING = ShardState(parts=(Part(last=4, attempt=1, first_failure_ms=1_700_000_000_000, request_id="r-1"),))
#: Its session, milliseconds: how long after its death others wait.
SESSION_TIMEOUT_MS = 2000
#: It ends by itself when nobody kills it, seconds.
LIFETIME_S = 60.0


async def main(address: str, topic: str, group: str) -> None:
    """Own every shard until killed."""
    async with open_cluster(address) as cluster:
        source = cluster.source(topic, group, session_timeout_ms=SESSION_TIMEOUT_MS)
        async with reading(source) as reader:
            await reader.until(lambda: len(reader.bodies(f"{topic}-0")) == 5)
            await reader.settle(f"{topic}-0", CHECKPOINT, FAILING, is_urgent=True)
            print("ready", flush=True)
            await anyio.sleep(LIFETIME_S)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
