"""A mapping under examination, with all that it refers to."""

from __future__ import annotations

from typing import Any

import msgspec

from eventcore.config.provenance import KeyPath
from eventcore.config.reference import Reference
from eventcore.config.structs import FunctionConfig, MappingConfig, PipelineConfig
from eventcore.patterns.topics import TopicPattern


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping under examination, with what it refers to."""

    name: str
    mapping: MappingConfig
    pipeline: PipelineConfig
    source: Reference
    function: FunctionConfig | None  #: None when there is none, or it could not be read
    on_failure: Reference | None  #: None without one, or when it could not be read
    parking: Reference | None  #: the same
    results: Reference | None  #: the same

    def path(self, setting: str) -> KeyPath:
        """Return the path of one of the mapping's settings."""
        return ("mappings", self.name, setting)

    @property
    def timeout_path(self) -> KeyPath:
        """The path of the function's timeout."""
        return ("functions", self.mapping.function, "timeout")

    def is_read_from(self, reference: Reference) -> bool:
        """Tell whether what is sent there comes back: the source is there, or has it among its topics."""
        source = self.source
        if source.is_pattern and reference.kind == "kafka":
            brokers = [self.address(each)[1] for each in (source, reference)]
            return brokers[0] == brokers[1] and TopicPattern(source.part).match(reference.part)
        return self.address(reference) == self.address(source)

    def address(self, reference: Reference) -> tuple[Any, ...]:
        """Return what a reference means outside: two connections to the same brokers are one place."""
        if reference.kind == "kafka" and reference.name in self.pipeline.kafka:
            return "kafka", self.pipeline.kafka[reference.name].bootstrap_servers, reference.part
        return reference.kind, reference.name, reference.part
