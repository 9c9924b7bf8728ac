"""What the connector promises before it is connected."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer

from eventcore.clock import SystemClock
from eventcore.config.reference import Reference
from eventcore.config.structs import KafkaConfig
from eventcore.errors import ConnectorUnavailable, ProgrammingError
from eventcore.ids import SeededIds
from eventcore.ports.connectors import ConnectorContext, StartingPosition, StreamRequest
from eventcore_connectors.kafka import connector, member, reader, sender
from eventcore_connectors.kafka.librdkafka.settings import member_settings

REFERENCE = Reference("kafka", "local", "orders")
CONTEXT = ConnectorContext(clock=SystemClock(), ids=SeededIds(1), region="us-east-1", account_id="000000000000")
#: Every setting, none at its default.
SETTINGS: Mapping[str, Any] = {
    "bootstrap_servers": "127.0.0.1:1",
    "client_id": "mine",
    "client": "aiokafka",
    "group_protocol": "classic",
    "session_timeout_ms": 6001,
    "heartbeat_interval_ms": 1001,
    "max_poll_interval_ms": 8001,
    "rebalance_timeout_ms": 9001,
    "request_timeout_ms": 7001,
    "metadata_max_age_ms": 60_001,
    "fetch_max_bytes": 2_000_000,
    "max_partition_fetch_bytes": 300_000,
    "isolation_level": "read_uncommitted",
    "group_instance_id": "engine-1",
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "SCRAM-SHA-256",
    "sasl_plain_username": "ada",
    "sasl_plain_password": "s3cret",
    "ssl_check_hostname": False,
}
#: Files, which the client gets as what is in them (tests/servers/test_kafka_security.py).
IN_FILES = {"sasl_oauth_token_file", "ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password"}


def make_request(config: KafkaConfig) -> StreamRequest:
    """Return a request for the topic `orders`."""
    return StreamRequest(
        reference=REFERENCE,
        connection=config,
        mapping="orders",
        starting_position=StartingPosition("LATEST"),
        consumer_group_id="a-group",
        records_ahead_max=10,
        context=CONTEXT,
    )


def test_it_is_found_by_its_kind() -> None:
    """The entry point `kafka` leads to the connector."""
    (found,) = entry_points(group="eventcore.connectors", name="kafka")
    assert found.load() is connector
    assert connector.kind == "kafka"


def test_loading_it_imports_no_client_library() -> None:
    """A pipeline without Kafka does not pay for aiokafka."""
    code = "import sys, eventcore_connectors.kafka; sys.exit('aiokafka' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_client_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is the command."""
    monkeypatch.setitem(sys.modules, "eventcore_connectors.kafka.source", None)
    with pytest.raises(ConnectorUnavailable, match=r"^pip install .*aiokafka"):
        connector.open_stream(make_request(KafkaConfig(bootstrap_servers="127.0.0.1:1")))


class _Asked(Exception):
    pass


def test_every_setting_reaches_the_client_under_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the pipeline file is accepted and ignored."""
    asked: dict[str, Any] = {}

    def client(**settings: Any) -> None:
        asked.update(settings)
        raise _Asked

    monkeypatch.setattr(reader, "AIOKafkaConsumer", client)
    with pytest.raises(_Asked):
        member.GroupMember(msgspec.convert(SETTINGS, KafkaConfig), "orders", "a-group")
    assert set(SETTINGS) | IN_FILES == set(KafkaConfig.__struct_fields__), "a new setting needs a place in the client"
    asked["ssl_check_hostname"] = asked.pop("ssl_context").check_hostname
    # Which client it is, and the protocol that this one has no choice of.
    ours = {"client", "group_protocol"}
    assert {name: asked[name] for name in SETTINGS.keys() - ours} == {
        name: value for name, value in SETTINGS.items() if name not in ours
    }
    assert asked["group_id"] == "a-group"
    assert asked["enable_auto_commit"] is False


def test_every_setting_reaches_librdkafka_under_its_name() -> None:
    """Nor by the other client: each is there, and nothing is left at a default of librdkafka's that we measured."""
    asked = member_settings(msgspec.convert(SETTINGS, KafkaConfig), "a-group", lambda: 0)
    for name in ("bootstrap_servers", "client_id", "session_timeout_ms", "heartbeat_interval_ms", "fetch_max_bytes"):
        assert asked[name.replace("_", ".")] == SETTINGS[name]
    for name in ("max_partition_fetch_bytes", "isolation_level", "group_instance_id", "security_protocol"):
        assert asked[name.replace("_", ".")] == SETTINGS[name]
    assert (asked["group.id"], asked["group.protocol"]) == ("a-group", "classic")
    assert asked["max.poll.interval.ms"] == SETTINGS["rebalance_timeout_ms"], "how long a rebalance waits"
    assert asked["socket.timeout.ms"] == SETTINGS["request_timeout_ms"]
    assert asked["topic.metadata.refresh.interval.ms"] == SETTINGS["metadata_max_age_ms"]
    assert (asked["sasl.mechanism"], asked["sasl.username"], asked["sasl.password"]) == (
        "SCRAM-SHA-256",
        "ada",
        "s3cret",
    )
    assert asked["ssl.endpoint.identification.algorithm"] == "none"
    assert asked["enable.auto.commit"] is False
    assert (asked["fetch.queue.backoff.ms"], asked["queued.max.messages.kbytes"]) == (5, 16 * 1024)


def test_librdkafka_takes_every_setting() -> None:
    """It refuses what it does not know, and what contradicts itself."""
    smallest = {**SETTINGS, "fetch_max_bytes": 1024, "max_partition_fetch_bytes": 1024}
    for settings in (smallest, {**smallest, "group_protocol": "consumer"}, {"bootstrap_servers": "127.0.0.1:1"}):
        Consumer(member_settings(msgspec.convert(settings, KafkaConfig), "a-group", lambda: 0)).close()


def test_a_missing_librdkafka_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is the command."""
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(ConnectorUnavailable, match=r"^pip install .*eventcore-engine\[librdkafka\]"):
        connector.open_stream(make_request(KafkaConfig(bootstrap_servers="127.0.0.1:1", client="librdkafka")))


def test_a_producer_waits_for_all_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing counts as handed over before it is durable, and nothing is written twice by a resend."""
    asked: dict[str, Any] = {}

    def client(**settings: Any) -> None:
        asked.update(settings)
        raise _Asked

    monkeypatch.setattr(sender, "AIOKafkaProducer", client)
    with pytest.raises(_Asked):
        sender.Sender(msgspec.convert(SETTINGS, KafkaConfig), "orders")
    shared = ("bootstrap_servers", "client_id", "request_timeout_ms")
    assert {name: asked[name] for name in shared} == {name: SETTINGS[name] for name in shared}
    assert (asked["acks"], asked["enable_idempotence"]) == ("all", True)


async def test_a_source_that_is_not_open_says_so() -> None:
    """Use before `open` is the caller's mistake; closing is not."""
    source = connector.open_stream(make_request(KafkaConfig(bootstrap_servers="127.0.0.1:1")))
    with pytest.raises(ProgrammingError):
        await source.receive(wait_s=0)
    with pytest.raises(ProgrammingError):
        await source.lag()
    source.pause("orders-0")
    source.resume("orders-0")
    await source.aclose()
