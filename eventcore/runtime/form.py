"""What a handler takes, read from its signature: a Lambda event, a batch, or one decoded record a call.

Only the first parameter's annotation is looked at, and only it is evaluated: handlers annotate the others with types
that exist for type checkers alone.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from eventcore.model import Batch, Record
from eventcore.ports.runtime import HandlerForm
from eventcore.runtime.fault import Border

Decode = Callable[[Record], Any]

#: How native types are written where the import is for type checkers alone and the annotation can't be evaluated.
_NATIVE_NAMES = {"Batch": Batch, "eventcore.Batch": Batch, "Record": Record, "eventcore.Record": Record}

_POSITIONAL = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}


class Form(msgspec.Struct, frozen=True):
    """How a handler is called."""

    kind: HandlerForm
    takes_context: bool
    decode: Decode | None = None  #: for TYPED: makes the argument of a record; raises ``msgspec.DecodeError``


def find_form(handler: Callable[..., Any]) -> Form:
    """Return how ``handler`` is to be called, without calling it.

    Raises:
        TypeError: its first parameter's type is one that msgspec can't decode.
    """
    try:
        parameters = list(inspect.signature(handler).parameters.values())
    except ValueError:  # a callable written in C without a signature
        return Form(HandlerForm.EVENT, takes_context=True)
    positional = [parameter for parameter in parameters if parameter.kind in _POSITIONAL]
    is_variadic = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters)
    hint = _resolve(positional[0].annotation, handler) if positional else Any
    kind = _kind_of(hint)
    if kind is HandlerForm.EVENT:
        return Form(kind, takes_context=is_variadic or len(positional) > 1)
    # A parameter with a default is the author's own, unless it is called what it is everywhere else.
    second = positional[1] if len(positional) > 1 else None
    takes_context = second is not None and (second.default is second.empty or second.name.strip("_") == "context")
    return Form(kind, takes_context, _decoder_of(hint) if kind is HandlerForm.TYPED else None)


def _resolve(annotation: Any, handler: Callable[..., Any]) -> Any:
    """Return the type that an annotation stands for; Any where it can't be known."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    function: Any = inspect.unwrap(handler)
    while isinstance(function, types.MethodType | functools.partial):
        function = function.__func__ if isinstance(function, types.MethodType) else function.func
    if not hasattr(function, "__globals__"):
        function = type(function).__call__
    holder = types.SimpleNamespace(__annotations__={"first": annotation})
    with Border():  # an annotation is an expression of the user's: it may raise anything
        return typing.get_type_hints(holder, getattr(function, "__globals__", {}), include_extras=True)["first"]
    return _NATIVE_NAMES.get(annotation, Any)


def _kind_of(hint: Any) -> HandlerForm:
    if hint is Batch:
        return HandlerForm.BATCH
    return HandlerForm.TYPED if hint is Record or _is_typed(hint) else HandlerForm.EVENT


def _is_typed(hint: Any) -> bool:
    """Tell whether a type describes one record: a struct, dataclass, named tuple, attrs class, or a union of them.

    A TypedDict or any other class describes a Lambda event.
    """
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _is_typed(typing.get_args(hint)[0])
    if origin in {typing.Union, types.UnionType}:
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        return bool(members) and all(map(_is_typed, members))
    kind = origin or hint
    if not isinstance(kind, type):
        return False
    return (
        issubclass(kind, msgspec.Struct)
        or dataclasses.is_dataclass(kind)
        or hasattr(kind, "__attrs_attrs__")
        or (issubclass(kind, tuple) and hasattr(kind, "_fields"))
    )


def _decoder_of(hint: Any) -> Decode:
    if hint is Record:
        return lambda record: record
    decoder = msgspec.json.Decoder(hint)

    def decode(record: Record) -> Any:
        # A tombstone has no body; only a type that allows None can take it, and the decoder says so.
        return decoder.decode(b"null" if record.body is None else record.body)

    return decode
