"""What the connector promises before it is connected."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

import msgspec
import pytest

from eventcore.clock import SystemClock
from eventcore.config.reference import Reference
from eventcore.config.structs import KafkaConfig
from eventcore.errors import ConnectorUnavailable, ProgrammingError
from eventcore.ids import SeededIds
from eventcore.ports.connectors import ConnectorContext, StartingPosition, StreamRequest
from eventcore_connectors.kafka import connector, member, reader, sender

REFERENCE = Reference("kafka", "local", "orders")
CONTEXT = ConnectorContext(clock=SystemClock(), ids=SeededIds(1), region="us-east-1", account_id="000000000000")
#: Every setting, none at its default.
SETTINGS: Mapping[str, Any] = {
    "bootstrap_servers": "127.0.0.1:1",
    "client_id": "mine",
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
    assert {name: asked[name] for name in SETTINGS} == SETTINGS
    assert asked["group_id"] == "a-group"
    assert asked["enable_auto_commit"] is False


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
