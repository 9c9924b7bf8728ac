"""From a pipeline file to checked structs, with every mistake reported at once."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from eventcore.config.convert import convert_pipeline
from eventcore.config.findings import Finding, Findings
from eventcore.config.lint import lint
from eventcore.config.positions import find_lines
from eventcore.config.provenance import KeyPath, Place, Provenance
from eventcore.config.structs import TABLES, PipelineConfig, Section
from eventcore.config.substitute import substitute
from eventcore.errors import ConfigError, Mistake

#: What a pipeline file is called where only its folder is named.
PIPELINE_FILE = "eventcore.toml"
#: A pipeline of a thousand mappings takes a fifth of this; beyond it, the file is something else.
FILE_BYTES_MAX = 2 * 1024 * 1024

#: Where tomllib says in its message that it stopped.
_STOPPED_AT = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)")

#: A check beside those of `lint`: of what could be read, where to note what it finds, and the pipeline's folder.
Check = Callable[[PipelineConfig, Findings, Path], None]


class LoadedConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline without mistakes."""

    config: PipelineConfig
    folder: Path  #: absolute; what `code` is relative to, and what the state folder stands in
    provenance: Provenance
    warnings: tuple[Finding, ...] = ()  #: in the order of their lines

    def masked(self) -> PipelineConfig:
        """Return the pipeline with `***` in place of all that came from the environment."""
        return self.config.masked()

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("file", self.provenance.file), ("config", self.config)]

    def __repr__(self) -> str:
        return f"LoadedConfig(file={self.provenance.file!r}, config={self.config!r})"


def load_config(
    path: str | os.PathLike[str], *, environ: Mapping[str, str] | None = None, also: Check | None = None
) -> LoadedConfig:
    """Read and check a pipeline file.

    Args:
        path: the file, or the folder that holds an `eventcore.toml`.
        environ: what `${env:NAME}` means; the process's own environment when None.
        also: one more check, of what could be read.

    Raises:
        ConfigError: the file has mistakes, or can't be read; all of them at once, in the order of their lines.
    """
    where = Path(path)
    # `Path.is_dir` raises for a name that is too long; opening it says so in the end.
    if os.path.isdir(where):  # noqa: PTH112
        where /= PIPELINE_FILE
    file = os.fspath(where)
    text = _read(where, file)
    document = _parse(text, file)
    places = {key: Place(file, line) for key, line in find_lines(text).items()}
    return assemble(document, file=file, places=places, folder=where.absolute().parent, environ=environ, also=also)


def assemble(
    document: Mapping[str, Any],
    *,
    file: str,
    places: Mapping[KeyPath, Place],
    folder: Path,
    environ: Mapping[str, str] | None = None,
    mistakes: tuple[Mistake, ...] = (),
    also: Check | None = None,
) -> LoadedConfig:
    """Check a pipeline that was read from a file or declared in Python: the same road for both forms.

    Args:
        document: nested tables, as in the file.
        file: what to name where no line is known.
        places: where each setting was written.
        folder: what `code` is relative to.
        environ: what `${env:NAME}` means; the process's own environment when None.
        mistakes: what has been found wrong before.
        also: one more check, of what could be read.

    Raises:
        ConfigError: there are mistakes; all of them at once.
    """
    findings = Findings(file)
    findings.mistakes.extend(mistakes)
    findings.provenance = Provenance(file=file, places=places)
    substituted = substitute(document, os.environ if environ is None else environ, findings.add_unreadable)
    findings.provenance = Provenance(
        file=file, places=places, variables=substituted.variables, masked=substituted.masked
    )
    draft = convert_pipeline(substituted.document, findings)
    for table in TABLES:
        for name, section in getattr(draft.config, table).items():
            _hide(section, (table, name), substituted.masked)
    _hide(draft.config.settings, ("settings",), substituted.masked)
    lint(draft, findings, folder=folder)
    if also is not None:
        also(draft.config, findings, folder)
    findings.raise_mistakes()
    return LoadedConfig(
        config=draft.config, folder=folder, provenance=findings.provenance, warnings=findings.warnings_in_order()
    )


def _hide(section: Section, path: KeyPath, masked: Mapping[KeyPath, str]) -> None:
    """Give a section the masks of its settings, and of the settings within them."""
    masks: dict[str, Any] = {}
    for setting in section.__struct_fields__:
        value = getattr(section, setting)
        inner: KeyPath = (*path, setting)
        if isinstance(value, Section):
            _hide(value, inner, masked)
        elif isinstance(value, dict):
            shown = {key: masked.get((*inner, key), entry) for key, entry in value.items()}
            if shown != value:
                masks[setting] = shown
        elif isinstance(value, tuple):
            entries = tuple(masked.get((*inner, index), entry) for index, entry in enumerate(value))
            if entries != value:
                masks[setting] = entries
        elif inner in masked:
            masks[setting] = masked[inner]
    if masks:
        section.hide(masks)


def _read(path: Path, file: str) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise _refuse(file, "there is no such file", "`eventcore init` writes one to begin with") from error
    except OSError as error:
        raise _refuse(file, f"can't be read: {error.strerror}", "name a file that can be read") from error
    if len(data) > FILE_BYTES_MAX:
        raise _refuse(file, f"is larger than {FILE_BYTES_MAX:,} bytes: this is no pipeline file", "name another file")
    try:
        # The mark that some editors put before UTF-8 is no part of the document.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _refuse(file, "is not UTF-8", "save it with UTF-8 encoding", line=line) from error


def _parse(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise _refuse(file, "is nested too deeply", "a pipeline file has tables in tables, and no more") from error
    except ValueError as error:
        # Not only TOMLDecodeError: a number of thousands of digits is a plain ValueError.
        stopped = _STOPPED_AT.search(str(error))
        line = int(stopped.group(1)) if stopped and stopped.group(1) else text.count("\n") + 1 if stopped else None
        message = f"is not TOML: {_STOPPED_AT.sub('', str(error))}"
        raise _refuse(file, message, "what stands behind this line was not looked at", line=line) from error


def _refuse(file: str, message: str, hint: str, *, line: int | None = None) -> ConfigError:
    return ConfigError([Mistake(path="the file", message=message, hint=hint, file=file, line=line)])
