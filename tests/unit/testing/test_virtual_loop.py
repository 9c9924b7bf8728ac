"""Virtual time (design §6): hours in milliseconds, the same on every run, and nothing in it that takes real time."""

from __future__ import annotations

import asyncio
import math
import re
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import anyio
import pytest

from eventcore.clock import LoopClock
from eventcore.testing.virtual_loop import (
    LIMIT_S,
    TASKS_SHOWN_MAX,
    Deadlock,
    VirtualTimeError,
    run_virtual,
    virtual_loop,
)

HOUR_S = 3600.0

request_id: ContextVar[str] = ContextVar("request_id")


# -- time --------------------------------------------------------------------------------------------------------------


async def test_pytest_asyncio_runs_tests_in_virtual_time() -> None:
    before_s = anyio.current_time()
    await anyio.sleep(6 * HOUR_S)
    assert anyio.current_time() == before_s + 6 * HOUR_S


def test_six_hours_of_retries_pass_at_once() -> None:
    """In real time this test would end tomorrow; its own time limit is a minute."""

    async def retry() -> tuple[int, float]:
        tries = 0
        with anyio.move_on_after(6 * HOUR_S):
            while True:
                await anyio.sleep(7)
                tries += 1
        return tries, anyio.current_time()

    assert run_virtual(retry) == (math.floor(6 * HOUR_S / 7), 6 * HOUR_S)


def test_anyio_takes_the_loop_as_a_factory() -> None:
    async def sleep() -> float:
        await anyio.sleep(HOUR_S)
        return asyncio.get_running_loop().time()

    assert anyio.run(sleep, backend_options={"loop_factory": virtual_loop}) == HOUR_S


def test_everything_that_waits_waits_in_virtual_time() -> None:
    async def main() -> list[tuple[str, float]]:
        seen: list[tuple[str, float]] = []

        async def note(name: str, wait: Callable[[], Awaitable[object]]) -> None:
            await wait()
            seen.append((name, anyio.current_time()))

        async def time_out() -> None:
            with pytest.raises(TimeoutError):
                with anyio.fail_after(30):
                    await anyio.sleep_forever()

        event = anyio.Event()
        send, receive = anyio.create_memory_object_stream[int](0)
        async with anyio.create_task_group() as tasks, send, receive:
            tasks.start_soon(note, "stream", receive.receive)
            tasks.start_soon(note, "event", event.wait)
            tasks.start_soon(note, "sleep", lambda: anyio.sleep(20))
            tasks.start_soon(note, "timeout", time_out)
            tasks.start_soon(note, "clock", lambda: anyio.sleep_until(40))
            await anyio.sleep(10)
            event.set()
            await anyio.sleep(40)
            await send.send(1)
        return seen

    assert run_virtual(main) == [("event", 10), ("sleep", 20), ("timeout", 30), ("clock", 40), ("stream", 50)]


def test_time_stands_still_while_something_is_ready() -> None:
    async def main() -> float:
        for _ in range(1000):
            await anyio.lowlevel.checkpoint()
        return anyio.current_time()

    assert run_virtual(main) == 0


def test_the_wall_clock_of_the_loop_follows() -> None:
    async def main() -> int:
        await anyio.sleep(2.5)
        return LoopClock().now_ms()

    assert run_virtual(main) == LoopClock.START_MS + 2500


def test_a_timer_of_months_is_met() -> None:
    """Retention and leases are days long; asyncio itself looks one day ahead at a time."""

    async def main() -> float:
        await anyio.sleep(100 * 24 * HOUR_S)
        return anyio.current_time()

    assert run_virtual(main) == 100 * 24 * HOUR_S


# -- cancellation ------------------------------------------------------------------------------------------------------


def test_cancelling_ends_sleepers_without_letting_time_pass() -> None:
    async def main() -> tuple[int, float]:
        ended = 0

        async def sleep() -> None:
            nonlocal ended
            try:
                await anyio.sleep(HOUR_S)
            finally:
                ended += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(sleep)
            await anyio.sleep(1)
            tasks.cancel_scope.cancel()
        return ended, anyio.current_time()

    assert run_virtual(main) == (10, 1)


def test_a_shielded_step_takes_its_time() -> None:
    async def main() -> float:
        with anyio.CancelScope() as scope:
            scope.cancel()
            with anyio.move_on_after(5, shield=True):
                await anyio.sleep(60)
        return anyio.current_time()

    assert run_virtual(main) == 5


def test_an_exception_leaves_as_it_is() -> None:
    async def main() -> None:
        await anyio.sleep(1)
        raise KeyError("orders")

    with pytest.raises(KeyError, match="orders"):
        run_virtual(main)


# -- the same on every run ---------------------------------------------------------------------------------------------


async def _workers_of_one_instant(count: int) -> list[int]:
    """Return the order in which tasks go on whose timers are due at the same instants."""
    order: list[int] = []

    async def work(number: int) -> None:
        for _ in range(3):
            await anyio.sleep(1)
            order.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(work, number)
    return order


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equal_seeds_give_equal_orders(seed: int) -> None:
    assert run_virtual(_workers_of_one_instant, 20, seed=seed) == run_virtual(_workers_of_one_instant, 20, seed=seed)


def test_other_seeds_give_other_orders() -> None:
    """All of them are orders that a real loop might have taken: nobody goes twice before each went once."""
    orders = [run_virtual(_workers_of_one_instant, 20, seed=seed) for seed in range(5)]
    assert len({tuple(order) for order in orders}) == 5
    for order in orders:
        assert [sorted(order[at : at + 20]) for at in (0, 20, 40)] == [list(range(20))] * 3


def test_a_seed_keeps_the_order_of_instants_and_the_contexts() -> None:
    async def main() -> list[float]:
        ends: list[float] = []

        async def sleep(delay_s: float) -> None:
            with anyio.move_on_after(delay_s):
                await anyio.sleep_forever()
            ends.append(anyio.current_time())

        async with anyio.create_task_group() as tasks:
            for delay_s in (3, 1, 2):
                tasks.start_soon(sleep, delay_s)
        return ends

    assert run_virtual(main, seed=7) == [1, 2, 3]


@pytest.mark.parametrize("seed", [0, 7])
def test_a_timer_runs_in_the_context_in_which_it_was_set(seed: int) -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        for name in ("a", "b"):
            request_id.set(name)
            asyncio.get_running_loop().call_later(1, lambda: seen.append(request_id.get()))
        request_id.set("c")
        await anyio.sleep(2)
        return sorted(seen)

    assert run_virtual(main, seed=seed) == ["a", "b"]


def test_a_cancelled_timer_does_not_fire_though_its_instant_has_come() -> None:
    """With a seed, timers of an instant are collected first: one of them may cancel another."""

    async def main() -> list[str]:
        fired: list[str] = []
        loop = asyncio.get_running_loop()
        handles: dict[str, asyncio.TimerHandle] = {}

        def fire(name: str, other: str) -> None:
            fired.append(name)
            handles[other].cancel()

        handles["a"] = loop.call_later(1, fire, "a", "b")
        handles["b"] = loop.call_later(1, fire, "b", "a")
        await anyio.sleep(2)
        return fired

    assert {tuple(run_virtual(main, seed=seed)) for seed in range(1, 20)} == {("a",), ("b",)}


# -- what can't be -----------------------------------------------------------------------------------------------------


async def _executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, math.sqrt, 2)


async def _process() -> None:
    await anyio.run_process([sys.executable, "-c", ""])


async def _shell() -> None:
    await asyncio.create_subprocess_shell("true")


async def _client() -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def _server() -> None:
    await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)


async def _unix_client() -> None:
    await asyncio.open_unix_connection("nowhere.sock")


async def _name() -> None:
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)


async def _readable() -> None:
    near, far = socket.socketpair()
    with near, far:
        await anyio.wait_readable(near)


async def _signal() -> None:
    with anyio.open_signal_receiver(2):
        pass


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (_executor, "run_in_executor"),
        (_process, "subprocess_exec"),
        (_shell, "subprocess_shell"),
        (_client, "create_connection"),
        (_server, "create_server"),
        (_unix_client, "create_unix_connection"),
        (_name, "getaddrinfo"),
        (_readable, "add_reader"),
        (_signal, "add_signal_handler"),
    ],
)
def test_what_takes_real_time_is_refused_by_name(function: Callable[[], Awaitable[None]], name: str) -> None:
    with pytest.raises(VirtualTimeError, match=f"^{name} is refused in virtual time: .+"):
        run_virtual(function)


async def _worker_thread() -> None:
    with anyio.fail_after(60):
        await anyio.to_thread.run_sync(math.sqrt, 2)


async def _thread_of_its_own() -> None:
    """As the drivers of databases have one."""
    loop = asyncio.get_running_loop()
    answer = loop.create_future()
    threading.Thread(target=lambda: loop.call_soon_threadsafe(answer.set_result, None), name="the driver").start()
    with anyio.fail_after(60):
        await answer


# A thread that is late complains that the loop which it wants to answer is closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("function", [_worker_thread, _thread_of_its_own])
def test_a_thread_ends_the_run_before_time_passes(function: Callable[[], Awaitable[None]]) -> None:
    """Virtual time would be past the deadline before the thread has begun: what is raised is not a TimeoutError."""
    threads = threading.active_count()
    with pytest.raises(VirtualTimeError, match="a thread takes real time") as raised:
        run_virtual(function)
    assert "AnyIO worker thread" in str(raised.value) or "the driver" in str(raised.value)
    # Nothing is left behind that would keep the interpreter from ending.
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(5)
    assert threading.active_count() <= threads


def test_a_call_from_another_thread_ends_the_run() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(print), name="the stranger")
        thread.start()
        thread.join()
        await anyio.sleep(HOUR_S)

    with pytest.raises(VirtualTimeError, match="call_soon_threadsafe was called from the thread `the stranger`"):
        run_virtual(main)


def test_a_call_from_the_own_thread_is_a_call() -> None:
    async def main() -> bool:
        event = anyio.Event()
        asyncio.get_running_loop().call_soon_threadsafe(event.set)
        await event.wait()
        return event.is_set()

    assert run_virtual(main)


def test_a_thread_that_bothers_nobody_may_run() -> None:
    async def main() -> float:
        thread = threading.Thread(target=math.sqrt, args=(2,))
        thread.start()
        thread.join()
        await anyio.sleep(1)
        return anyio.current_time()

    assert run_virtual(main) == 1


# -- deadlock ----------------------------------------------------------------------------------------------------------


async def _wait_for_nothing() -> None:
    await anyio.Event().wait()


async def _wait_for_ever() -> None:
    await anyio.sleep_forever()


@pytest.mark.parametrize("wait", [_wait_for_nothing, _wait_for_ever])
def test_a_deadlock_lists_who_waits_and_where(wait: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await anyio.sleep(12)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, name="the poller of orders")
            await wait()

    with pytest.raises(Deadlock) as raised:
        run_virtual(main)
    message = str(raised.value)
    assert "at 12 s" in message
    assert "the poller of orders" in message
    first_line = wait.__code__.co_firstlineno
    assert message.count(f"{__file__}:{first_line + 1} in {wait.__name__}") == 2
    assert f"{__file__}:{main.__code__.co_firstlineno + 4} in {main.__qualname__}" in message


def test_a_deadlock_in_cleaning_up_is_an_error_too() -> None:
    """A shielded wait that never ends: it must not hang, and must not hide the first error."""

    async def main() -> None:
        try:
            await anyio.Event().wait()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.Event().wait()

    with pytest.raises(Deadlock, match="nothing is ready"):
        run_virtual(main)


def test_a_run_that_nothing_ends_is_ended() -> None:
    """A heartbeat ticks, and what is waited for never comes."""

    async def main() -> None:
        async def beat() -> None:
            while True:  # noqa: ASYNC110 - it is the heartbeat that is meant
                await anyio.sleep(24 * HOUR_S)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(beat)
            await anyio.Event().wait()

    with pytest.raises(VirtualTimeError, match=re.escape(f"{LIMIT_S:g} s have passed")):
        run_virtual(main)


def test_the_list_of_tasks_is_bounded() -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(TASKS_SHOWN_MAX + 9):
                tasks.start_soon(anyio.Event().wait)

    with pytest.raises(Deadlock, match="and 10 more") as raised:
        run_virtual(main)
    assert len(re.findall(r"^  \S", str(raised.value), re.MULTILINE)) == TASKS_SHOWN_MAX + 1
