"""Where a pipeline is and where its state is; and how the pipeline is read, from a file or from Python."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from eventcore.cli.options import Options
from eventcore.errors import CommandError
from eventcore.http.refusals import ExitCode

if TYPE_CHECKING:
    from eventcore.config.load import Check, LoadedConfig

STATE_FOLDER = ".eventcore"
#: As `eventcore.config.load` has it, whose import costs more than asking a running engine.
PIPELINE_FILE = "eventcore.toml"

#: `orders:app`: a module, and the name of an `App` in it.
_IN_PYTHON = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class PipelinePlace(msgspec.Struct, frozen=True):
    """A pipeline that is named, and not read yet."""

    config: str  #: a file, a folder that holds one, or `module:app`
    state: Path  #: the state folder


class ReadPipeline(NamedTuple):
    """A pipeline that was read and has no mistakes."""

    loaded: LoadedConfig
    targets: Mapping[str, Callable[..., Any]] = {}  #: callables of functions that run inline


def find_place(options: Options) -> PipelinePlace:
    """Return the place that the options name, without touching it."""
    named = options.config or PIPELINE_FILE
    if options.state:
        return PipelinePlace(named, Path(options.state))
    if is_python(named):
        return PipelinePlace(named, Path(STATE_FOLDER))
    path = Path(named)
    return PipelinePlace(named, (path if path.is_dir() else path.parent) / STATE_FOLDER)


def is_python(config: str) -> bool:
    """Tell whether a pipeline is named as `module:app`."""
    return _IN_PYTHON.fullmatch(config) is not None and not Path(config).exists()


def read_pipeline(place: PipelinePlace, *, also: Check | None = None) -> ReadPipeline:
    """Read and check a pipeline; ``also`` is one more check, of what could be read.

    Raises:
        ConfigError: it has mistakes; all of them at once.
        CommandError: its module can't be imported, or holds no such pipeline.
    """
    if not is_python(place.config):
        _refuse_module(place.config)
        from eventcore.config.load import load_config

        return ReadPipeline(load_config(place.config, also=also))
    app = _import_app(place.config)
    return ReadPipeline(app.loaded(also=also), app.targets)


def _refuse_module(config: str) -> None:
    """Say how a pipeline in Python is named where its file or module alone was given."""
    path = Path(config if config.endswith(".py") else f"{config.replace('.', '/')}.py")
    if path.is_file() and not path.is_absolute() and (config.endswith(".py") or not Path(config).exists()):
        module = ".".join(path.with_suffix("").parts)
        raise CommandError(
            f"`{config}` is a Python module: name the App in it too",
            exit_code=ExitCode.CONFIG_INVALID,
            hint=f"did you mean `{module}:app`?",
        )


def _import_app(config: str) -> Any:
    from eventcore.config.pipeline import Pipeline
    from eventcore.runtime.fault import Border

    module_name, _, attribute = config.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    with Border(KeyboardInterrupt) as border:
        module = importlib.import_module(module_name)
    if border.error is not None:
        raise CommandError(
            f"the module {module_name} can't be imported: {_show_error(border.error)}",
            exit_code=ExitCode.CONFIG_INVALID,
        ) from border.error
    app = getattr(module, attribute, None)
    if not isinstance(app, Pipeline):
        reason = "is no eventcore.App" if hasattr(module, attribute) else "is not there"
        raise CommandError(f"`{attribute}` in the module {module_name} {reason}", exit_code=ExitCode.CONFIG_INVALID)
    return app


def _show_error(error: BaseException) -> str:
    """Return an error of the user's module, with the user's own lines of its traceback."""
    ours = ("<frozen ", __file__, str(Path(importlib.__file__ or "").parent))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    text = "".join(traceback.format_exception_only(error)).strip()
    return "\n".join([text, *("".join(traceback.format_list(frames)).rstrip().splitlines())])
