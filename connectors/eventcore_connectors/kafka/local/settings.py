"""Which Kafka it is, and the settings of one node that is its own controller (KRaft)."""

from __future__ import annotations

from pathlib import Path

#: `compose/kafka.yaml` and its README name the same one.
KAFKA_VERSION = "4.3.0"
HOST = "127.0.0.1"


def broker_settings(*, port: int, controller_port: int, data: Path, bind: str = HOST) -> dict[str, str]:
    """Return the settings of a broker that clients find on loopback.

    Args:
        port: where clients come, inside and outside of a container alike: a broker tells its clients where to come
            back to.
        controller_port: where the node speaks to itself.
        data: the folder of its records.
        bind: the address that clients' connections arrive at; in a container not loopback's.
    """
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "listeners": f"PLAINTEXT://{bind}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(data),
        # One node: nothing can be kept twice.
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        # A first member need not wait for others, and sessions may be short: what development and tests want.
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # The same for KIP-848's groups, whose members are not asked: 5 s and 45 s by default.
        "group.consumer.min.heartbeat.interval.ms": "100",
        "group.consumer.heartbeat.interval.ms": "300",
        "group.consumer.min.session.timeout.ms": "1000",
        "group.consumer.session.timeout.ms": "6000",
        "log.cleaner.backoff.ms": "100",
    }
