"""Who plays in a test: the pipeline's functions, all inline, some of them replaced by the test's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from eventcore.config.load import LoadedConfig, load_config
from eventcore.config.pipeline import Pipeline
from eventcore.config.structs import PROCESS_SETTINGS, FunctionConfig
from eventcore.errors import ProgrammingError
from eventcore.testing.scripted import as_handler


class Cast(msgspec.Struct, frozen=True):
    """A pipeline whose functions run inline."""

    loaded: LoadedConfig
    targets: Mapping[str, Callable[..., Any]]  #: callables by function, where one is known
    variables: Mapping[str, str]  #: environment variables of the functions that were not replaced

    @contextmanager
    def environment(self) -> Iterator[None]:
        """Give this process the functions' environment variables, for the length of the context."""
        before = {name: os.environ.get(name) for name in self.variables}
        os.environ.update(self.variables)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def read_cast(
    pipeline: Pipeline | LoadedConfig | str | os.PathLike[str], functions: Mapping[str, Callable[..., Any]]
) -> Cast:
    """Read a pipeline and put the test's functions in the place of its own; all of them will run inline.

    Raises:
        ConfigError: the pipeline has mistakes.
        ProgrammingError: there is no such function; two functions want other values of one environment variable.
    """
    if isinstance(pipeline, Pipeline):
        loaded, targets = pipeline.loaded(), dict(pipeline.targets)
    else:
        loaded, targets = pipeline if isinstance(pipeline, LoadedConfig) else load_config(pipeline), {}
    declared = loaded.config.functions
    for name in functions:
        if name not in declared:
            there = ", ".join(sorted(declared)) or "none"
            raise ProgrammingError(f"there is no function `{name}` in this pipeline; there is: {there}")
    inline = {name: _inline(function) for name, function in declared.items()}
    return Cast(
        msgspec.structs.replace(loaded, config=msgspec.structs.replace(loaded.config, functions=inline)),
        {**targets, **{name: as_handler(function) for name, function in functions.items()}},
        _join_variables({name: function for name, function in declared.items() if name not in functions}),
    )


def _inline(function: FunctionConfig) -> FunctionConfig:
    """Return a function as it runs in virtual time: without processes, and so without their settings."""
    defaults = {name: getattr(_DEFAULTS, name) for name in PROCESS_SETTINGS}
    return msgspec.structs.replace(function, runtime="inline", **defaults)


def _join_variables(functions: Mapping[str, FunctionConfig]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, function in functions.items():
        for variable, value in function.environment.items():
            if joined.setdefault(variable, value) != value:
                raise ProgrammingError(
                    f"function `{name}` and another want different values of the environment variable `{variable}`, "
                    f"and a test runs both in one process: replace one of them by a function of the test's"
                )
    return joined


_DEFAULTS = FunctionConfig(handler="module.handler")
