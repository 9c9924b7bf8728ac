"""Real servers, started by fixtures: one of each for a whole run, and none where it can't be had.

Such a test is skipped with the reason, which the run's last lines repeat. `EVENTCORE_REQUIRE_SERVERS=1` turns the skip
into a failure: what continuous integration sets, so that it never passes by leaving tests out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.servers.kafka_cluster import KafkaCluster, open_cluster
from tests.servers.kafka_server import ComposedKafkaServer, KafkaServer, ServerUnavailable, running_kafka

#: For one test, seconds; the first of them also starts the broker, or even downloads it.
TEST_TIMEOUT_S = 360

REQUIRE_VARIABLE = "EVENTCORE_REQUIRE_SERVERS"

# aiokafka reports every try to reach a broker that a test has stopped.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

_missing = pytest.StashKey[dict[str, str]]()
_kafka = pytest.StashKey[KafkaServer | ComposedKafkaServer]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, and give it the time that servers take."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.server)
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))


@pytest.fixture(scope="session")
def kafka_server(request: pytest.FixtureRequest) -> Iterator[KafkaServer | ComposedKafkaServer]:
    """A running broker."""
    missing = request.config.stash.setdefault(_missing, {})
    if "Kafka" in missing:
        _do_without("Kafka", missing["Kafka"])
    try:
        with running_kafka() as server:
            request.config.stash[_kafka] = server
            yield server
    except ServerUnavailable as error:
        missing["Kafka"] = str(error)
        _do_without("Kafka", str(error))


def _do_without(server: str, reason: str) -> None:
    message = f"{server} can't be had here: {reason}"
    if os.environ.get(REQUIRE_VARIABLE):
        pytest.fail(f"{message} ({REQUIRE_VARIABLE} is set)", pytrace=False)
    pytest.skip(message)


@pytest.fixture
async def kafka(kafka_server: KafkaServer | ComposedKafkaServer) -> AsyncIterator[KafkaCluster]:
    """A test's own view of the broker."""
    async with open_cluster(kafka_server.address) as cluster:
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
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> object:
    """Say at the very end which servers were missing, and why."""
    result = yield
    for server, reason in config.stash.get(_missing, {}).items():
        terminalreporter.write_line(f"Tests without their server: {server} can't be had here: {reason}", yellow=True)
    return result
