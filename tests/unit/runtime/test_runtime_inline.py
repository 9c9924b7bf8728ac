"""The inline runtime refuses what it can't keep, and survives what trusted handlers do all the same."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from eventcore.clock import SystemClock
from eventcore.errors import HandlerError
from eventcore.ids import SeededIds
from eventcore.model import Batch, FaultCause, Invocation, Outcome, OutcomeKind, Record
from eventcore.ports.runtime import FunctionSpec, HandlerForm, LogLine
from eventcore.runtime.inline import InlineRuntime, open_inline_runtime
from eventcore.testing.virtual_loop import run_virtual


class Order(msgspec.Struct):
    id: int


@asynccontextmanager
async def inline(lines: list[LogLine] | None = None, **options: Any) -> AsyncIterator[InlineRuntime]:
    sink = [] if lines is None else lines
    async with open_inline_runtime(SystemClock(), SeededIds(1), sink.extend, **options) as runtime:
        yield runtime


def spec(handler: str = "orders.handler", **settings: Any) -> FunctionSpec:
    return FunctionSpec(**{"name": "f", "handler": handler, "code": Path.cwd(), "arn": "arn:", **settings})


async def call(runtime: InlineRuntime, function: FunctionSpec, event: Any = None) -> Outcome:
    return await runtime.invoke(function, Invocation(request_id="r", build_event=lambda: event))


async def test_runs_a_callable_that_is_there_already():
    """As functions of a pipeline written in Python are."""

    async def double(event: int) -> int:
        return 2 * event

    async with inline() as runtime:
        function = spec("made.up", target=double)
        assert await runtime.prepare(function) is HandlerForm.EVENT
        assert (await call(runtime, function, 21)).response == b"42"


@pytest.mark.parametrize(
    ("settings", "named"), [({"environment": {"A": "1"}}, "environment"), ({"preload": ("json",)}, "preload")]
)
async def test_refuses_settings_that_need_a_process(settings: dict[str, Any], named: str):
    """No setting is accepted and ignored."""
    async with inline() as runtime:
        with pytest.raises(HandlerError, match=named):
            await runtime.prepare(spec(target=print, **settings))
        assert (await call(runtime, spec(target=print, **settings))).kind is OutcomeKind.FAILURE


async def test_refuses_a_module_whose_name_is_taken(tmp_path: Path):
    """One process has one module of a name; the other function's must not run in its place."""
    name = "inline_taken"
    for folder, answer in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").write_text(f"def handler(event): return {answer}\n")
    async with inline() as runtime:
        first = spec(f"{name}.handler", name="a", code=tmp_path / "a")
        second = spec(f"{name}.handler", name="b", code=tmp_path / "b")
        assert (await call(runtime, first)).response == b"1"
        with pytest.raises(HandlerError, match="same name"):
            await runtime.prepare(second)
        assert (await call(runtime, first)).response == b"1"


async def test_finds_a_module_that_was_written_while_it_ran(tmp_path: Path):
    name = "inline_late"
    async with inline() as runtime:
        function = spec(f"{name}.handler", code=tmp_path)
        assert (await call(runtime, function)).kind is OutcomeKind.FAILURE
        (tmp_path / f"{name}.py").write_text("def handler(event): return 'there'\n")
        assert (await call(runtime, function)).response == b'"there"'


async def test_survives_a_handler_that_ends_the_process():
    def leave(event: Any) -> None:
        sys.exit(3)

    async with inline() as runtime:
        fault = (await call(runtime, spec(target=leave))).fault
        assert fault is not None
        assert (fault.cause, fault.exit_code) == (FaultCause.EXIT, 3)


async def test_survives_a_module_that_ends_the_process(tmp_path: Path):
    name = "inline_leaves"
    (tmp_path / f"{name}.py").write_text("import sys\nsys.exit(0)\n")
    async with inline() as runtime:
        fault = (await call(runtime, spec(f"{name}.handler", code=tmp_path))).fault
        assert fault is not None
        assert fault.error_type == "Runtime.ExitError"


async def test_takes_a_cancellation_that_nobody_asked_for_as_the_handlers_own():
    """It must not end the task that waits for the invocation."""

    async def cancel_itself(event: Any) -> None:
        raise asyncio.CancelledError

    async with inline() as runtime:
        fault = (await call(runtime, spec(target=cancel_itself))).fault
        assert fault is not None
        assert (fault.cause, fault.error_type) == (FaultCause.HANDLER, "CancelledError")


BEGUN: list[int] = []


async def end_at_once(order: Order) -> None:
    """Be ended like most."""
    BEGUN.append(order.id)
    await anyio.sleep_forever()


async def swallow(order: Order) -> None:
    """Take being ended for success."""
    BEGUN.append(order.id)
    with suppress(asyncio.CancelledError):
        await anyio.sleep_forever()


async def fail_in_clean_up(order: Order) -> None:
    """Raise something else for it."""
    BEGUN.append(order.id)
    try:
        await anyio.sleep_forever()
    finally:
        raise ValueError("no roll-back either")


async def raise_another(order: Order) -> None:
    """Swallow being ended, and raise what looks like it."""
    await swallow(order)
    raise asyncio.CancelledError


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "late"])
@pytest.mark.parametrize("shard", ["0", ""], ids=["stream", "queue"])
@pytest.mark.parametrize("handler", [end_at_once, swallow, fail_in_clean_up, raise_another])
def test_begins_no_record_behind_the_one_in_which_it_is_ended(handler: Any, shard: str, is_killed: bool):
    """Whatever the handler makes of it, and without an end of the task that waits for the invocation."""
    BEGUN.clear()
    records = [Record(position=number, body=b'{"id": %d}' % number) for number in range(3)]
    batch = Batch(source="stream:orders", shard=shard, records=records, request_id="r")
    outcomes: list[Outcome] = []

    async def body() -> None:
        async def invoke() -> None:
            invocation = Invocation(request_id="r", build_event=dict, batch=batch)
            outcomes.append(await runtime.invoke(spec(target=handler, timeout_s=60), invocation))

        async with inline() as runtime, anyio.create_task_group() as tasks:
            tasks.start_soon(invoke)
            await anyio.sleep(59)
            if is_killed:
                assert runtime.kill("r")
                assert not runtime.is_alive("r")

    run_virtual(body)
    assert BEGUN == [0]
    (outcome,) = outcomes
    if is_killed:
        assert (outcome.kind, outcome.fault) == (OutcomeKind.RELEASED, None)
    else:
        assert outcome.kind is OutcomeKind.FAILURE
        assert outcome.fault is not None
        assert outcome.fault.cause is FaultCause.TIMEOUT


def test_an_invocation_that_is_cancelled_is_no_outcome_whatever_its_handler_makes_of_it():
    """The cancellation goes on where it came from."""
    BEGUN.clear()
    batch = Batch(source="stream:orders", shard="0", records=[Record(position=0, body=b'{"id": 0}')], request_id="r")
    outcomes: list[Outcome] = []

    async def body() -> None:
        async with inline() as runtime:
            with anyio.move_on_after(5) as scope:
                invocation = Invocation(request_id="r", build_event=dict, batch=batch)
                outcomes.append(await runtime.invoke(spec(target=end_at_once, timeout_s=60), invocation))
            assert scope.cancelled_caught
            assert runtime.statistics().busy == 0

    run_virtual(body)
    assert (BEGUN, outcomes) == ([0], [])


async def test_names_a_handler_that_leaves_a_scope_open():
    """It is the handler's fault, not the engine's."""
    left = anyio.CancelScope()

    async def leave_open(event: Any) -> None:
        left.__enter__()

    async with inline() as runtime:
        fault = (await call(runtime, spec(target=leave_open))).fault
        assert fault is not None
        assert (fault.cause, fault.error_type) == (FaultCause.HANDLER, "RuntimeError")


async def test_counts_a_handler_that_swallows_its_cancellation_as_late():
    async def stubborn(event: Any) -> str:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1.1)
        return "done"

    async with inline() as runtime:
        fault = (await call(runtime, spec(target=stubborn, timeout_s=1))).fault
        assert fault is not None
        assert fault.cause is FaultCause.TIMEOUT


async def test_lets_ctrl_c_through():
    def interrupt(event: Any) -> None:
        raise KeyboardInterrupt

    async with inline() as runtime:
        with pytest.raises(KeyboardInterrupt):
            await call(runtime, spec(target=interrupt))
        assert runtime.statistics().busy == 0


@pytest.mark.parametrize("stall_s", [None, 60.0])
async def test_hands_on_what_its_callers_block_raises(stall_s: float | None):
    """As it is, whether the loop is watched or not."""
    with pytest.raises(LookupError, match="mine"):
        async with inline(stall_s=stall_s):
            raise LookupError("mine")


async def test_names_a_handler_that_blocks_the_loop():
    """By function, file and line, once; the loop's own waiting is not blamed."""
    lines: list[LogLine] = []

    def block(event: Any) -> None:
        _block()

    async def wait(event: Any) -> None:
        await anyio.sleep(0.3)

    async with inline(lines, stall_s=0.1) as runtime:
        await call(runtime, spec("orders.wait", name="patient", target=wait))
        for _ in range(2):
            await call(runtime, spec("orders.block", name="blocker", target=block, code=Path(__file__).parent))
            await anyio.sleep(0.2)
    (line,) = [line for line in lines if "blocked" in line.text]
    assert line.function == "blocker"
    assert line.stream == "platform"
    assert line.text.startswith("orders.block blocked the event loop for more than 0.1 s at ")
    assert f"{__file__}:{BLOCKS_AT} in _block" in line.text


async def test_names_a_handler_that_blocks_right_behind_short_ones():
    """The watch goes on between handlers that follow each other, and sees the one that stands still."""
    lines: list[LogLine] = []

    def block(event: Any) -> None:
        _block()

    async with inline(lines, stall_s=0.1) as runtime:
        for _ in range(10):
            await call(runtime, spec("orders.short", name="short", target=lambda event: None))
            await anyio.sleep(0.01)
        await call(runtime, spec("orders.block", name="blocker", target=block, code=Path(__file__).parent))
        await anyio.sleep(0.2)
    (line,) = [line for line in lines if "blocked" in line.text]
    assert line.function == "blocker"


async def test_names_a_handler_that_blocked_right_before_the_end():
    """A run that ends when its handler has returned says so, too."""
    lines: list[LogLine] = []

    async def wait(event: Any) -> None:
        await anyio.sleep(0.01)

    def block(event: Any) -> None:
        _block()

    async with inline(lines, stall_s=0.1) as runtime:
        await call(runtime, spec("orders.wait", name="patient", target=wait))
        await call(runtime, spec("orders.block", name="blocker", target=block, code=Path(__file__).parent))
    assert [line.function for line in lines if "blocked" in line.text] == ["blocker"]


def _block() -> None:
    import time

    time.sleep(0.5)


BLOCKS_AT = _block.__code__.co_firstlineno + 3
