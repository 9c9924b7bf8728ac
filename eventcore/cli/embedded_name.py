"""What commands take that work on an embedded queue or stream: its name."""

from __future__ import annotations

import click


class EmbeddedName(click.ParamType[str]):
    """A queue's or stream's name, or the reference to it: `queue:orders`."""

    def __init__(self, kind: str) -> None:
        """Take names of a kind: "queue" or "stream"."""
        self.name = kind.upper()
        self._kind = kind

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's signature
        """Return the name."""
        return str(value).removeprefix(f"{self._kind}:")
