"""The pipeline file's JSON Schema, for editors that complete and check while one types."""

from __future__ import annotations

from typing import Any

import msgspec

from eventcore.config.structs import PipelineConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12): types, ranges, defaults and descriptions of every setting.

    It knows nothing of combinations and references: those are `config.lint`'s.
    """
    schema = {"$schema": DIALECT, "title": "eventcore.toml", **msgspec.json.schema(PipelineConfig)}
    # The encoder's defaults may hold tuples, which are no JSON: one round trip makes them lists.
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(schema))
    _allow_variables(plain)
    return plain


def _allow_variables(node: Any) -> None:
    """Let `${env:NAME}` stand where a text must match a pattern: what it means is not known before the start."""
    if isinstance(node, list):
        for entry in node:
            _allow_variables(entry)
    elif isinstance(node, dict):
        for key, entry in node.items():
            if key != "propertyNames":
                _allow_variables(entry)
        if node.get("type") == "string" and "pattern" in node:
            node["anyOf"] = [{"pattern": node.pop("pattern")}, {"pattern": r"\$\{env:[A-Za-z_][A-Za-z0-9_]*\}"}]
