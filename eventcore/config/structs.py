"""The pipeline file as structs. `config.load` reads them from TOML, `eventcore.App` builds them in Python.

Settings carry Lambda's parameter names in snake_case with Lambda's units. The tables stand in `structs_*.py`; all are
imported from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, field

from eventcore.config.section import Name, Section
from eventcore.config.structs_buckets import BucketConfig, S3Config
from eventcore.config.structs_connections import HttpConfig, KafkaConfig
from eventcore.config.structs_embedded import BUILT_IN_QUEUES, QueueConfig, RedrivePolicy, StreamConfig
from eventcore.config.structs_functions import PROCESS_SETTINGS, FunctionConfig
from eventcore.config.structs_mappings import MappingConfig
from eventcore.config.structs_policies import (
    CircuitBreakerConfig,
    FilterConfig,
    FilterCriteriaConfig,
    IdempotencyConfig,
    RetryExceptionConfig,
    RetryScheduleConfig,
)

__all__ = [
    "BUILT_IN_QUEUES",
    "PROCESS_SETTINGS",
    "TABLES",
    "BucketConfig",
    "CircuitBreakerConfig",
    "FilterConfig",
    "FilterCriteriaConfig",
    "FunctionConfig",
    "HttpConfig",
    "IdempotencyConfig",
    "KafkaConfig",
    "MappingConfig",
    "Name",
    "PipelineConfig",
    "QueueConfig",
    "RedrivePolicy",
    "RetryExceptionConfig",
    "RetryScheduleConfig",
    "S3Config",
    "Section",
    "Settings",
    "StreamConfig",
]


class Settings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[settings]`: what holds for the whole pipeline."""

    region: Annotated[
        str,
        Meta(min_length=1, description="AWS Region written into ARNs and events", examples=["eu-central-1"]),
    ] = "us-east-1"
    account_id: Annotated[
        str,
        Meta(pattern=r"^\d{12}$", description="AWS account written into ARNs and events", examples=["123456789012"]),
    ] = "000000000000"
    drain_timeout: Annotated[
        float, Meta(ge=0, le=900, description="seconds that running invocations get after the first Ctrl-C or SIGTERM")
    ] = 25.0
    failures_maximum_bytes: Annotated[
        int, Meta(ge=1_048_576, description="bytes of kept failures; the oldest go first")
    ] = 1_073_741_824
    failures_retention_period: Annotated[int, Meta(ge=60, description="seconds that failures are kept")] = 1_209_600


class PipelineConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The whole pipeline file."""

    settings: Settings = Settings()
    functions: dict[Name, FunctionConfig] = field(default_factory=dict)
    mappings: dict[Name, MappingConfig] = field(default_factory=dict)
    queues: dict[Name, QueueConfig] = field(default_factory=dict)
    streams: dict[Name, StreamConfig] = field(default_factory=dict)
    kafka: dict[Name, KafkaConfig] = field(default_factory=dict)
    http: dict[Name, HttpConfig] = field(default_factory=dict)
    buckets: dict[Name, BucketConfig] = field(default_factory=dict)
    s3: dict[Name, S3Config] = field(default_factory=dict)


#: The tables of named sections, and what each holds.
TABLES: Mapping[str, type[Section]] = {
    "functions": FunctionConfig,
    "mappings": MappingConfig,
    "queues": QueueConfig,
    "streams": StreamConfig,
    "kafka": KafkaConfig,
    "http": HttpConfig,
    "buckets": BucketConfig,
    "s3": S3Config,
}
