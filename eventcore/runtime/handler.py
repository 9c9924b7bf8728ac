"""A function's handler: found by its name, called in its form, its answer made an outcome.

Runs in the environment and, for inline functions, in the engine. `answer` is a coroutine in both: in an environment
with a synchronous handler it never suspends, and is driven without an event loop.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec

from eventcore.model import FAULTS_MAX, RESPONSE_BYTES_MAX, Batch, Fault, Outcome, OutcomeKind, OutgoingRecord, Record
from eventcore.ports.runtime import HandlerForm
from eventcore.runtime import fault as faults
from eventcore.runtime.context import LambdaContext
from eventcore.runtime.form import Form, find_form
from eventcore.runtime.results import bounded, is_results, make_results

#: What messages of FIFO queues have, and no other record (Lambda semantics §3.1 "Event shape"). Their batches have at
#: most ten, and so never more faults than `FAULTS_MAX`.
_FIFO_ATTRIBUTE = "SequenceNumber"
#: Makes of what a handler returned what is awaited for its result, in whichever loop there is.
Finish = Callable[[Awaitable[Any]], Awaitable[Any]]


class Loaded(msgspec.Struct, frozen=True):
    """A handler ready to be called."""

    call: Callable[..., Any]
    form: Form
    code: str  #: the folder of the user's code: where faults are located
    pid: int  #: the process that it is called in
    is_async: bool  #: it is a coroutine function, and wants to run in an event loop as a whole


class Call(msgspec.Struct, frozen=True):
    """One invocation, as `answer` needs it: an event, or for native handlers a batch."""

    context: LambdaContext
    event: Any = None
    batch: Batch | None = None
    wants_results: bool = False  #: what a handler of records returns is sent on


def load(name: str, code: str, *passes: type[BaseException]) -> Loaded | Fault:
    """Import ``module.attribute`` and find its form; what goes wrong is returned as a fault.

    Args:
        name: the handler; the module's part may use `/` for `.`, as on Lambda.
        code: the folder of the user's code, already on the module search path.
        passes: exceptions that go through the border.
    """
    module_name, _, attribute = name.rpartition(".")
    module_name = module_name.replace("/", ".")
    if not module_name or not attribute:
        return faults.setup_fault(
            "Runtime.MalformedHandlerName", f"Bad handler '{name}': write module.attribute, as 'orders.enrich'"
        )
    other = _find_other(module_name.partition(".")[0], Path(code))
    if other:
        message = f"Unable to import module '{module_name}': {other} has the same name and is imported already: rename"
        return faults.setup_fault("Runtime.ImportModuleError", f"{message} yours")
    with faults.Border(*passes) as border:
        module = importlib.import_module(module_name)
    if border.error is not None:
        return faults.import_fault(border.error, module_name, code)
    handler = getattr(module, attribute, None)
    if not callable(handler):
        return faults.setup_fault("Runtime.HandlerNotFound", f"Handler '{attribute}' missing on module '{module_name}'")
    return prepare(handler, code)


def _find_other(name: str, code: Path) -> str:
    """Return the module that bears the name of one in ``code`` and would be called in its place; empty without one."""
    module = sys.modules.get(name)
    is_here = module is not None and ((code / f"{name}.py").exists() or (code / name).is_dir())
    # A folder of modules without an `__init__` has no file.
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), f"built-in module '{name}'")
    return file if is_here and not Path(file).is_relative_to(code) else ""


def prepare(handler: Callable[..., Any], code: str) -> Loaded | Fault:
    """Find a callable's form."""
    with faults.Border() as border:
        is_async = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)
        return Loaded(handler, find_form(handler), code, os.getpid(), is_async)
    assert border.error is not None
    return faults.import_fault(border.error, getattr(handler, "__module__", ""), code)


def native_batch(event: Any) -> Batch:
    """Return the batch that stands for a direct invocation of a handler that takes records: one record, the event."""
    body = msgspec.json.encode(event)
    return Batch(source="invoke", shard="", records=(Record(position=0, body=body, size_bytes=len(body)),))


def as_direct(outcome: Outcome) -> Outcome:
    """Return the outcome of a direct invocation, where a fault for the one record is the invocation's."""
    if outcome.fault is None or outcome.kind is OutcomeKind.FAILURE:
        return outcome
    return _failure(outcome.fault)


async def answer(loaded: Loaded, call: Call, finish: Finish, *passes: type[BaseException]) -> Outcome:
    """Run the handler once and return its outcome; never raises but what ``passes`` lets through."""
    match loaded.form.kind:
        case HandlerForm.EVENT:
            return await _answer_event(loaded, call, finish, passes)
        case HandlerForm.BATCH:
            return await _answer_batch(loaded, call, finish, passes)
        case HandlerForm.TYPED:
            return await _answer_typed(loaded, call, finish, passes)


async def _run(
    loaded: Loaded, argument: Any, call: Call, finish: Finish, passes: tuple[type[BaseException], ...]
) -> tuple[Any, Fault | None]:
    result = None
    with faults.Border(*passes) as border:
        result = loaded.call(argument, call.context) if loaded.form.takes_context else loaded.call(argument)
        if hasattr(result, "__await__"):
            # Asked of the result, not of the handler: a decorated one need not look like a coroutine function.
            result = await finish(result)
    if os.getpid() != loaded.pid:
        os._exit(0)  # the handler forked, and its child came back from it: the parent goes on, and answers
    if border.error is None:
        return result, None
    return None, faults.handler_fault(border.error, call.context.aws_request_id, loaded.code)


def _failure(fault: Fault) -> Outcome:
    return Outcome(kind=OutcomeKind.FAILURE, fault=fault)


async def _answer_event(loaded: Loaded, call: Call, finish: Finish, passes: tuple[type[BaseException], ...]) -> Outcome:
    result, fault = await _run(loaded, call.event, call, finish, passes)
    if fault is not None:
        return _failure(fault)
    if result is None:
        return Outcome(kind=OutcomeKind.SUCCESS)
    request_id = call.context.aws_request_id
    with faults.Border() as border:
        response = _marshal(result)
    if border.error is not None:
        return _failure(faults.marshal_fault(faults.describe(border.error), request_id))
    if len(response) > RESPONSE_BYTES_MAX:
        return _failure(faults.oversize_fault(request_id))
    return Outcome(kind=OutcomeKind.SUCCESS, response=response)


async def _answer_batch(loaded: Loaded, call: Call, finish: Finish, passes: tuple[type[BaseException], ...]) -> Outcome:
    assert call.batch is not None
    result, fault = await _run(loaded, call.batch, call, finish, passes)
    if fault is not None:
        return _failure(fault)
    if call.wants_results and is_results(result):
        last = len(call.batch) - 1
        results = tuple([(last, record) for record in result])
        return bounded(Outcome(kind=OutcomeKind.SUCCESS, failed=(), results=results), call.context.aws_request_id)
    failed = _indices_of(result, call.batch.records)
    if failed is None:
        reason = "a Batch handler returns None or a list of failed records of its batch"
        if call.wants_results:
            reason += ", or a list of eventcore.OutgoingRecord"
        return _failure(faults.marshal_fault(reason, call.context.aws_request_id))
    return Outcome(kind=OutcomeKind.SUCCESS, failed=failed)


def _indices_of(result: Any, records: Sequence[Record]) -> tuple[int, ...] | None:
    """Return which records of a batch a handler named failed, rising; None when it returned something else."""
    if result is None:
        return ()
    if not isinstance(result, Sequence) or not all(isinstance(record, Record) for record in result):
        return None
    known = {(record.position, record.id): index for index, record in enumerate(records)}
    indices = {known.get((record.position, record.id)) for record in result}
    found = sorted(index for index in indices if index is not None)
    return tuple(found) if len(found) == len(indices) else None


async def _answer_typed(loaded: Loaded, call: Call, finish: Finish, passes: tuple[type[BaseException], ...]) -> Outcome:
    """Call the handler for each record.

    In a stream the first record that fails stops there: nothing behind it may run before it. In a queue the others go
    on, and each failed record has its own fault: what can't be decoded is given up, what raised is tried again. In a
    FIFO queue what raised takes the rest of its group with it, unrun (Lambda semantics §3.1 "FIFO caution"). The one
    fault that speaks for the batch is that of a handler, where one raised.
    """
    batch, decode, handler = call.batch, loaded.form.decode, loaded.call
    assert batch is not None
    assert decode is not None
    takes_context, context, pid = loaded.form.takes_context, call.context, loaded.pid
    failed: list[int] = []
    each: list[Fault] = []
    results: list[tuple[int, OutgoingRecord]] | None = [] if call.wants_results else None
    raised: Fault | None = None
    unreadable: Fault | None = None
    records: Iterator[tuple[int, Record]] = iter(enumerate(batch.records))
    is_done = False
    while not is_done:
        is_read = False
        # One border for all records up to the next that fails: one for each, and a coroutine for each call, took 1 µs a
        # record. Decoding is inside: a struct's own checks are the user's code, and may raise anything.
        with faults.Border(*passes) as border:
            for index, record in records:
                is_read = False
                argument = decode(record)
                is_read = True
                result = handler(argument, context) if takes_context else handler(argument)
                if result is not None and hasattr(result, "__await__"):
                    result = await finish(result)
                if results is not None and result is not None:
                    results.extend([(index, made) for made in make_results(result, record)])
                if os.getpid() != pid:
                    os._exit(0)  # see `_run`
        if os.getpid() != pid:
            os._exit(0)
        if border.error is None:
            break
        if is_read:
            fault = faults.handler_fault(border.error, context.aws_request_id, loaded.code)
            raised = raised or fault
        else:
            fault = faults.undecodable_fault(border.error, context.aws_request_id)
            unreadable = unreadable or fault
        failed.append(index)
        if len(each) < FAULTS_MAX:
            each.append(fault)
        is_done = bool(batch.shard)
        if is_read and _FIFO_ATTRIBUTE in batch.records[index].attributes:
            behind, others = _part_group(records, batch.records[index].key)
            failed += behind
            each += [fault] * len(behind)
            records = iter(others)
    if failed != sorted(failed):  # as those of one group lie between others
        failed, each = map(list, zip(*sorted(zip(failed, each, strict=True), key=itemgetter(0)), strict=True))
    outcome = Outcome(kind=OutcomeKind.SUCCESS, failed=tuple(failed), faults=tuple(each), fault=raised or unreadable)
    if not results:
        return outcome
    return bounded(msgspec.structs.replace(outcome, results=tuple(results)), context.aws_request_id)


def _part_group(
    records: Iterable[tuple[int, Record]], group: bytes | None
) -> tuple[list[int], list[tuple[int, Record]]]:
    """Return the indices of those records that are of a message group, and the others."""
    others: list[tuple[int, Record]] = []
    behind: list[int] = []
    for index, record in records:
        if record.key == group:
            behind.append(index)
        else:
            others.append((index, record))
    return behind, others


def _write_decimal(value: Any) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


# Lambda's own rules: no bytes, dates or sets, which msgspec would write; and never NaN, which nobody could read back.
_MARSHALLER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_write_decimal)


def _marshal(result: Any) -> bytes:
    return _MARSHALLER.encode(result).encode()


def search_first(code: str) -> None:
    """Put a folder first on the module search path."""
    if code in sys.path:
        sys.path.remove(code)
    sys.path.insert(0, code)
