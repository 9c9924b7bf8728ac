"""One setting at its default, whatever a pipeline says: where configuration becomes effective, and nowhere else.

Behind the checks, in `config.load`, so that it is the loss of the setting's effect that a test sees, and no finding.
Tests that convert one section by itself get it there.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from eventcore.config import load
from eventcore.config.describe import without_null
from eventcore.config.structs import TABLES, PipelineConfig, Section, Settings

REGISTRY = tomllib.loads((Path(__file__).parents[1] / "tidy" / "settings.toml").read_text(encoding="utf-8"))
SECTIONS: dict[str, type[Section]] = {"settings": Settings, **TABLES}


def forced_value(setting: str) -> Any:
    """Return what a setting is forced to: its default, or the second value that the registry gives."""
    if setting in REGISTRY["second"]:
        return REGISTRY["second"][setting]
    table, *names = setting.split(".")
    kind: Any = SECTIONS[table]
    for name in names[:-1]:
        kind = without_null(_field(kind, name).type)
    return _default(_field(kind, names[-1]))


def _field(kind: Any, name: str) -> msgspec.structs.FieldInfo:
    (field,) = [field for field in msgspec.structs.fields(kind) if field.name == name]
    return field


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    assert not field.required, f"{field.name} is required: the registry needs a second value"
    return field.default


@contextmanager
def forced(setting: str) -> Iterator[None]:
    """Hold a setting at its default, in everything that is loaded meanwhile."""
    table, *names = setting.split(".")
    value = forced_value(setting)
    make, convert = load.LoadedConfig, msgspec.convert

    def made(*, config: PipelineConfig, **others: Any) -> load.LoadedConfig:
        return make(config=_force_pipeline(config, table, names, value), **others)

    def converted(source: Any, type: Any, **options: Any) -> Any:  # noqa: A002 - msgspec's name
        found = convert(source, type, **options)
        is_alone = type is SECTIONS[table] and not sys._getframe(1).f_globals["__name__"].startswith("eventcore.")
        return _force(found, names, value) if is_alone else found

    load.LoadedConfig, msgspec.convert = made, converted
    try:
        yield
    finally:
        load.LoadedConfig, msgspec.convert = make, convert


def _force_pipeline(config: PipelineConfig, table: str, names: list[str], value: Any) -> PipelineConfig:
    if table == "settings":
        return _replace(config, table, _force(config.settings, names, value))
    sections = {name: _force(section, names, value) for name, section in getattr(config, table).items()}
    return _replace(config, table, sections)


def _force(section: Section, names: list[str], value: Any) -> Section:
    name, *inner = names
    if not inner:
        return _replace(section, name, value)
    within = getattr(section, name)
    return section if within is None else _replace(section, name, _force(within, inner, value))


def _replace(section: Section, name: str, value: Any) -> Section:
    replaced = msgspec.structs.replace(section, **{name: value})
    replaced.__dict__.update(section.__dict__)
    return replaced
