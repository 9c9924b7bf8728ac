"""Consume, run, produce exactly once: what a reader of committed records sees, whatever dies when."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aiokafka import AIOKafkaConsumer

from tests.behaviours.commands import run_process
from tests.servers.engines import PATIENCE_S, EngineFolder, session_lines, until
from tests.servers.kafka_cluster import KafkaCluster

pytestmark = pytest.mark.any_client

PIPELINE = """
[kafka.local]
bootstrap_servers = "{address}"
{session}
{connection}

[functions.work]
handler = "work.handle"
runtime = "{runtime}"
timeout = 30

[mappings.orders]
source = "kafka:local/{topic}"
function = "work"
starting_position = "TRIM_HORIZON"
batch_size = 7
maximum_batching_window_in_seconds = 0
maximum_retry_attempts = 0
bisect_batch_on_function_error = true
consumer_group_id = "{topic}"
results = "kafka:local/{results}"
on_failure = "kafka:local/{failed}"
delivery = "{delivery}"
{filters}
"""

#: Every 50th record can't be worked on; the others are answered by their number, under their key.
HANDLER = """
import time
from pathlib import Path
import msgspec

class Order(msgspec.Struct):
    id: int

def handle(order: Order):
    if order.id % 50 == 3:
        raise ValueError("poison")
    with (Path(__file__).parent / "seen.log").open("a") as log:
        log.write(f"{{order.id}}\\n")
    {body}
    return {{"id": order.id, "made": True}}
"""

PARTITIONS = 2


class Exchange:
    """A topic of orders, the topics of what becomes of them, and engines between."""

    def __init__(self, kafka: KafkaCluster, root: Path, topics: dict[str, str], settings: dict[str, Any]) -> None:
        self.kafka = kafka
        self.topics = topics
        self._root = root
        self._settings = settings
        self._sent = 0

    async def send(self, count: int) -> None:
        """Send orders that nobody has sent before."""
        numbers = range(self._sent, self._sent + count)
        self._sent += count
        for partition in range(PARTITIONS):
            own = [number for number in numbers if number % PARTITIONS == partition]
            for number in own:
                await self.kafka.producer.send(
                    self.topics["topic"], b'{"id": %d}' % number, key=b"k%d" % (number % 10), partition=partition
                )
        await self.kafka.producer.flush()

    def engine(self, number: int = 0) -> EngineFolder:
        """Make an engine's folder."""
        folder = self._root / f"engine-{number}"
        folder.mkdir()
        (folder / "eventcore.toml").write_text(PIPELINE.format(**self.topics, **self._settings))
        (folder / "work.py").write_text(HANDLER.format(body=self._settings["body"]))
        return EngineFolder(folder)

    async def seen(self, topic: str) -> Counter[int]:
        """Return how often each order stands in a topic, as a reader of committed records sees it."""
        bodies = await self.kafka.visible(topic, partitions=PARTITIONS)
        return Counter(_number(json.loads(body)) for body in bodies)

    async def settled(self) -> int:
        """Return how many orders the group has passed."""
        total = 0
        for partition in range(PARTITIONS):
            mark = await self.kafka.committed(self.topics["topic"], self.topics["topic"], partition=partition)
            total += mark.offset if mark is not None else 0
        return total

    async def wait_settled(self) -> None:
        """Wait until every order that was sent is settled."""
        with anyio.fail_after(PATIENCE_S):
            while await self.settled() < self._sent:  # noqa: ASYNC110 - another process sets no event of ours
                await anyio.sleep(0.05)

    async def assert_exactly_once(self, filtered: range = range(0)) -> None:
        """Every order that no filter keeps back is in the results or in the discards, once."""
        results, failed = await self.seen(self.topics["results"]), await self.seen(self.topics["failed"])
        worked_on = set(range(self._sent)) - set(filtered)
        poison = {number for number in worked_on if number % 50 == 3}
        assert failed == Counter(poison)
        assert results == Counter(worked_on - poison)


def _number(value: dict[str, Any]) -> int:
    if "id" in value:
        return int(value["id"])
    # A discard says where its record stands: the partitions take turns.
    ((shard, info),) = value["KafkaBatchInfo"]["recordsInfo"].items()
    return int(info["firstRecordOffset"]) * PARTITIONS + int(shard.rpartition("-")[2])


async def _exchange(kafka: KafkaCluster, root: Path, **settings: Any) -> Exchange:
    topics = {
        "topic": await kafka.create_topic(partitions=PARTITIONS),
        "results": await kafka.create_topic("results", partitions=PARTITIONS),
        "failed": await kafka.create_topic("failed", partitions=PARTITIONS),
    }
    chosen = {"delivery": "exactly_once", "runtime": "inline", "body": "pass", "filters": "", **settings}
    session = session_lines(kafka.connection, timeout_ms=6000)
    here = {"address": kafka.address, "connection": kafka.connection, "session": session}
    return Exchange(kafka, root, topics, {**here, **chosen})


#: Where the engine is killed, one after the other, each some times into its life.
KILLS = [
    "results.after_fence",
    "dispatcher.after_invoke:5",
    "results.after_write:5",
    "settler.after_store:2",
    "settler.before_ack:6",
    "results.before_commit:2",
    "results.after_commit:2",
    "settler.after_ack:6",
]


@pytest.mark.both_clients
async def test_an_engine_that_is_killed_at_every_step_leaves_each_result_once(
    kafka: KafkaCluster, tmp_path: Path
) -> None:
    """The proof that the issue asks for: kills at every step, counted by a reader of committed records."""
    exchange = await _exchange(kafka, tmp_path, connection=kafka.connection + 'group_instance_id = "one"')
    engine = exchange.engine()
    try:
        for point in KILLS:
            await exchange.send(200)
            engine.start(EVENTCORE_KILL_AT=point)
            await until(lambda: engine.exit_code is not None, f"it is killed at {point}")
            assert engine.exit_code == -signal.SIGKILL, (point, engine.log())
        engine.start()
        await exchange.wait_settled()
        assert engine.stop() == 0
    finally:
        engine.end()
    await exchange.assert_exactly_once()
    # The kills have hit: the function ran more often than there are orders.
    assert len((engine.folder / "seen.log").read_text().splitlines()) > len(KILLS) * 200


@pytest.mark.both_clients
async def test_what_is_filtered_moves_the_offset_and_nothing_else(kafka: KafkaCluster, tmp_path: Path) -> None:
    """Transactions around filtered records, and behind the last that a filter lets in; killed on the way."""
    pattern = '{ value = { id = [{ numeric = ["<", 150] }] } }'
    exchange = await _exchange(
        kafka, tmp_path, filters=f"filter_criteria = {{ filters = [{{ pattern = {pattern} }}] }}"
    )
    engine = exchange.engine()
    try:
        await exchange.send(400)
        for point in ("results.after_write:3", "results.before_commit:2", "settler.before_ack:4"):
            engine.start(EVENTCORE_KILL_AT=point)
            await until(lambda: engine.exit_code is not None, f"it is killed at {point}")
            assert engine.exit_code == -signal.SIGKILL, (point, engine.log())
        engine.start()
        await exchange.wait_settled()
        assert engine.stop() == 0
    finally:
        engine.end()
    await exchange.assert_exactly_once(filtered=range(150, 400))
    seen = {int(line) for line in (engine.folder / "seen.log").read_text().splitlines()}
    assert max(seen) < 150


@pytest.mark.both_clients
async def test_an_engine_that_stood_still_is_fenced_off(kafka: KafkaCluster, tmp_path: Path) -> None:
    """A zombie: stopped in a batch, its shards taken by another engine, then let go on."""
    exchange = await _exchange(kafka, tmp_path, body="time.sleep(0.01)")
    first, second = exchange.engine(1), exchange.engine(2)
    await exchange.send(600)
    try:
        first.start()
        seen = first.folder / "seen.log"
        await until(lambda: seen.exists() and len(seen.read_text()) > 300, "the first engine works")
        assert first.process is not None
        first.process.send_signal(signal.SIGSTOP)
        second.start()
        await exchange.wait_settled()
        first.process.send_signal(signal.SIGCONT)
        await exchange.send(100)
        await exchange.wait_settled()
        assert second.stop() == 0
        assert first.stop() == 0
    finally:
        for engine in (first, second):
            engine.end()
    await exchange.assert_exactly_once()


async def test_a_partition_that_is_moved_back_gives_each_result_once_more(kafka: KafkaCluster, tmp_path: Path) -> None:
    """Moved while it works: what it has settled is committed first, and comes once more; all else comes once."""
    exchange = await _exchange(kafka, tmp_path, body="time.sleep(0.002)")
    engine = exchange.engine()
    await exchange.send(400)
    try:
        engine.start()
        seen = engine.folder / "seen.log"
        await until(lambda: seen.exists() and len(seen.read_text()) > 300, "the engine works")
        moved = ("mapping", "seek", "orders", "--to", "beginning", "--shard", f"{exchange.topics['topic']}-0")
        done = await anyio.to_thread.run_sync(lambda: run_process(*moved, cwd=engine.folder))
        assert done.returncode == 0, done.stderr
        await exchange.wait_settled()
        told = ("-o", "json", "mapping", "log", "orders")
        log = await anyio.to_thread.run_sync(lambda: run_process(*told, cwd=engine.folder))
        assert engine.stop() == 0
    finally:
        engine.end()
    (entry,) = json.loads(log.stdout)
    where = re.fullmatch(r"from (\d+) to 0", entry["detail"])
    assert where is not None
    again = Counter(range(0, int(where[1]) * PARTITIONS, PARTITIONS))
    assert again
    expected = Counter(range(400)) + again
    results, failed = await exchange.seen(exchange.topics["results"]), await exchange.seen(exchange.topics["failed"])
    assert failed == Counter({number: count for number, count in expected.items() if number % 50 == 3})
    assert results == Counter({number: count for number, count in expected.items() if number % 50 != 3})


@pytest.mark.parametrize("runtime", ["inline", "process"])
async def test_results_are_sent_on_under_their_records_key_in_order(
    kafka: KafkaCluster, tmp_path: Path, runtime: str
) -> None:
    """At least once: without transactions, and all the same before the offset moves."""
    exchange = await _exchange(kafka, tmp_path, delivery="at_least_once", runtime=runtime)
    await exchange.send(200)
    engine = exchange.engine()
    try:
        engine.start()
        await exchange.wait_settled()
        assert engine.stop() == 0
    finally:
        engine.end()
    await exchange.assert_exactly_once()
    reader = AIOKafkaConsumer(exchange.topics["results"], bootstrap_servers=kafka.address, auto_offset_reset="earliest")
    await reader.start()
    try:
        records = [record for batch in (await reader.getmany(timeout_ms=3000)).values() for record in batch]
    finally:
        await reader.stop()
    by_key: dict[bytes | None, list[int]] = {}
    for record in records:
        by_key.setdefault(record.key, []).append(json.loads(record.value)["id"])
    assert set(by_key) == {b"k%d" % number for number in range(10)}
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
