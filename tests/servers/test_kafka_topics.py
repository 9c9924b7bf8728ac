"""Topics by expression: found while it runs, told apart everywhere, and waited for."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from eventcore.config.reference import Reference
from eventcore.ports.connectors import StartingPosition
from eventcore.ports.sources import StreamSource
from eventcore.testing.conformance.stream import reading
from eventcore_connectors.kafka import connector
from tests.behaviours.commands import ask, run_process, running
from tests.servers.kafka_cluster import KafkaCluster

pytestmark = pytest.mark.any_client

LOOKED_FOR_EVERY_MS = 200


def read_matching(kafka: KafkaCluster, prefix: str, **more: Any) -> StreamSource:
    """Return a source of the topics with a prefix."""
    return kafka.source(f"^{prefix}-", f"{prefix}-g", metadata_max_age_ms=LOOKED_FOR_EVERY_MS, **more)


@pytest.mark.both_clients
async def test_topics_that_match_are_read_also_those_that_come_later(kafka: KafkaCluster) -> None:
    """Shards carry their topic's name, and each topic its own checkpoints; what only looks alike is left alone."""
    prefix = await kafka.create_topic("eu")  # itself without the hyphen behind it
    first = await kafka.create_topic(prefix, partitions=2)
    await kafka.send(prefix, [b"not me"])
    await kafka.send(first, [b"0", b"1"], partition=1)
    async with reading(read_matching(kafka, prefix)) as reader:
        await reader.until(lambda: reader.bodies(f"{first}-1") == [b"0", b"1"])
        await reader.settle(f"{first}-1", 1, is_urgent=True)
        second = await kafka.create_topic(prefix)
        await kafka.send(second, [b"later"])
        await reader.until(lambda: reader.bodies(f"{second}-0") == [b"later"])
        assert set(reader.taken) == {f"{first}-0", f"{first}-1", f"{second}-0"}
        await reader.settle(f"{second}-0", 1, is_urgent=True)
        assert {lag.shard: lag.lag for lag in await reader.source.lag()} == {
            f"{first}-0": 0,
            f"{first}-1": 1,
            f"{second}-0": 0,
        }
    for topic, partition in ((first, 1), (second, 0)):
        mark = await kafka.committed(f"{prefix}-g", topic, partition=partition)
        assert mark is not None
        assert mark.offset == 1


async def test_a_topic_that_comes_later_begins_with_its_first_record_after_latest_too(kafka: KafkaCluster) -> None:
    prefix = await kafka.create_topic("latest")
    old = await kafka.create_topic(prefix)
    await kafka.send(old, [b"old"])
    source = read_matching(kafka, prefix, starting_position=StartingPosition("LATEST"))
    async with reading(source) as reader:
        await reader.until(lambda: f"{old}-0" in reader.taken)
        new = await kafka.create_topic(prefix)
        await kafka.send(new, [b"new"])
        await reader.until(lambda: reader.bodies(f"{new}-0") == [b"new"])
        assert reader.bodies(f"{old}-0") == []


@pytest.mark.both_clients
async def test_members_of_a_group_share_the_topics_and_one_that_is_deleted_is_given_up(kafka: KafkaCluster) -> None:
    prefix = await kafka.create_topic("shared")
    topics = [await kafka.create_topic(prefix) for _ in range(2)]
    everything = {f"{topic}-0" for topic in topics}
    async with reading(read_matching(kafka, prefix)) as one, reading(read_matching(kafka, prefix)) as other:
        await one.until(lambda: len(one.taken) == 1 and len(other.taken) == 1)
        assert set(one.taken) | set(other.taken) == everything
        await kafka.delete_topic(topics[0])
        await one.until(lambda: set(one.taken) | set(other.taken) == {f"{topics[1]}-0"})


async def test_the_brokers_own_topics_match_nothing(kafka: KafkaCluster) -> None:
    """`__consumer_offsets` is there, as a group has been."""
    topic = await kafka.create_topic("beside")
    source = kafka.source(f"^(__|{topic})", f"{topic}-g", metadata_max_age_ms=LOOKED_FOR_EVERY_MS)
    async with reading(source) as reader:
        await reader.until(lambda: bool(reader.taken))
        assert set(reader.taken) == {f"{topic}-0"}


async def test_topics_that_are_not_there_yet_are_waited_for(kafka: KafkaCluster) -> None:
    """And said to be, until there is one."""
    prefix = await kafka.create_topic("awaited")
    async with reading(read_matching(kafka, prefix)) as reader:
        await reader.until(lambda: f"`^{prefix}-`" in reader.source.waits_for)
        assert kafka.address in reader.source.waits_for
        topic = await kafka.create_topic(prefix)
        await reader.until(lambda: f"{topic}-0" in reader.taken)
        assert reader.source.waits_for == ""


async def test_a_check_names_what_matches(kafka: KafkaCluster) -> None:
    prefix = await kafka.create_topic("checked")
    # Their line is in the order of their names: "-9" stands behind "-10".
    first = await kafka.create_topic(f"{prefix}-a", partitions=2)
    second = await kafka.create_topic(f"{prefix}-b")
    line = await connector.check(Reference("kafka", "local", f"^{prefix}-"), kafka.config())
    assert line.endswith(f"topics that match `^{prefix}-`: 2, partitions: `{first}` with 2, `{second}` with 1")
    line = await connector.check(Reference("kafka", "local", "^no-such-topic"), kafka.config())
    assert line.endswith("topics that match `^no-such-topic`: 0, partitions: none")


async def test_a_range_of_several_topics_is_read(kafka: KafkaCluster) -> None:
    """What replays and seeks of such a mapping use."""
    prefix = await kafka.create_topic("ranged")
    topics = [await kafka.create_topic(prefix) for _ in range(2)]
    for topic in topics:
        await kafka.send(topic, [topic.encode()])
    source = connector.open_range(Reference("kafka", "local", f"^{prefix}-"), kafka.config())
    try:
        assert {extent.shard: extent.end for extent in await source.open()} == {f"{topic}-0": 1 for topic in topics}
        for topic in topics:
            assert [record.body for record in (await source.read(f"{topic}-0", 0, 1, count_max=9)).records] == [
                topic.encode()
            ]
    finally:
        await source.aclose()


PIPELINE = """
[kafka.local]
bootstrap_servers = "{address}"
{connection}
metadata_max_age_ms = 200

[functions.work]
handler = "work.handle"

[mappings.orders]
source = "kafka:local/^{prefix}-"
function = "work"
starting_position = "TRIM_HORIZON"
maximum_retry_attempts = 0
maximum_batching_window_in_seconds = 0
on_failure = "queue:failed"

[queues.failed]
message_retention_period = 1_209_600
"""
HANDLER = """
def handle(event, context):
    ((shard, records),) = event["records"].items()
    print("seen", shard, *[record["topic"] for record in records])
    if shard.endswith("-1"):
        raise ValueError("no")
"""


def play(folder: Path, prefix: str, topics: list[str], go_on: Callable[[int, bytes], None]) -> None:
    """Run the pipeline while the topics come, and ask for everything that names one."""
    with running("-v", "run", cwd=folder) as engine:
        engine.wait_line("mapping.state_changed", f"^{prefix}-")
        (mapping,) = ask("status", cwd=folder)["mappings"]
        assert (mapping["state"], mapping["shards"]) == ("Enabled", [])
        assert f"`^{prefix}-`" in mapping["reason"]
        assert f"^{prefix}-" in run_process("status", cwd=folder).stdout
        go_on(1, b"good")
        engine.wait_line("batch.settled", f"{topics[0]}-0")
        go_on(2, b"poison")
        engine.wait_line("records.discarded", f"{topics[1]}-1")
        (mapping,) = ask("status", cwd=folder)["mappings"]
        (failure,) = ask("failures", "ls", cwd=folder)
        engine.send_signal(signal.SIGTERM)
        assert engine.wait() == 0
    assert mapping["reason"] == ""
    assert {entry["shard"] for entry in mapping["shards"]} == {f"{topics[0]}-0", f"{topics[1]}-0", f"{topics[1]}-1"}
    assert (failure["source"], failure["shard"]) == (f"kafka:local/^{prefix}-", f"{topics[1]}-1")
    (message,) = ask("queue", "peek", "failed", cwd=folder)
    assert f'"{topics[1]}-1"' in message["body"]
    retried = run_process("failures", "retry", failure["id"], cwd=folder)
    assert "failed again: ValueError: no" in retried.stdout


async def test_an_engine_waits_for_topics_says_so_and_tells_them_apart(tmp_path: Path, kafka: KafkaCluster) -> None:
    """Status, log, event, failure and on-failure record name the topic that each is about."""
    prefix = await kafka.create_topic("several")
    (tmp_path / "eventcore.toml").write_text(
        PIPELINE.format(address=kafka.address, connection=kafka.connection, prefix=prefix)
    )
    (tmp_path / "work.py").write_text(HANDLER)
    topics: list[str] = []

    async def bring_topic(partitions: int, body: bytes) -> None:
        topics.append(await kafka.create_topic(prefix, partitions=partitions))
        await kafka.send(topics[-1], [body], partition=partitions - 1)

    await anyio.to_thread.run_sync(play, tmp_path, prefix, topics, partial(anyio.from_thread.run, bring_topic))
