"""A setting's type in words, read from its annotation: messages, explanations and README all say the same."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from msgspec import inspect

#: More of a wrong text would only hide what is wrong with it.
SHOWN_CHARACTERS_MAX = 40


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What a setting takes."""

    type: inspect.Type  #: without annotations and without the null of optional settings
    expected: str  #: as "a whole number from 1 to 900"
    description: str = ""
    examples: tuple[Any, ...] = ()


def without_null(annotation: Any) -> Any:
    """Return an annotation without its metadata and without `None`."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in {Union, types.UnionType}:
            annotation = next(member for member in get_args(annotation) if member is not types.NoneType)
        else:
            return annotation


def describe(annotation: Any) -> Description:
    """Return what a field's annotation says."""
    kind = annotation if isinstance(annotation, inspect.Type) else inspect.type_info(annotation)
    schema: dict[str, Any] = {}
    while isinstance(kind, inspect.Metadata | inspect.UnionType):
        if isinstance(kind, inspect.UnionType):
            # Unions are only ever "or null": the settings whose default depends on others.
            kind = next(member for member in kind.types if not isinstance(member, inspect.NoneType))
        else:
            schema |= kind.extra_json_schema or {}
            kind = kind.type
    return Description(
        type=kind,
        expected=_expected(kind),
        description=schema.get("description", ""),
        examples=tuple(schema.get("examples", ())),
    )


def explain_wrong(expected: Description, value: Any, begin: str, *, masked: str | None) -> tuple[str, str]:
    """Return what is wrong with a value that its setting does not take, and what to write instead.

    Args:
        expected: what the setting takes.
        value: what stands there.
        begin: what stands before the value, `batch_size = `; nothing before an entry of a list.
        masked: what to show instead of a value that came from the environment; None for any other.
    """
    purpose = f": {expected.description}" if expected.description else ""
    shown = _show(value) if masked is None else f'"{masked}"'
    hint = _hint(expected, value, begin) if masked is None else "change the environment variable"
    if masked is not None and not isinstance(expected.type, inspect.StrType | inspect.LiteralType):
        hint = "the environment gives text only: write the value itself"
    return f"{shown} is not {expected.expected}{purpose}", hint


def write_example(begin: str, expected: Description) -> str:
    """Return a line that would be right; `begin` is what stands before the value."""
    if expected.examples:
        return f"write {begin}{_show(expected.examples[0])}"
    match expected.type:
        case inspect.BoolType():
            return f"write {begin}true, or false"
        case inspect.IntType(ge=lowest) | inspect.FloatType(ge=lowest):
            return f"write {begin}{1 if lowest is None else max(lowest, 0)}, or more"
        case inspect.LiteralType(values=values):
            return f'write {begin}"{values[0]}"'
        case inspect.StrType():
            return f'write {begin}"..."'
        case inspect.VarTupleType():
            return f'write {begin}["..."]'
        case _:
            return f"write {begin}{{ ... }}"


def _expected(kind: inspect.Type) -> str:
    match kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number{_range(kind)}"
        case inspect.FloatType():
            return f"a number{_range(kind)}"
        case inspect.StrType():
            return "text" + (f" that matches {kind.pattern}" if kind.pattern else "") + _length(kind)
        case inspect.LiteralType():
            return " or ".join(f"`{value}`" for value in kind.values)
        case inspect.VarTupleType():
            return f"a list, each of it {_expected(kind.item_type)}"
        case _:
            return "a table"


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    lowest, highest = kind.ge, kind.le
    if lowest is not None and highest is not None:
        return f" from {lowest:,} to {highest:,}"
    if kind.gt is not None and highest is not None:
        return f" above {kind.gt:,}, up to {highest:,}"
    return "" if lowest is None else f" of at least {lowest:,}"


def _length(kind: inspect.StrType) -> str:
    if kind.max_length is not None:
        return f" of {kind.min_length or 0} to {kind.max_length} characters"
    return ", not empty" if kind.min_length else ""


def _show(value: Any) -> str:
    """Return a value as it would stand in a TOML file, cut where it is long."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        cut = value if len(value) <= SHOWN_CHARACTERS_MAX else f"{value[:SHOWN_CHARACTERS_MAX]}..."
        return f'"{cut}"'
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    return "nothing" if value is None else str(value)


def _hint(expected: Description, value: Any, begin: str) -> str:
    kind = expected.type
    if isinstance(value, str):
        return _hint_for_text(expected, value, begin) or write_example(begin, expected)
    if isinstance(value, int | float) and isinstance(kind, inspect.StrType):
        return f'write {begin}"{_show(value)}"'
    if isinstance(value, int | float) and isinstance(kind, inspect.IntType | inspect.FloatType):
        if kind.le is not None and value > kind.le:
            return f"write {begin}{kind.le}, or less"
        if isinstance(value, float) and value.is_integer():
            return f"write {begin}{value:.0f}"
    return write_example(begin, expected)


def _hint_for_text(expected: Description, value: str, begin: str) -> str:
    """Return what a text in the wrong place was probably meant to be; empty where that is unknown."""
    kind = expected.type
    if isinstance(kind, inspect.LiteralType):
        choices = {str(choice).lower(): str(choice) for choice in kind.values}
        written = value.lower().replace("-", "_")
        close = difflib.get_close_matches(written, choices, n=1)
        # A beginning is too short to be like the whole: `TRIM`.
        close = close or [choice for choice in choices if written and choice.startswith(written)]
        return f"did you mean `{choices[close[0]]}`?" if close else ""
    if isinstance(kind, inspect.VarTupleType):
        return f"write {begin}[{_show(value)}]"
    # What would be right without its quotes: "10", "true".
    return f"write {begin}{value.lower()}, without quotes" if _would_fit(value, kind) else ""


def _would_fit(text: str, kind: inspect.Type) -> bool:
    plain: Any = {inspect.BoolType: bool, inspect.IntType: int, inspect.FloatType: float}.get(type(kind))
    if plain is None:
        return False
    try:
        msgspec.convert(text, plain, strict=False)
    except msgspec.ValidationError:
        return False
    return True
