"""Writes each event to the log as one line of JSON; returns nothing, so that everything is settled."""

from __future__ import annotations

import json
import sys
from typing import Any

#: A longer event is cut, and says so: a line of the log holds a quarter of a megabyte.
CHARACTERS_MAX = 100_000


def handle(event: Any, context: Any) -> None:
    """Write one event."""
    text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    if len(text) > CHARACTERS_MAX:
        text = f"{text[:CHARACTERS_MAX]}... ({len(text)} characters)"
    sys.stdout.write(f"{context.aws_request_id} {text}\n")
    sys.stdout.flush()
