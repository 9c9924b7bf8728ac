"""A handler's form is read from its first parameter's annotation, however it is written, without calling it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Generic, NamedTuple, Optional, TypedDict, TypeVar

import msgspec
import pytest

import eventcore
from eventcore.model import Batch, Record
from eventcore.ports.runtime import HandlerForm
from eventcore.runtime.form import find_form

if TYPE_CHECKING:
    from somewhere import OnlyForCheckers  # type: ignore[import-not-found]

T = TypeVar("T")


class Order(msgspec.Struct):
    number: int


class Refund(msgspec.Struct, tag=True):
    number: int


class Cancel(msgspec.Struct, tag=True):
    number: int


class Envelope(msgspec.Struct, Generic[T]):
    value: T


@dataclasses.dataclass
class Plain:
    number: int


class Pair(NamedTuple):
    left: int
    right: int


class LambdaEvent(TypedDict):
    Records: list[Any]


class Wrapper:
    """As event classes of tool kits are: made from a dict, known to no decoder."""


def unannotated(event, context): ...
def alone(event): ...
def variadic(*arguments): ...
def any_event(event: Any, context: Any): ...
def dict_event(event: dict[str, Any], context: Any): ...
def mapping_event(event: Mapping[str, Any], context: Any): ...
def typed_dict(event: LambdaEvent, context: Any): ...
def wrapper(event: Wrapper, context: Any): ...
def text(event: str, context: Any): ...
def list_of_structs(event: list[Order], context: Any): ...
def mixed_union(event: Order | dict[str, Any], context: Any): ...
def for_checkers(event: "OnlyForCheckers", context: "OnlyForCheckers"): ...
def broken(event: "1 / 0", context): ...


def batch(batch: Batch): ...
def batch_public(batch: eventcore.Batch): ...
def batch_text(batch: "eventcore.Batch"): ...
def batch_default(batch: Batch, retries: int = 3): ...
def batch_context(batch: Batch, context: "OnlyForCheckers"): ...
def batch_context_default(batch: Batch, context=None): ...
def batch_underscore(batch: Batch, _context=None): ...


def struct(order: Order): ...
def struct_text(order: "Order"): ...
def struct_context(order: Order, context: Any): ...
def struct_optional(order: Order | None): ...
def struct_optional_old(order: Optional[Order]): ...  # noqa: UP045
def struct_annotated(order: Annotated[Order, "told"]): ...
def struct_generic(envelope: Envelope[Order]): ...
def union(record: Refund | Cancel): ...
def dataclass(plain: Plain): ...
def named_tuple(pair: Pair): ...
def record(record: Record): ...


@functools.wraps(struct_text)
def wrapped(*arguments): ...


class Service:
    def method(self, order: Order): ...
    def __call__(self, order: "Order"): ...


EVENT, BATCH, TYPED = HandlerForm.EVENT, HandlerForm.BATCH, HandlerForm.TYPED


@pytest.mark.parametrize(
    ("handler", "kind", "takes_context"),
    [
        (unannotated, EVENT, True),
        (alone, EVENT, False),
        (variadic, EVENT, True),
        (any_event, EVENT, True),
        (dict_event, EVENT, True),
        (mapping_event, EVENT, True),
        (typed_dict, EVENT, True),
        (wrapper, EVENT, True),
        (text, EVENT, True),
        (list_of_structs, EVENT, True),
        (mixed_union, EVENT, True),
        (for_checkers, EVENT, True),
        (broken, EVENT, True),
        (print, EVENT, True),
        (batch, BATCH, False),
        (batch_public, BATCH, False),
        (batch_text, BATCH, False),
        (batch_default, BATCH, False),
        (batch_context, BATCH, True),
        (batch_context_default, BATCH, True),
        (batch_underscore, BATCH, True),
        (struct, TYPED, False),
        (struct_text, TYPED, False),
        (struct_context, TYPED, True),
        (struct_optional, TYPED, False),
        (struct_optional_old, TYPED, False),
        (struct_annotated, TYPED, False),
        (struct_generic, TYPED, False),
        (union, TYPED, False),
        (dataclass, TYPED, False),
        (named_tuple, TYPED, False),
        (record, TYPED, False),
        (Service().method, TYPED, False),
        (Service(), TYPED, False),
        (functools.partial(struct_context, context=None), TYPED, False),
        (wrapped, TYPED, False),
    ],
    ids=lambda value: getattr(value, "__name__", None) or type(value).__name__,
)
def test_finds_the_form(handler: Callable[..., Any], kind: HandlerForm, takes_context: bool):
    form = find_form(handler)
    assert (form.kind, form.takes_context) == (kind, takes_context)
    assert (form.decode is not None) is (kind is TYPED)


def test_knows_native_types_by_name_where_the_import_is_for_checkers_alone():
    """`from eventcore import Batch` under TYPE_CHECKING leaves a name that can't be evaluated."""
    names: dict[str, Any] = {}
    exec("def handler(batch: 'Batch'): ...", names)
    assert find_form(names["handler"]).kind is BATCH


@pytest.mark.parametrize(
    ("handler", "body", "argument"),
    [
        (struct, b'{"number": 1}', Order(1)),
        (struct_optional, None, None),
        (struct_generic, b'{"value": {"number": 1}}', Envelope(Order(1))),
        (union, b'{"type": "Cancel", "number": 1}', Cancel(1)),
        (dataclass, b'{"number": 1}', Plain(1)),
        (named_tuple, b"[1, 2]", Pair(1, 2)),
        (record, b"\xff", Record(position=1, body=b"\xff")),
    ],
)
def test_decodes_a_record_into_what_the_handler_takes(handler: Callable[..., Any], body: bytes | None, argument: Any):
    decode = find_form(handler).decode
    assert decode is not None
    assert decode(Record(position=1, body=body)) == argument
