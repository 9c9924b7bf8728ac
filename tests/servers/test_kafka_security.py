"""TLS and SASL against a real broker: every way in works, and every refusal is told as what it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import anyio
import pytest

from eventcore.config.reference import Reference
from eventcore.config.structs import KafkaConfig
from eventcore.errors import DestinationUnavailable, SourceUnavailable
from eventcore.ports.connectors import OutgoingRecord
from eventcore.testing.conformance.stream import Reader, reading
from eventcore_connectors.kafka import connector
from eventcore_connectors.kafka.membership import OPEN_TIMEOUT_S
from tests.servers.conftest import do_without
from tests.servers.kafka_cluster import KafkaCluster, open_cluster
from tests.servers.kafka_server import ServerUnavailable
from tests.servers.secured_kafka import PASSWORD, SecuredKafka, bearer_token, running_secured_kafka

pytestmark = pytest.mark.any_client

#: A refusal is told by then, seconds: the client's own tries, asking once more, and closing.
TOLD_BY_S = OPEN_TIMEOUT_S + 5.0


@pytest.fixture(scope="module")
def secured() -> Iterator[SecuredKafka]:
    """A broker with every kind of listener."""
    try:
        with running_secured_kafka() as kafka:
            yield kafka
    except ServerUnavailable as error:
        do_without("Kafka with TLS and SASL", str(error))


@pytest.fixture
async def cluster(secured: SecuredKafka, client_settings: Mapping[str, str]) -> AsyncIterator[KafkaCluster]:
    """The same broker, by the port that asks nothing."""
    async with open_cluster(secured.server.address) as cluster:
        cluster.client_settings = client_settings
        yield cluster


WAYS_IN = [
    ("TLS", None),
    ("MUTUAL", None),
    ("SASL", "PLAIN"),
    ("SASL", "SCRAM-SHA-256"),
    ("SASL", "SCRAM-SHA-512"),
    ("SASL", "OAUTHBEARER"),
    ("SASLTLS", "SCRAM-SHA-512"),
    ("SASLTLS", "OAUTHBEARER"),
]


@pytest.mark.parametrize(("listener", "mechanism"), WAYS_IN)
async def test_every_way_in_sends_reads_and_commits(
    secured: SecuredKafka, cluster: KafkaCluster, listener: str, mechanism: str | None
) -> None:
    """The producer, the group's member and `check` all prove who they are."""
    topic = await cluster.create_topic()
    settings = secured.settings(listener, mechanism)
    reference, config = Reference("kafka", "local", topic), KafkaConfig(**settings)
    await connector.send(reference, config, [OutgoingRecord(body=b"0"), OutgoingRecord(body=b"1")])
    assert await connector.check(reference, config) == (
        f"Kafka at {secured.address(listener)}: brokers 1, topic `{topic}`, partitions 1"
    )
    shard = f"{topic}-0"
    async with reading(cluster.source(topic, f"{topic}-readers", **settings)) as reader:
        await reader.until(lambda: len(reader.bodies(shard)) == 2)
        assert reader.bodies(shard) == [b"0", b"1"]
        await reader.settle(shard, 2, is_urgent=True)
    mark = await cluster.committed(f"{topic}-readers", topic)
    assert mark is not None
    assert mark.offset == 2


async def test_a_key_may_be_behind_a_password(secured: SecuredKafka, cluster: KafkaCluster) -> None:
    """`ssl_password` opens it; without one nobody is asked at the terminal."""
    topic = await cluster.create_topic()
    key = str(secured.certificates.encrypt_key("opensesame"))
    settings = {**secured.settings("MUTUAL"), "ssl_keyfile": key}
    await connector.check(Reference("kafka", "local", topic), KafkaConfig(**settings, ssl_password="opensesame"))
    told = await refused(cluster, topic, settings)
    assert "needs ssl_password" in told
    assert key in told


async def test_a_token_is_read_anew_for_each_connection(secured: SecuredKafka, cluster: KafkaCluster) -> None:
    """Whoever renews it replaces the file."""
    topic = await cluster.create_topic()
    settings = secured.settings("SASL", "OAUTHBEARER")
    secured.token_file.write_text(bearer_token(expires_in_s=-100))
    try:
        told = await refused(cluster, topic, settings)
    finally:
        # Other tests read the same file.
        secured.token_file.write_text(bearer_token())
    assert "refuses the token by OAUTHBEARER" in told
    await connector.check(Reference("kafka", "local", topic), KafkaConfig(**settings))


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_a_wrong_password_is_said_to_be_one(secured: SecuredKafka, cluster: KafkaCluster, mechanism: str) -> None:
    """With user, mechanism and broker, and never with the password."""
    topic = await cluster.create_topic()
    settings = {**secured.settings("SASL", mechanism), "sasl_plain_password": "wrong-one"}
    told = await refused(cluster, topic, settings)
    assert f"{secured.address('SASL')} refuses user `ada` by {mechanism}: a wrong password?" in told
    assert "wrong-one" not in told
    assert PASSWORD not in told


async def test_a_mechanism_that_is_not_enabled_is_named(secured: SecuredKafka, cluster: KafkaCluster) -> None:
    """This port takes no PLAIN."""
    topic = await cluster.create_topic()
    told = await refused(cluster, topic, secured.settings("SASLTLS", "PLAIN"))
    assert f"{secured.address('SASLTLS')} does not take sasl_mechanism PLAIN" in told


async def test_an_untrusted_certificate_is_told(secured: SecuredKafka, cluster: KafkaCluster) -> None:
    """The authority is another one, or the machine's own."""
    topic = await cluster.create_topic()
    other = str(secured.certificates.other_ca)
    told = await refused(cluster, topic, {**secured.settings("TLS"), "ssl_cafile": other})
    assert f"the certificate of {secured.address('TLS')} is not trusted by ssl_cafile {other}" in told
    told = await refused(cluster, topic, {**secured.settings("TLS"), "ssl_cafile": ""})
    assert "not trusted by this machine's authorities; write ssl_cafile" in told


async def test_a_certificate_for_another_name_is_told(secured: SecuredKafka, cluster: KafkaCluster) -> None:
    """`ssl_check_hostname = false` accepts it."""
    topic = await cluster.create_topic()
    settings = secured.settings("MISNAMED")
    told = await refused(cluster, topic, settings)
    assert f"the certificate of {secured.address('MISNAMED')} is for another name" in told
    reference = Reference("kafka", "local", topic)
    assert "partitions 1" in await connector.check(reference, KafkaConfig(**settings, ssl_check_hostname=False))


async def test_a_missing_client_certificate_is_told(secured: SecuredKafka, cluster: KafkaCluster) -> None:
    """The port wants one."""
    topic = await cluster.create_topic()
    settings = {**secured.settings("TLS"), "bootstrap_servers": secured.address("MUTUAL")}
    assert f"{secured.address('MUTUAL')} wants a certificate" in await refused(cluster, topic, settings)


async def test_a_port_of_another_protocol_is_told(secured: SecuredKafka, cluster: KafkaCluster) -> None:
    """TLS spoken to one that has none, and the other way round."""
    topic = await cluster.create_topic()
    plain = {**secured.settings("TLS"), "bootstrap_servers": secured.server.address}
    assert f"{secured.server.address} " in (told := await refused(cluster, topic, plain))
    assert "security_protocol" in told
    told = await refused(cluster, topic, {"bootstrap_servers": secured.address("TLS")})
    assert f"{secured.address('TLS')} ends the connection at once: does this port speak PLAINTEXT?" in told


async def test_a_static_member_keeps_its_shards_through_a_restart(secured: SecuredKafka, cluster: KafkaCluster) -> None:
    """`group_instance_id`: gone and back within the session, the other member sees no rebalance."""
    topic = await cluster.create_topic(partitions=2)
    source = cluster.source(topic, f"{topic}-g", group_instance_id="stays", session_timeout_ms=30_000)
    async with reading(source) as staying:
        back = cluster.source(topic, f"{topic}-g", group_instance_id="restarts", session_timeout_ms=30_000)
        async with reading(back) as first:
            await staying.until(lambda: len(staying.taken) == 1)
            await first.until(lambda: len(first.taken) == 1)
        history = list(staying.history)
        again = cluster.source(topic, f"{topic}-g", group_instance_id="restarts", session_timeout_ms=30_000)
        async with reading(again) as second:
            await second.until(lambda: len(second.taken) == 1)
            assert second.taken.keys() == first.taken.keys()
            (shard,) = second.taken
            await cluster.send(topic, [b"0"], partition=int(shard[-1]))
            await second.until(lambda: second.bodies(shard) == [b"0"])
        assert staying.history == history


async def refused(cluster: KafkaCluster, topic: str, settings: dict[str, Any]) -> str:
    """Return what all three ways of connecting say, which must be one sentence for one cause."""
    reference, config = Reference("kafka", "local", topic), KafkaConfig(**settings)
    with anyio.fail_after(3 * TOLD_BY_S):
        source = cluster.source(topic, "refused", **settings)
        with pytest.raises(SourceUnavailable) as by_open:
            await source.open(Reader(source))
        await source.aclose()
        with pytest.raises(SourceUnavailable) as by_check:
            await connector.check(reference, config)
        with pytest.raises(DestinationUnavailable) as by_send:
            await connector.send(reference, config, [OutgoingRecord(body=b"0")])
    assert by_open.value.message == by_check.value.message == by_send.value.message
    return by_open.value.message
