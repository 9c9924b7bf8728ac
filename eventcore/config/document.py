"""The tables of `eventcore/config/README.md`, written from the structs: `python -m eventcore.config.document`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from eventcore.config.describe import describe
from eventcore.config.lint import CODES
from eventcore.config.structs import (
    TABLES,
    CircuitBreakerConfig,
    FilterConfig,
    FilterCriteriaConfig,
    IdempotencyConfig,
    RedrivePolicy,
    RetryExceptionConfig,
    RetryScheduleConfig,
    Section,
    Settings,
)


def settings_tables() -> str:
    """Return every setting with what it takes, its default and its meaning, as Markdown."""
    sections: Mapping[str, type[Section]] = {
        "[settings]": Settings,
        **{f"[{table}.NAME]": section for table, section in TABLES.items()},
        "filter_criteria": FilterCriteriaConfig,
        "filters": FilterConfig,
        "retry_schedule": RetryScheduleConfig,
        "retry_exceptions": RetryExceptionConfig,
        "idempotency": IdempotencyConfig,
        "circuit_breaker": CircuitBreakerConfig,
        "redrive_policy": RedrivePolicy,
    }
    return "\n\n".join("\n".join(_table(heading, section)) for heading, section in sections.items())


def codes_table() -> str:
    """Return every code of the checks with its meaning, as Markdown."""
    rows = [f"| {code} | {meaning} |" for code, meaning in CODES.items()]
    return "\n".join(["| Code | |", "|---|---|", *rows])


def _table(heading: str, section: type[Section]) -> Iterator[str]:
    yield f"### `{heading}`"
    yield ""
    yield "| Setting | Takes | Default | |"
    yield "|---|---|---|---|"
    for field in msgspec.structs.fields(section):
        said = describe(field.type)
        yield f"| `{field.name}` | {said.expected.replace('|', '/')} | {_default(field)} | {said.description} |"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value: Any = field.default
    if value is msgspec.NODEFAULT or value in (None, (), ""):
        return ""
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


if __name__ == "__main__":
    sys.stdout.write(f"{settings_tables()}\n\n{codes_table()}\n")
