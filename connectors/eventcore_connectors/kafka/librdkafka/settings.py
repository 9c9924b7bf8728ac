"""From a connection's settings to librdkafka's, and what we set beside them.

librdkafka's defaults are made for little memory and read 0.15 million records a second where these read over one
(measured on two cores, records of 200 B).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from eventcore.config.structs import KafkaConfig
from eventcore_connectors.kafka.token_file import read_token

#: Records of all partitions that librdkafka holds ready, at most: 16 MiB, so that a mapping stays within its memory.
#: Its own bound of 64 MiB is no faster here.
_FETCHED_KIB_MAX = 16 * 1024
#: So many records ready, and it stops to ask for more: what is read while the next ones come from a broker nearby. They
#: come a fetch at a time, so that many more may be there. With 50,000 they lie in memory for long, and a record takes a
#: tenth more processor time.
_FETCHED_COUNT_MIN = 5_000
#: Pause before it looks again whether there is room for another fetch, ms. Its own second is what makes it slow: a
#: reader empties 5,000 records in a two-hundredth of that.
_ROOM_BACKOFF_MS = 5
#: Pause after a fetch that failed, ms; half a second by default. Leaders move in less.
_ERROR_BACKOFF_MS = 100
#: Longest pause between two tries to reach a broker, ms; ten seconds by default, which a restart does not take.
_RECONNECT_MS_MAX = 1_000
#: A topic that a broker does not know is gone after this, ms; half a minute by default, for topics that were made a
#: moment ago. Ours was there when we joined.
_MISSING_MS = 5_000
#: How often it says whether brokers answer, ms: often enough for the shortest session.
_STATISTICS_MS = 500
#: What an answer may have beside the records, bytes; and room for a record that is larger than a fetch.
_ANSWER_SPARE_BYTES = 16 * 1024 * 1024
#: librdkafka's own bounds.
_ANSWER_BYTES_MIN, _ANSWER_BYTES_MAX = 100_000_000, 2_147_483_647
_MESSAGE_BYTES = 1_000_000
#: A token's file is read again after four fifths of this, seconds: whoever renews it replaces the file.
_TOKEN_S = 60


def member_settings(config: KafkaConfig, group: str, now_ms: Callable[[], int]) -> dict[str, Any]:
    """Return what librdkafka's consumer takes."""
    return {
        **_connection(config),
        **_security(config, now_ms),
        **_membership(config, group),
        "fetch.max.bytes": config.fetch_max_bytes,
        "max.partition.fetch.bytes": config.max_partition_fetch_bytes,
        "message.max.bytes": min(_MESSAGE_BYTES, config.fetch_max_bytes),
        "receive.message.max.bytes": min(
            max(_ANSWER_BYTES_MIN, config.fetch_max_bytes + _ANSWER_SPARE_BYTES), _ANSWER_BYTES_MAX
        ),
        "isolation.level": config.isolation_level,
        "queued.min.messages": _FETCHED_COUNT_MIN,
        "queued.max.messages.kbytes": _FETCHED_KIB_MAX,
        "fetch.queue.backoff.ms": _ROOM_BACKOFF_MS,
        "fetch.error.backoff.ms": _ERROR_BACKOFF_MS,
        "check.crcs": True,
    }


def _connection(config: KafkaConfig) -> dict[str, Any]:
    return {
        "bootstrap.servers": config.bootstrap_servers,
        "client.id": config.client_id,
        "socket.timeout.ms": min(config.request_timeout_ms, 300_000),
        "topic.metadata.refresh.interval.ms": config.metadata_max_age_ms,
        "reconnect.backoff.max.ms": _RECONNECT_MS_MAX,
        "topic.metadata.propagation.max.ms": _MISSING_MS,
        "statistics.interval.ms": _STATISTICS_MS,
    }


def _membership(config: KafkaConfig, group: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "group.id": group,
        "group.protocol": config.group_protocol,
        # A rebalance waits for as long as a poll may be away: to librdkafka both are one. It polls without end here,
        # and `Subscription` keeps `max_poll_interval_ms` itself.
        "max.poll.interval.ms": config.rebalance_timeout_ms,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # Positions are set by the source; one that the log has passed is an error, never a jump.
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
    }
    if config.group_protocol == "classic":
        settings |= {
            "session.timeout.ms": config.session_timeout_ms,
            "heartbeat.interval.ms": config.heartbeat_interval_ms,
            # aiokafka's: members of both kinds may share a group.
            "partition.assignment.strategy": "roundrobin",
            "max.poll.interval.ms": max(config.rebalance_timeout_ms, config.session_timeout_ms),
        }
    if config.group_instance_id:
        settings["group.instance.id"] = config.group_instance_id
    return settings


def _security(config: KafkaConfig, now_ms: Callable[[], int]) -> dict[str, Any]:
    settings: dict[str, Any] = {"security.protocol": config.security_protocol}
    if config.security_protocol.endswith("SSL"):
        settings["ssl.endpoint.identification.algorithm"] = "https" if config.ssl_check_hostname else "none"
        files = {
            "ssl.ca.location": config.ssl_cafile,
            "ssl.certificate.location": config.ssl_certfile,
            "ssl.key.location": config.ssl_keyfile or config.ssl_certfile,
            "ssl.key.password": config.ssl_password,
        }
        settings |= {name: value for name, value in files.items() if value}
    if config.security_protocol.startswith("SASL"):
        settings["sasl.mechanism"] = config.sasl_mechanism
        if config.sasl_mechanism == "OAUTHBEARER":
            settings["oauth_cb"] = _token_reader(Path(config.sasl_oauth_token_file), now_ms)
        else:
            settings |= {"sasl.username": config.sasl_plain_username, "sasl.password": config.sasl_plain_password}
    return settings


def _token_reader(path: Path, now_ms: Callable[[], int]) -> Callable[[str], tuple[str, float]]:
    def read(_configuration: str) -> tuple[str, float]:
        return read_token(path), now_ms() / 1000 + _TOKEN_S

    return read
