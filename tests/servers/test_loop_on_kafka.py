"""A loop through topics of a real Kafka ends: the lineage travels in a header of every result."""

from __future__ import annotations

from pathlib import Path

from tests.servers.engines import EngineFolder, until
from tests.servers.kafka_cluster import KafkaCluster

PIPELINE = """
[kafka.local]
bootstrap_servers = "{address}"

[functions.work]
handler = "work.handle"
runtime = "inline"

[mappings.there]
source = "kafka:local/{there}"
function = "work"
starting_position = "TRIM_HORIZON"
maximum_batching_window_in_seconds = 0
results = "kafka:local/{back}"
on_failure = "kafka:local/{failed}"

[mappings.back]
source = "kafka:local/{back}"
function = "work"
starting_position = "TRIM_HORIZON"
maximum_batching_window_in_seconds = 0
results = "kafka:local/{there}"
on_failure = "kafka:local/{failed}"
"""
HANDLER = """
from pathlib import Path
import msgspec

class Order(msgspec.Struct):
    id: int

async def handle(order: Order):
    with (Path(__file__).parent / "rounds.log").open("a") as log:
        log.write("round\\n")
    return {"id": order.id}
"""
#: Invocations of one function in a chain (Lambda semantics §2.3).
ROUNDS_MAX = 16


async def test_two_mappings_that_feed_each_other_stop(kafka: KafkaCluster, tmp_path: Path) -> None:
    names = {name: await kafka.create_topic(name) for name in ("there", "back", "failed")}
    (tmp_path / "eventcore.toml").write_text(PIPELINE.format(address=kafka.address, **names))
    (tmp_path / "work.py").write_text(HANDLER)
    engine = EngineFolder(tmp_path)
    try:
        engine.start()
        await kafka.send(names["there"], [b'{"id": 1}'], key=b"k")
        await until(lambda: "Recursion" in engine.log(), "the loop ends")
        assert engine.stop() == 0
        assert (tmp_path / "rounds.log").read_text().splitlines() == ["round"] * ROUNDS_MAX
        # Not to a topic, which may be a part of the loop.
        assert "reason=Recursion" in engine.log()
        assert "destination=queue:discards" in engine.log()
    finally:
        engine.end()
