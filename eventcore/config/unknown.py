"""What to say about a key that the pipeline file does not have.

Most such keys are known elsewhere: they are misspelt, written as AWS writes them, stand in the wrong table, or belong
to something that eventcore does not do. Each is told apart, because each needs another hint.
"""

from __future__ import annotations

import difflib
import re

import msgspec

from eventcore.config.describe import describe
from eventcore.config.foreign import REFUSED, RENAMED
from eventcore.config.structs import TABLES, PipelineConfig, RedrivePolicy, Section, Settings

#: Where a word begins inside AWS's spelling: `BatchSize`, `KMSKeyArn`.
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

#: Likeness from which a key counts as a misspelling of another.
SIMILARITY_MIN = 0.75


def snake_case(key: str) -> str:
    """Return AWS's spelling of a name in ours: `BatchSize` is `batch_size`."""
    return _WORD.sub("_", key).replace("-", "_").replace(" ", "_").lower()


def find_meant(section: type[Section], key: str) -> str | None:
    """Return the setting of the section that an unknown key stands for; None when there is no such guess."""
    known = section.__struct_fields__
    name = snake_case(key)
    if name in known:
        return name
    renamed = RENAMED.get(_kind_of(section), {}).get(name)
    return renamed or next(iter(difflib.get_close_matches(name, known, n=1, cutoff=SIMILARITY_MIN)), None)


def explain_unknown(section: type[Section], key: str) -> tuple[str, str]:
    """Return what is wrong with a key that its table does not have, and what to write instead."""
    kind = _kind_of(section)
    name = snake_case(key)
    refused = REFUSED.get(kind, {}).get(name)
    if refused is not None:
        return f"`{key}` is refused: {refused.reason}", refused.instead
    meant = find_meant(section, key)
    if meant is not None and (meant == name or meant == RENAMED.get(kind, {}).get(name)):
        return f"there is no `{key}`: eventcore calls it `{meant}`", f"write `{meant}`{_meaning(section, meant)}"
    if meant is not None:
        return f"there is no `{key}`", f"did you mean `{meant}`?"
    owners = _owners(name, besides=section)
    if owners:
        return f"there is no `{key}` here", f"it belongs to {' or '.join(owners)}"
    return f"there is no `{key}`", f"known are {', '.join(section.__struct_fields__)}"


def _owners(name: str, *, besides: type[Section]) -> list[str]:
    """Return the other tables that have a setting of this name."""
    sections: dict[str, type[Section]] = {
        "[settings]": Settings,
        **{f"[{table}.NAME]": held for table, held in TABLES.items()},
    }
    return [table for table, held in sections.items() if name in held.__struct_fields__ and held is not besides]


def _meaning(section: type[Section], setting: str) -> str:
    """Return a setting's description, which names its unit: AWS's setting of a like name may have another."""
    field = next(field for field in msgspec.structs.fields(section) if field.name == setting)
    description = describe(field.type).description
    return f": {description}" if description else ""


def _kind_of(section: type[Section]) -> str:
    """Return under which name `foreign` holds a section: its table's, or "" for the document itself."""
    if section is Settings:
        return "settings"
    if section is RedrivePolicy:
        return "redrive_policy"
    if section is PipelineConfig:
        return ""
    return next((table for table, held in TABLES.items() if held is section), section.__name__)
