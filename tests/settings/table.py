"""The table of settings with the tests that fail without them, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from eventcore.config.describe import describe
from eventcore.config.structs import Section
from tests.settings.forced import SECTIONS, section_within
from tests.settings.refusals import refusals

HEAD = """# Every setting, and the test that shows that it acts

Written by `python -m tests.settings --write` (and `--servers --write`): each setting's test ran as it is, and passed;
then with the setting held at its default, or a required one at another value, and failed. What each setting means is in
the [README](README.md); which of them are refused together is there under their codes.

"Refused for" is what the checks say to a pipeline of each kind that has the setting, with their code: sources of
mappings (and FIFO queues apart), inline functions, standard and FIFO queues, and Kafka's clients and group protocol.

| Setting | Takes | Default | Refused for | Acts: the test that passes with it and fails without |
|---|---|---|---|---|
"""


def settings_table(runs: Mapping[str, str]) -> str:
    """Return the table.

    Args:
        runs: by setting, the test that was seen to fail without it; a setting without one is said not to be shown.
    """
    return HEAD + "".join(f"{line}\n" for line in _rows(runs))


def _rows(runs: Mapping[str, str]) -> Iterator[str]:
    refused = refusals()
    for setting, field in every_setting():
        said = describe(field.type)
        default = "required" if field.required else f"`{_default(field)}`"
        cells = [
            f"`{setting}`",
            said.expected.replace("|", "/"),
            default,
            refused.get(setting, ""),
            f"`{runs[setting]}`" if setting in runs else "**not shown**",
        ]
        yield f"| {' | '.join(cells)} |"


def every_setting() -> Iterator[tuple[str, msgspec.structs.FieldInfo]]:
    """Return every setting with its name, also those within others."""
    for table, section in SECTIONS.items():
        yield from _of_section(section, table)


def _of_section(section: type[Section], prefix: str) -> Iterator[tuple[str, msgspec.structs.FieldInfo]]:
    for field in msgspec.structs.fields(section):
        yield f"{prefix}.{field.name}", field
        inner = section_within(field.type)
        if inner is not None:
            yield from _of_section(inner, f"{prefix}.{field.name}")


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    if field.default is None:
        return "none"
    return str(field.default).lower() if isinstance(field.default, bool) else field.default
