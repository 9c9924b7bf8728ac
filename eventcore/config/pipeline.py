"""A pipeline written in Python: the same settings as the pipeline file, and equal structs.

Declarations are collected as they are and checked by `Pipeline.loaded`, all at once, on the road that a file takes;
each mistake names the line of the call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, Unpack, overload

from eventcore.config.keywords import (
    BucketKeywords,
    FunctionKeywords,
    HttpKeywords,
    KafkaKeywords,
    MappingKeywords,
    QueueKeywords,
    S3Keywords,
    SettingsKeywords,
    StreamKeywords,
)
from eventcore.config.load import Check, LoadedConfig, assemble
from eventcore.config.origin import find_caller, find_importable, place_of, root_of
from eventcore.config.provenance import KeyPath, Place, dotted
from eventcore.errors import Mistake

#: Every form of a handler: what it takes (event, `Batch` or a struct; then perhaps the context) is its own business,
#: and whether it is `async` too.
Handler = Callable[[Any], Any] | Callable[[Any, Any], Any]

HandlerT = TypeVar("HandlerT", bound=Handler)


class Pipeline:
    """Declarations of functions, mappings, queues, streams and connections. Not thread-safe; reusable after `loaded`.

    ```python
    app = eventcore.App()
    app.stream("orders")


    @app.function(timeout=10)
    def enrich(order: Order) -> None: ...


    app.mapping("orders", source="stream:orders", function=enrich, starting_position="TRIM_HORIZON")
    ```
    """

    def __init__(self, *, folder: str | os.PathLike[str] | None = None) -> None:
        """Begin an empty pipeline.

        Args:
            folder: what `code` is relative to; by default the folder in which the calling module's name begins.
        """
        caller = find_caller()
        self._folder = root_of(caller) if folder is None else Path(folder).absolute()
        self._file = place_of(caller).file
        self._document: dict[str, dict[str, Any]] = {}
        self._places: dict[KeyPath, Place] = {}
        self._mistakes: list[Mistake] = []
        self._targets: dict[str, Callable[..., Any]] = {}
        #: Callables that became functions, with the function's name.
        self._declared: list[tuple[Callable[..., Any], str]] = []

    @property
    def targets(self) -> Mapping[str, Callable[..., Any]]:
        """The callables of functions that run inline, by the function's name."""
        return self._targets

    def settings(self, **settings: Unpack[SettingsKeywords]) -> None:
        """Set what holds for the whole pipeline: `[settings]`."""
        place = place_of(find_caller())
        self._document.setdefault("settings", {}).update(settings)
        self._mark(("settings",), settings, place)

    @overload
    def function(self, handler: HandlerT, /) -> HandlerT: ...
    @overload
    def function(self, name: str, /, *, handler: str, **settings: Unpack[FunctionKeywords]) -> None: ...
    @overload
    def function(
        self, name: str | None = None, /, **settings: Unpack[FunctionKeywords]
    ) -> Callable[[HandlerT], HandlerT]: ...
    def function(self, name: Any = None, /, **settings: Any) -> Any:
        """Declare a function: `[functions.NAME]`. A decorator that returns the callable unchanged.

        Without a name the function is called as the callable is. With ``handler="module.attribute"`` nothing is
        decorated: the function is declared as in the file, and None is returned.

        Args:
            name: the function's.
            settings: those of `FunctionConfig`.
        """
        place = place_of(find_caller())
        if callable(name):
            self._declare_callable(name, None, {}, place)
            return name
        if "handler" in settings:
            self._declare(("functions", str(name)), settings, place)
            return None

        def decorate(handler: HandlerT) -> HandlerT:
            self._declare_callable(handler, name, settings, place)
            return handler

        return decorate

    def mapping(self, name: str, *, source: str, function: str | Handler, **settings: Unpack[MappingKeywords]) -> None:
        """Declare an event source mapping: `[mappings.NAME]`.

        Args:
            name: the mapping's.
            source: `kind:name[/part]`.
            function: a function's name, or the callable that was declared as one.
            settings: those of `MappingConfig`.
        """
        named = function if isinstance(function, str) else self._name_of(function)
        self._declare(("mappings", name), {"source": source, "function": named, **settings}, place_of(find_caller()))

    def queue(self, name: str, **settings: Unpack[QueueKeywords]) -> None:
        """Declare an embedded queue: `[queues.NAME]`."""
        self._declare(("queues", name), settings, place_of(find_caller()))

    def stream(self, name: str, **settings: Unpack[StreamKeywords]) -> None:
        """Declare an embedded stream: `[streams.NAME]`."""
        self._declare(("streams", name), settings, place_of(find_caller()))

    def kafka(self, name: str, *, bootstrap_servers: str, **settings: Unpack[KafkaKeywords]) -> None:
        """Declare a connection to Kafka: `[kafka.NAME]`."""
        self._declare(("kafka", name), {"bootstrap_servers": bootstrap_servers, **settings}, place_of(find_caller()))

    def http(self, name: str, *, url: str, **settings: Unpack[HttpKeywords]) -> None:
        """Declare an HTTP endpoint: `[http.NAME]`."""
        self._declare(("http", name), {"url": url, **settings}, place_of(find_caller()))

    def bucket(self, name: str, **settings: Unpack[BucketKeywords]) -> None:
        """Declare a bucket, which is a folder or stands on an object store: `[buckets.NAME]`."""
        self._declare(("buckets", name), settings, place_of(find_caller()))

    def s3(
        self, name: str, *, endpoint: str, access_key_id: str, secret_access_key: str, **settings: Unpack[S3Keywords]
    ) -> None:
        """Declare a connection to an object store: `[s3.NAME]`."""
        named = {"endpoint": endpoint, "access_key_id": access_key_id, "secret_access_key": secret_access_key}
        self._declare(("s3", name), {**named, **settings}, place_of(find_caller()))

    def loaded(self, *, environ: Mapping[str, str] | None = None, also: Check | None = None) -> LoadedConfig:
        """Check everything declared so far and return it.

        Args:
            environ: what `${env:NAME}` means; the process's own environment when None.
            also: one more check, of what could be read.

        Raises:
            ConfigError: there are mistakes; all of them at once, each with the line of its call.
        """
        return assemble(
            self._document,
            file=self._file,
            places=self._places,
            folder=self._folder,
            environ=environ,
            mistakes=tuple(self._mistakes),
            also=also,
        )

    def _name_of(self, handler: Callable[..., Any]) -> str:
        """Return the name under which a callable was declared last, or its own."""
        declared = (name for known, name in reversed(self._declared) if known == handler)
        return next(declared, getattr(handler, "__name__", "function"))

    def _declare_callable(
        self, handler: Callable[..., Any], name: str | None, settings: Mapping[str, Any], place: Place
    ) -> None:
        named = name if name is not None else str(getattr(handler, "__name__", "function"))
        path = ("functions", named)
        found = find_importable(handler, "handler")
        if settings.get("runtime") == "inline":
            self._targets[named] = handler
        elif found.problem:
            self._complain(path, found.problem, 'define it at the top of a module, or write runtime="inline"', place)
        self._declared.append((handler, named))
        code = {}
        if found.root is not None and "code" not in settings and found.root != self._folder:
            code["code"] = Path(os.path.relpath(found.root, self._folder)).as_posix()
        self._declare(path, {"handler": found.handler, **code, **settings}, place)

    def _declare(self, path: tuple[str, str], settings: Mapping[str, Any], place: Place) -> None:
        table, name = path
        sections = self._document.setdefault(table, {})
        if name in sections:
            message = f"is declared twice: first at {self._places[path]}"
            self._complain(path, message, "take one out, or give it another name", place)
            return
        sections[name] = dict(settings)
        self._places[path] = place
        self._mark(path, settings, place)

    def _mark(self, path: KeyPath, settings: Mapping[str, Any], place: Place) -> None:
        """Remember the line for each setting, and for what is in it."""
        for setting, value in settings.items():
            inner = (*path, setting)
            self._places[inner] = place
            if isinstance(value, Mapping):
                self._mark(inner, value, place)

    def _complain(self, path: KeyPath, message: str, hint: str, place: Place) -> None:
        mistake = Mistake(path=dotted(path), message=message, hint=hint, file=place.file, line=place.line)
        self._mistakes.append(mistake)
