"""The structs of what eventcore connects to: `[kafka.NAME]` and `[http.NAME]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import msgspec
from msgspec import Meta, field

from eventcore.config.section import Section


class KafkaConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[kafka.NAME]`: a connection. Settings keep aiokafka's names, whichever client reads."""

    bootstrap_servers: Annotated[
        str, Meta(min_length=1, description="`host:port`, comma-separated", examples=["127.0.0.1:9092"])
    ]
    client_id: Annotated[str, Meta(min_length=1, description="how the broker's logs call this client")] = "eventcore"
    client: Annotated[
        Literal["aiokafka", "librdkafka"],
        Meta(description="what reads topics; librdkafka keeps heartbeats off the loop and comes with an extra"),
    ] = "aiokafka"
    group_protocol: Annotated[
        Literal["classic", "consumer"],
        Meta(description="`consumer`: KIP-848's, which moves single shards and which librdkafka speaks; Kafka >= 4.0"),
    ] = "classic"
    session_timeout_ms: Annotated[
        int, Meta(ge=1000, le=1_800_000, description="silence after which the broker gives the shards to others")
    ] = 45_000
    heartbeat_interval_ms: Annotated[
        int, Meta(ge=100, le=600_000, description="pause between heartbeats; at most a third of the session's timeout")
    ] = 3_000
    max_poll_interval_ms: Annotated[
        int, Meta(ge=1000, le=86_400_000, description="longest pause between two polls")
    ] = 300_000
    rebalance_timeout_ms: Annotated[
        int, Meta(ge=1000, le=86_400_000, description="how long a rebalance waits for running batches")
    ] = 60_000
    request_timeout_ms: Annotated[
        int, Meta(ge=1000, le=3_600_000, description="how long the broker may take to answer one request")
    ] = 40_000
    metadata_max_age_ms: Annotated[
        int, Meta(ge=100, le=3_600_000, description="pause between two looks for new partitions and moved leaders")
    ] = 300_000
    fetch_max_bytes: Annotated[int, Meta(ge=1024, description="bytes of one fetch")] = 52_428_800
    max_partition_fetch_bytes: Annotated[int, Meta(ge=1024, description="bytes of one partition in a fetch")] = (
        1_048_576
    )
    isolation_level: Annotated[
        Literal["read_uncommitted", "read_committed"],
        Meta(description="read_committed: records of aborted transactions are never seen"),
    ] = "read_committed"
    group_instance_id: Annotated[
        str,
        Meta(
            max_length=249,
            description="static membership: a restart within the session moves no shard; another one for each engine",
            examples=["${env:HOSTNAME}"],
        ),
    ] = ""
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], Meta(description="what the brokers' port speaks")
    ] = "PLAINTEXT"
    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None,
        Meta(description="how this client says who it is; with a SASL_ protocol"),
    ] = None
    sasl_plain_username: Annotated[str, Meta(description="for PLAIN and SCRAM", examples=["eventcore"])] = ""
    sasl_plain_password: Annotated[
        str, Meta(description="for PLAIN and SCRAM; never shown", examples=["${env:KAFKA_PASSWORD}"])
    ] = ""
    sasl_oauth_token_file: Annotated[
        str, Meta(description="for OAUTHBEARER: holds the token, read anew for each connection", examples=["token.jwt"])
    ] = ""
    ssl_cafile: Annotated[
        str,
        Meta(description="PEM certificates to trust; without it the machine's authorities", examples=["ca.pem"]),
    ] = ""
    ssl_certfile: Annotated[str, Meta(description="PEM certificate of this client", examples=["client.pem"])] = ""
    ssl_keyfile: Annotated[
        str, Meta(description="its PEM key, where the certificate's file does not hold it", examples=["client.key"])
    ] = ""
    ssl_password: Annotated[
        str, Meta(description="of an encrypted key; never shown", examples=["${env:KEY_PASSWORD}"])
    ] = ""
    ssl_check_hostname: Annotated[bool, Meta(description="the certificate must be for the broker's name")] = True

    SECRETS: ClassVar[frozenset[str]] = frozenset({"sasl_plain_password", "ssl_password"})
    #: Paths; relative ones lead from the pipeline's folder.
    FILES: ClassVar[tuple[str, ...]] = ("sasl_oauth_token_file", "ssl_cafile", "ssl_certfile", "ssl_keyfile")

    def below(self, folder: Path) -> Self:
        """Return the connection with its relative paths leading from ``folder``."""
        files = {name: str(folder / written) for name in self.FILES if (written := getattr(self, name))}
        placed = msgspec.structs.replace(self, **files)
        placed.hide(self.hidden())
        return placed


class HttpConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[http.NAME]`: an HTTP endpoint that takes results."""

    url: Annotated[
        str,
        Meta(
            pattern=r"^https?://",
            description="receives a POST for each result",
            examples=["https://example.org/failed-orders"],
        ),
    ]
    headers: Annotated[dict[str, str], Meta(description="sent with each; `${env:NAME}` for secrets")] = field(
        default_factory=dict
    )
    timeout: Annotated[float, Meta(gt=0, le=900, description="seconds for one request")] = 10.0
