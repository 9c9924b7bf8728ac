"""Three Kafka brokers on one machine: a topic can have a replica on each, and each asks at one port who is there."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
from aiokafka.errors import KafkaError

from tests.servers.kafka_cluster import KafkaCluster, open_admin
from tests.servers.kafka_server import KafkaServer, find_jars
from tests.servers.ports import free_ports
from tests.servers.secured_kafka import PASSWORD, USER, Certificates

COUNT = 3
MECHANISM = "SCRAM-SHA-512"
#: Leaders have moved, and replicas have caught up, by then, seconds: 5 and 4 alone on two cores.
SETTLED_BY_S = 60.0
#: What a broker that hangs costs whoever asks it, milliseconds.
_ASK_TIMEOUT_MS = 5_000
_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
#: A dead broker is noticed in 3 s, where Kafka's own settings take 9; and so are replicas that fall behind.
_SETTINGS = {
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "controller.quorum.election.timeout.ms": "500",
    "controller.quorum.fetch.timeout.ms": "1000",
    "replica.lag.time.max.ms": "3000",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": str(COUNT),
    "transaction.state.log.replication.factor": str(COUNT),
    "transaction.state.log.min.isr": "2",
    "auto.leader.rebalance.enable": "false",
}


class ThreeBrokers:
    """The brokers, by node id from 1 on."""

    def __init__(self, brokers: Mapping[int, KafkaServer], secured_ports: Mapping[int, int], ca: Path) -> None:
        self.brokers = brokers
        self._secured_ports = secured_ports
        self._ca = ca

    def addresses(self, *, first: int = 1) -> str:
        """Return the ports that ask nothing, as clients list them, with a broker's own in front."""
        numbers = sorted(self.brokers, key=lambda number: (number != first, number))
        return ",".join(self.brokers[number].address for number in numbers)

    def secured_settings(self) -> dict[str, str]:
        """Return the settings of a connection to the ports that speak TLS and ask for a password."""
        return {
            "bootstrap_servers": ",".join(f"127.0.0.1:{port}" for port in self._secured_ports.values()),
            "security_protocol": "SASL_SSL",
            "ssl_cafile": str(self._ca),
            "sasl_mechanism": MECHANISM,
            "sasl_plain_username": USER,
            "sasl_plain_password": PASSWORD,
        }

    def mend(self) -> None:
        """Start the brokers that are not running."""
        dead = [broker for broker in self.brokers.values() if not broker.is_running]
        for broker in dead:
            broker.launch()
        for broker in dead:
            broker.wait_ready()

    def prefer_leaders(self, topic: str) -> None:
        """Move the leadership of a topic's partitions to the brokers that had it first; they are in sync."""
        (broker, *_) = (broker for broker in self.brokers.values() if broker.is_running)
        wanted = broker.log.with_name("leaders.json")
        partitions = [{"topic": topic, "partition": partition} for partition in range(COUNT)]
        wanted.write_text(json.dumps({"partitions": partitions}))
        command = "org.apache.kafka.tools.LeaderElectionCommand"
        broker.run_command(command, "--election-type", "preferred", "--path-to-json-file", str(wanted))


async def _describe(kafka: KafkaCluster, topic: str) -> Sequence[dict[str, Any]]:
    """Return what is known of a topic's partitions, from whichever broker answers.

    Each time by a new client: one that was told of a single broker, as the others were late with their heartbeats, asks
    no other again, also when that one is killed.
    """
    with anyio.fail_after(SETTLED_BY_S):
        while True:
            with contextlib.suppress(KafkaError):
                async with open_admin(kafka.address, request_timeout_ms=_ASK_TIMEOUT_MS) as admin:
                    (described,) = await admin.describe_topics([topic])
                if not described["error_code"]:
                    return list(described["partitions"])
            await anyio.sleep(0.1)


async def leaders(kafka: KafkaCluster, topic: str) -> dict[int, int]:
    """Return the node that leads each partition; without those that have none at the moment."""
    return {each["partition"]: each["leader"] for each in await _describe(kafka, topic) if each["leader"] >= 0}


async def replicated(kafka: KafkaCluster, topic: str) -> None:
    """Wait until every partition of a topic is on all brokers."""
    with anyio.fail_after(SETTLED_BY_S):
        while any(len(each["isr"]) < COUNT for each in await _describe(kafka, topic)):  # noqa: ASYNC110 - another process
            await anyio.sleep(0.1)


async def moved_away(kafka: KafkaCluster, topic: str, node: int) -> None:
    """Wait until each partition of a topic is led by another node."""
    with anyio.fail_after(SETTLED_BY_S):
        while any(each["leader"] in (node, -1) for each in await _describe(kafka, topic)):  # noqa: ASYNC110 - as above
            await anyio.sleep(0.1)


def _settings(node: int, voters: str, port: int, key_store: Path) -> dict[str, str]:
    listener = f"SCRAM://127.0.0.1:{port}"
    return {
        **_SETTINGS,
        "node.id": str(node),
        "controller.quorum.voters": voters,
        "listeners": listener,
        "advertised.listeners": listener,
        "listener.security.protocol.map": "SCRAM:SASL_SSL",
        "listener.name.scram.sasl.enabled.mechanisms": MECHANISM,
        f"listener.name.scram.{MECHANISM.lower()}.sasl.jaas.config": _LOGIN,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(key_store),
    }


@contextlib.contextmanager
def running_brokers() -> Iterator[ThreeBrokers]:
    """Run the brokers for as long as the block lasts.

    Raises:
        ServerUnavailable: Java, the jars or openssl can't be had.
    """
    jars = find_jars()
    with tempfile.TemporaryDirectory(prefix="eventcore-kafka-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        certificates = Certificates(folder)
        key_store = certificates.key_store("broker")
        ports = dict(enumerate(free_ports(COUNT), start=1))
        settings: dict[int, dict[str, str]] = {node: {} for node in ports}
        brokers = {node: _make_broker(jars, folder / str(node), settings[node]) for node in ports}
        voters = ",".join(f"{node}@127.0.0.1:{broker.controller_port}" for node, broker in brokers.items())
        for node, port in ports.items():
            settings[node] |= _settings(node, voters, port, key_store)
        try:
            with ThreadPoolExecutor(COUNT) as threads:
                list(threads.map(KafkaServer.format, brokers.values()))
            three = ThreeBrokers(brokers, ports, certificates.ca)
            three.mend()
            yield three
        finally:
            # Nothing of theirs is kept, and the last of a quorum would wait for the others for long.
            for broker in brokers.values():
                if broker.is_running:
                    broker.kill()


def _make_broker(jars: Path, folder: Path, settings: Mapping[str, str]) -> KafkaServer:
    folder.mkdir()
    user = f"--add-scram={MECHANISM}=[name={USER},password={PASSWORD}]"
    return KafkaServer(jars, folder, settings=settings, format_arguments=(user,))
