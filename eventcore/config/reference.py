"""References: `kind:name[/part]`, the same for sources and destinations (design §5); and where reading begins."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from eventcore.patterns.topics import SIGN, BadExpression, TopicPattern, is_topic_name

#: The built-in queue for what is given up by mappings without `on_failure`.
DISCARDS_QUEUE = "discards"
#: The built-in queue for the records of keys that are parked by mappings without `parking`.
PARKED_QUEUE = "parked"

#: Kinds that have a `/part`, and what it is.
PARTS = {"kafka": "topic"}
SOURCE_KINDS = ("queue", "stream", "kafka")
DESTINATION_KINDS = ("queue", "stream", "kafka", "function", "http", "stdout")
#: What takes records of failures, and nothing else (Lambda semantics §2.1, §4).
FAILURE_KINDS = (*DESTINATION_KINDS, "bucket")
RESULTS_KINDS = ("kafka",)
PARKING_KINDS = ("queue", "kafka")
#: Kinds whose name stands in the pipeline file, and in which table.
TABLE_OF_KIND: Mapping[str, str] = {
    "queue": "queues",
    "stream": "streams",
    "kafka": "kafka",
    "function": "functions",
    "http": "http",
    "bucket": "buckets",
}
#: Why a kind can't stand in a setting, and what to write, where the list of those that can says too little.
NO_PLACE: Mapping[tuple[str, str], tuple[str, str]] = {
    ("bucket", "source"): (
        "nothing tells yet what is put into a bucket",
        "read a queue:, a stream: or a topic: kafka:",
    ),
    ("bucket", "on_success"): ("an object store takes records of failures alone, as in Lambda", "write a queue:"),
    ("bucket", "results"): ("results go to a topic, with the offsets that they belong to", "write kafka:NAME/TOPIC"),
    ("bucket", "parking"): ("what is parked is given back in its order", "write a queue:, or kafka:NAME/TOPIC"),
}


class BadReference(ValueError):
    """A text is not a reference."""

    def __init__(self, text: str, reason: str, hint: str) -> None:
        self.reason = reason  #: what is wrong, without the text itself
        self.hint = hint  #: what to write
        super().__init__(f"`{text}` {reason}: {hint}")


class Reference(msgspec.Struct, frozen=True):
    """A parsed reference."""

    kind: str
    name: str = ""  #: empty for `stdout`
    part: str = ""  #: the topic of a Kafka connection, or an expression that topics match (`is_pattern`)

    def __str__(self) -> str:
        name = f":{self.name}" if self.name else ""
        return f"{self.kind}{name}/{self.part}" if self.part else f"{self.kind}{name}"

    @property
    def is_stream(self) -> bool:
        """Whether, as a source, its records stand in ordered shards."""
        return self.kind in {"stream", "kafka"}

    @property
    def is_pattern(self) -> bool:
        """Whether it names all topics that match an expression."""
        return self.part.startswith(SIGN)


class StartingPosition(msgspec.Struct, frozen=True):
    """Where a mapping without a checkpoint begins."""

    kind: str  #: "TRIM_HORIZON", "LATEST" or "AT_TIMESTAMP"
    at_ms: int = 0  #: for AT_TIMESTAMP, wall time


def parse_reference(text: str) -> Reference:
    """Parse a reference.

    Raises:
        BadReference: it has no kind, an unknown kind, or no name or part where its kind needs one; it says what to
            write.
    """
    kind, separator, rest = text.partition(":")
    if kind == "stdout" and not rest:
        return Reference("stdout")
    if kind == "arn":
        raise BadReference(text, "is an ARN", f"write kind:name, as queue:{text.rpartition(':')[2] or 'NAME'}")
    if kind not in FAILURE_KINDS:
        kinds = ", ".join(f"{known}:" for known in FAILURE_KINDS if known != "stdout")
        raise BadReference(text, "is not a reference", f"write kind:name, with one of {kinds} or stdout")
    if not separator or not rest:
        raise BadReference(text, "names nothing", f"write {kind}:NAME")
    name, slash, part = rest.partition("/")
    if kind in PARTS and not part:
        raise BadReference(text, f"names no {PARTS[kind]}", f"write {kind}:{name}/{PARTS[kind].upper()}")
    if kind not in PARTS and slash:
        raise BadReference(text, f"has a part that a {kind} does not have", f"write {kind}:{name}")
    if kind == "kafka":
        _check_topic(text, name, part)
    return Reference(kind, name, part)


def _check_topic(text: str, name: str, part: str) -> None:
    if part.startswith(SIGN):
        try:
            TopicPattern(part)
        except BadExpression as error:
            raise BadReference(text, error.reason, error.hint) from error
    elif not is_topic_name(part):
        hint = f"write letters, digits, '.', '_' and '-', or an expression for several topics: kafka:{name}/^orders-.*"
        raise BadReference(text, "names no topic that Kafka allows", hint)
