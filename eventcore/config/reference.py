"""References: `kind:name[/part]`, the same for sources and destinations (design §5)."""

from __future__ import annotations

import msgspec

#: The built-in queue for what is given up by mappings without `on_failure`.
DISCARDS_QUEUE = "discards"

#: Kinds that have a `/part`, and what it is.
PARTS = {"kafka": "topic"}
SOURCE_KINDS = ("queue", "stream", "kafka")
DESTINATION_KINDS = ("queue", "stream", "kafka", "function", "http", "stdout")


class Reference(msgspec.Struct, frozen=True):
    """A parsed reference."""

    kind: str
    name: str = ""  #: empty for `stdout`
    part: str = ""  #: the topic of a Kafka connection

    def __str__(self) -> str:
        name = f":{self.name}" if self.name else ""
        return f"{self.kind}{name}/{self.part}" if self.part else f"{self.kind}{name}"


def parse_reference(text: str) -> Reference:
    """Parse a reference.

    Raises:
        ValueError: it has no kind, an unknown kind, or no name or part where its kind needs one; the message says
            what to write.
    """
    kind, separator, rest = text.partition(":")
    if kind == "stdout" and not rest:
        return Reference("stdout")
    if kind not in DESTINATION_KINDS:
        kinds = ", ".join(f"{known}:" for known in DESTINATION_KINDS if known != "stdout")
        raise ValueError(f"`{text}` is not a reference: write kind:name, with one of {kinds} or stdout")
    if not separator or not rest:
        raise ValueError(f"`{text}` names nothing: write {kind}:NAME")
    name, slash, part = rest.partition("/")
    if kind in PARTS and not part:
        raise ValueError(f"`{text}` names no {PARTS[kind]}: write {kind}:{name}/{PARTS[kind].upper()}")
    if kind not in PARTS and slash:
        raise ValueError(f"`{text}` has a part that {kind} references do not have: write {kind}:{name}")
    return Reference(kind, name, part)
