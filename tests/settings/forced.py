"""One setting at its default, whatever a pipeline says: where configuration becomes effective, and nowhere else.

Behind the checks, in `config.load`, so that it is the loss of the setting's effect that a test sees, and no finding.
Tests that convert one section by itself get it there, those of servers that make a connection where they make it, and
the engines that a test starts as processes when they start (`child/sitecustomize.py`).
"""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, get_args, get_origin
from unittest import mock

import msgspec

from eventcore.config import load
from eventcore.config.describe import without_null
from eventcore.config.structs import TABLES, PipelineConfig, Section, Settings

ROOT = Path(__file__).parents[2]
#: In the environment of a test's processes: the setting that is held.
VARIABLE = "EVENTCORE_TESTS_FORCED"
#: Where tests of servers make connections by themselves, also in processes of theirs.
SERVERS = "tests.servers."
CLUSTER = f"{SERVERS}kafka_cluster"

REGISTRY = tomllib.loads((Path(__file__).parents[1] / "tidy" / "settings.toml").read_text(encoding="utf-8"))
SECTIONS: dict[str, type[Section]] = {"settings": Settings, **TABLES}


def forced_value(setting: str) -> Any:
    """Return what a setting is forced to: its default, or the second value that the registry gives."""
    if setting in REGISTRY["second"]:
        return REGISTRY["second"][setting]
    table, *names = setting.split(".")
    kind: Any = SECTIONS[table]
    for name in names[:-1]:
        kind = section_within(_field(kind, name).type)
    return _default(_field(kind, names[-1]))


def section_within(annotation: Any) -> type[Section] | None:
    """Return the section that a setting is, or a list of which it is; None for a plain value."""
    kind = without_null(annotation)
    if get_origin(kind) is tuple:
        kind = without_null(get_args(kind)[0])
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


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

    with ExitStack() as held:
        held.enter_context(mock.patch.object(load, "LoadedConfig", made))
        held.enter_context(mock.patch.object(msgspec, "convert", converted))
        held.enter_context(mock.patch.dict(os.environ, _of_processes(setting)))
        _hold_made(SECTIONS[table], names, value, held)
        yield


def hold(setting: str) -> None:
    """Hold a setting for the rest of this process's life."""
    if setting.startswith("kafka."):
        importlib.import_module(CLUSTER)
    # Its end is the process's: what is open then is not closed.
    _HELD.enter_context(forced(setting))


_HELD = ExitStack()


def _of_processes(setting: str) -> Mapping[str, str]:
    """Return the environment in which a process holds the setting, too."""
    folders = [str(Path(__file__).parent / "child"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {VARIABLE: setting, "PYTHONPATH": os.pathsep.join(folder for folder in folders if folder)}


def _hold_made(section: type[Section], names: list[str], value: Any, held: ExitStack) -> None:
    """Hold the setting in sections that tests of servers make themselves."""

    def make(**settings: Any) -> Section:
        return _force(section(**settings), names, value)

    for name, module in [*sys.modules.items()]:
        if name.startswith(SERVERS) and getattr(module, section.__name__, None) is section:
            held.enter_context(mock.patch.object(module, section.__name__, make))


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
    if isinstance(within, tuple):
        return _replace(section, name, tuple(_force(each, inner, value) for each in within))
    return section if within is None else _replace(section, name, _force(within, inner, value))


def _replace(section: Section, name: str, value: Any) -> Section:
    replaced = msgspec.structs.replace(section, **{name: value})
    replaced.__dict__.update(section.__dict__)
    return replaced
