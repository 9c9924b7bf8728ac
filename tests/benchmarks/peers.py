"""The same pipeline in other frameworks: one typed record a call, from the topic that our rows read.

They are no dependency of ours. In an environment of its own:

    python -m venv peers
    peers/bin/pip install "faststream[kafka]" "fast-depends[msgspec]" quixstreams faust-streaming
    EVENTCORE_PEERS=peers/bin/python python -m tests.benchmarks peers

Run as `python peers.py NAME '{"address": ..., "topic": ..., "count": ...}'` it prints its figures as our contestants
do. Each is timed from its first record to 95 % of the topic, in the setting that its own documentation has for speed,
and says so below; nothing of ours is imported here.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time

MEASURED = 0.95


class Count:
    """Records so far; at 95 % of the topic it prints the figures and ends the process."""

    def __init__(self, count: int) -> None:
        self.wanted = int(count * MEASURED)
        self.done = 0
        self.began_s = self.cpu_s = 0.0

    def add(self) -> None:
        """Count one record."""
        if not self.done:
            self.began_s, self.cpu_s = time.perf_counter(), time.process_time()
        self.done += 1
        if self.done == self.wanted:
            wall_s, cpu_s = time.perf_counter() - self.began_s, time.process_time() - self.cpu_s
            figures = {"per_s": self.done / wall_s, "cpu_us": cpu_s / self.done * 1e6, "count": self.done}
            # Faust redirects the other one into its log.
            print("FIGURES " + json.dumps(figures), file=sys.__stdout__, flush=True)
            os._exit(0)


def _group(name: str) -> str:
    return f"peer-{name}-{time.monotonic_ns()}"


def faststream(address: str, topic: str, count: int, *, is_committed: bool) -> None:
    """FastStream, one message a call, decoded by msgspec: its fastest serializer.

    At most once, offsets are committed in the background whatever becomes of a message (ACK_FIRST); at least once,
    after each message (ACK).
    """
    import asyncio
    import logging

    import msgspec
    from fast_depends.msgspec import MsgSpecSerializer
    from faststream import AckPolicy, FastStream
    from faststream.kafka import KafkaBroker

    class Order(msgspec.Struct):
        id: int
        customer: str
        amount: float
        currency: str
        note: str

    counter = Count(count)
    broker = KafkaBroker(address, logger=None, serializer=MsgSpecSerializer(), log_level=logging.CRITICAL)
    policy = AckPolicy.ACK if is_committed else AckPolicy.ACK_FIRST

    @broker.subscriber(topic, group_id=_group("faststream"), auto_offset_reset="earliest", ack_policy=policy)
    async def handle(order: Order) -> None:
        assert order.currency == "EUR"
        counter.add()

    asyncio.run(FastStream(broker, logger=None).run())


def faststream_at_most_once(address: str, topic: str, count: int) -> None:
    """Its fastest setting for single messages."""
    faststream(address, topic, count, is_committed=False)


def faststream_at_least_once(address: str, topic: str, count: int) -> None:
    """What compares with ours in what it promises."""
    faststream(address, topic, count, is_committed=True)


def quix(address: str, topic: str, count: int) -> None:
    """Quix Streams on librdkafka: JSON into a dictionary, one call a record, offsets every five seconds (default)."""
    import logging

    from quixstreams import Application

    counter = Count(count)
    app = Application(
        broker_address=address, consumer_group=_group("quix"), auto_offset_reset="earliest", loglevel=logging.CRITICAL
    )

    def handle(order: dict[str, object]) -> None:
        assert order["currency"] == "EUR"
        counter.add()

    frame = app.dataframe(app.topic(topic, value_deserializer="json"))
    frame.update(handle)
    app.run()


def faust(address: str, topic: str, count: int) -> None:
    """Faust (faust-streaming): a record class of five fields, an agent that takes one event at a time."""
    import faust as library

    class Order(library.Record, serializer="json"):
        id: int
        customer: str
        amount: float
        currency: str
        note: str

    counter = Count(count)
    app = library.App(
        _group("faust"),
        broker=f"kafka://{address}",
        consumer_auto_offset_reset="earliest",
        web_enabled=False,
        datadir=tempfile.mkdtemp(prefix="faust-"),
    )
    source = app.topic(topic, value_type=Order)

    @app.agent(source)
    async def handle(orders: library.StreamT) -> None:
        async for order in orders:
            assert order.currency == "EUR"
            counter.add()

    library.Worker(app, loglevel="critical").execute_from_commandline()


if __name__ == "__main__":
    globals()[sys.argv[1]](**json.loads(sys.argv[2]))
