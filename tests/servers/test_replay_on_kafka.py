"""`eventcore replay` of a real topic: by offset and by time, and the group's offsets stay where they are."""

from __future__ import annotations

import shlex
from pathlib import Path

import anyio
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from tests.behaviours.commands import run_process
from tests.servers.kafka_cluster import KafkaCluster

pytestmark = pytest.mark.any_client

PIPELINE = """
[kafka.local]
bootstrap_servers = "{address}"
{connection}

[functions.work]
handler = "work.handle"

[mappings.orders]
source = "kafka:local/{topic}"
function = "work"
starting_position = "TRIM_HORIZON"
consumer_group_id = "{topic}"
batch_size = 3
maximum_retry_attempts = 0
"""

HANDLER = """
import base64
def handle(event, context):
    for records in event["records"].values():
        for record in records:
            body = base64.b64decode(record["value"]).decode()
            print("saw", body)
            if body == "3":
                raise ValueError("no three")
"""


async def commit(kafka: KafkaCluster, topic: str, offset: int) -> OffsetAndMetadata:
    """Be the mapping's group for a moment."""
    mark = OffsetAndMetadata(offset, "not to be touched")
    async with AIOKafkaConsumer(bootstrap_servers=kafka.address, group_id=topic, enable_auto_commit=False) as member:
        partition = TopicPartition(topic, 0)
        member.assign([partition])
        await member.commit({partition: mark})
    return mark


async def type_command(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    done = await anyio.to_thread.run_sync(lambda: run_process(*arguments, cwd=cwd))
    return done.returncode, done.stdout, done.stderr


async def test_a_topic_is_run_again_by_offset_and_by_time(kafka: KafkaCluster, tmp_path: Path) -> None:
    topic = await kafka.create_topic(partitions=2)
    for number in range(8):
        await kafka.send(topic, [str(number).encode()], partition=number % 2, timestamp_ms=1_700_000_000_000 + number)
    async with kafka.transactions() as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted", partition=0)
        await producer.abort_transaction()
    committed = await commit(kafka, topic, 3)
    (tmp_path / "eventcore.toml").write_text(
        PIPELINE.format(address=kafka.address, connection=kafka.connection, topic=topic)
    )
    (tmp_path / "work.py").write_text(HANDLER)

    async def replay(*arguments: str) -> tuple[int, str, str]:
        return await type_command("replay", f"kafka:local/{topic}", *arguments, cwd=tmp_path)

    code, out, notes = await replay("--from", "beginning", "--yes")
    assert "runs up to 10 records" in notes  # the aborted one, and the marker behind it
    assert (code, out) == (6, "ran 8 records in 4 invocations, 3 records failed\n")
    assert f"{topic}-1 [0-2] failed: ValueError: no three" in notes
    code, out, notes = await replay("--from", "2", "--partition", "0", "--yes")
    assert (code, out) == (0, "ran 2 records in 1 invocation\n")
    assert [line for line in notes.splitlines() if "saw" in line] == ["work | saw 4", "work | saw 6"]
    code, out, notes = await replay("--from", "2023-11-14T22:13:20.006+00:00", "--yes")
    assert (code, out) == (0, "ran 2 records in 2 invocations\n")
    assert await kafka.committed(topic, topic) == committed
    assert await kafka.members(topic) == []


async def test_topics_of_an_expression_are_run_again_together_or_alone(kafka: KafkaCluster, tmp_path: Path) -> None:
    first, second = await kafka.create_topic("again"), await kafka.create_topic("again")
    await kafka.send(first, [b"1", b"2"])
    await kafka.send(second, [b"3"])
    both = f"^({first}|{second})$"
    pipeline = PIPELINE.replace("{topic}", both, 1).format(
        address=kafka.address, connection=kafka.connection, topic=first
    )
    (tmp_path / "eventcore.toml").write_text(pipeline)
    (tmp_path / "work.py").write_text(HANDLER)
    code, out, notes = await type_command("replay", f"kafka:local/{both}", "--from", "0", "--yes", cwd=tmp_path)
    assert (code, out) == (6, "ran 3 records in 2 invocations, 1 record failed\n")
    _, _, once_more = notes.partition("alone, once more: eventcore ")
    code, out, notes = await type_command(*shlex.split(once_more), "--yes", cwd=tmp_path)
    assert (code, out) == (6, "ran 1 record in 1 invocation, 1 record failed\n")
    code, out, notes = await type_command("replay", f"kafka:local/{first}", "--from", "0", "--yes", cwd=tmp_path)
    assert (code, out) == (0, "ran 2 records in 1 invocation\n")
