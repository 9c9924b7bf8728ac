"""Real servers, started by fixtures: one of each for a whole run, and none where it can't be had.

Such a test is skipped with the reason, which the run's last lines repeat. `EVENTCORE_REQUIRE_SERVERS=1` turns the skip
into a failure: what continuous integration sets, so that it never passes by leaving tests out.

Kafka is read by several clients. A test marked `both_clients` runs on each of them, one marked `any_client` only where
`EVENTCORE_KAFKA_CLIENTS=all` (`make test-clients`): most of it is the source's work, which they share. Every test that
reads or writes Kafka has one of the two marks. `aiokafka_only` says in the test what is aiokafka's alone: a loop that
stands still (librdkafka sends heartbeats without it, see `test_librdkafka.py`), requests that are counted in its code.
`test_up_kafka.py` is about starting a broker.

A third "client" is librdkafka with the group protocol of KIP-848 (`kip848` in a test's id), where every client is
tried. `classic_only` is what cannot be with it: shards that are taken away and come back to the same owner (see
`test_kip848.py`), and sessions that the client decides on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from tests.servers.kafka_cluster import KafkaCluster, open_cluster
from tests.servers.kafka_server import ComposedKafkaServer, KafkaServer, ServerUnavailable, running_kafka

#: For one test, seconds; the first of them also starts the broker, or even downloads it.
TEST_TIMEOUT_S = 360

REQUIRE_VARIABLE = "EVENTCORE_REQUIRE_SERVERS"

# Clients report every try to reach a broker that a test has stopped.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
logging.getLogger("confluent_kafka").setLevel(logging.CRITICAL)

#: `all` runs every test that can be on every client; else those that are marked `both_clients`.
CLIENTS_VARIABLE = "EVENTCORE_KAFKA_CLIENTS"
#: What reads, by the name in a test's id.
CLIENTS: Mapping[str, Mapping[str, str]] = {
    "aiokafka": {},
    "librdkafka": {"client": "librdkafka"},
    "kip848": {"client": "librdkafka", "group_protocol": "consumer"},
}

#: What stands between a server's name and the reason, in a skip.
_MISSING = " can't be had here: "
_kafka = pytest.StashKey[KafkaServer | ComposedKafkaServer]()
#: CPython leaves a TLS connection to the garbage collector that is cancelled after it was made and before its handshake
#: has begun (seen with a few lines of asyncio alone): a client that is closed while it connects can do that. A
#: connection of aiokafka's that is left open warns by itself, and is an error.
_LEFT_BY_CPYTHON = "ignore:unclosed (transport|<socket):ResourceWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, give it the time that servers take, and run them all beside one broker."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.server)
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))
            item.add_marker(pytest.mark.xdist_group("servers"))
            item.add_marker(pytest.mark.filterwarnings(_LEFT_BY_CPYTHON))


@pytest.fixture(scope="session")
def kafka_server(request: pytest.FixtureRequest) -> Iterator[KafkaServer | ComposedKafkaServer]:
    """A running broker."""
    try:
        with running_kafka() as server:
            request.config.stash[_kafka] = server
            yield server
    except ServerUnavailable as error:
        do_without("Kafka", str(error))


def do_without(server: str, reason: str) -> NoReturn:
    """Skip the test, or fail it where no server may be missing."""
    message = f"{server}{_MISSING}{reason}"
    if os.environ.get(REQUIRE_VARIABLE):
        pytest.fail(f"{message} ({REQUIRE_VARIABLE} is set)", pytrace=False)
    pytest.skip(message)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on several clients."""
    if "client_settings" not in metafunc.fixturenames:
        return
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    is_all = bool(marks & {"any_client", "both_clients"}) and os.environ.get(CLIENTS_VARIABLE) == "all"
    clients = list(CLIENTS) if is_all else ["aiokafka", "librdkafka"] if "both_clients" in marks else ["aiokafka"]
    if "aiokafka_only" in marks:
        clients = ["aiokafka"]
    if "classic_only" in marks:
        clients = [name for name in clients if name != "kip848"]
    metafunc.parametrize("client_settings", [CLIENTS[name] for name in clients], ids=clients)


@pytest.fixture
async def kafka(
    kafka_server: KafkaServer | ComposedKafkaServer, client_settings: Mapping[str, str]
) -> AsyncIterator[KafkaCluster]:
    """A test's own view of the broker."""
    async with open_cluster(kafka_server.address) as cluster:
        cluster.client_settings = client_settings
        yield cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> object:
    """Attach the broker's last lines to what failed."""
    report = yield
    server = item.config.stash.get(_kafka, None)
    if report.failed and server is not None and "kafka_server" in getattr(item, "fixturenames", ()):
        report.sections.append(("Kafka's log", server.tail()))
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> object:
    """Say at the very end which servers were missing, and why."""
    result = yield
    skipped = [report.longrepr for report in terminalreporter.getreports("skipped")]
    reasons = {told[2].removeprefix("Skipped: ") for told in skipped if isinstance(told, tuple | list)}
    for reason in sorted(reason for reason in reasons if _MISSING in reason):
        terminalreporter.write_line(f"Tests without their server: {reason}", yellow=True)
    return result
