"""Both runtimes keep the promises of their kit; what only the process runtime does is shown beside it."""

import json
import os
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from eventcore.clock import LoopClock, SystemClock
from eventcore.errors import EventcoreError, HandlerError, HandlerTimeout, InvocationError
from eventcore.ids import SeededIds
from eventcore.model import FaultCause, Outcome, OutcomeKind
from eventcore.ports.runtime import FunctionSpec, LogLine, LogSink, Runtime
from eventcore.runtime.environment import DESCRIPTOR_MIN
from eventcore.runtime.inline import InlineRuntime, open_inline_runtime
from eventcore.runtime.launcher import STARTS_MAX
from eventcore.runtime.process import ProcessRuntime, open_process_runtime
from eventcore.runtime.tree import children_of
from eventcore.testing.conformance.runtime import RuntimeConformance
from eventcore.testing.conformance.runtime_under_test import RuntimeUnderTest, is_running, until
from eventcore.testing.virtual_loop import run_virtual

FUNCTIONS = Path(__file__).parent / "functions"


class TestInline(RuntimeConformance):
    """In real time."""

    capabilities = InlineRuntime.capabilities

    def open_runtime(self, log_sink: LogSink) -> AbstractAsyncContextManager[Runtime]:
        return open_inline_runtime(SystemClock(), SeededIds(1), log_sink)


class TestInlineInVirtualTime(TestInline):
    """Without threads, processes, sockets or real time: the virtual loop refuses them."""

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        run_virtual(body)

    def open_runtime(self, log_sink: LogSink) -> AbstractAsyncContextManager[Runtime]:
        return open_inline_runtime(LoopClock(), SeededIds(1), log_sink)


class TestProcess(RuntimeConformance):
    """Environments forked from a zygote."""

    capabilities = ProcessRuntime.capabilities

    @pytest.fixture(autouse=True)
    def _state(self, tmp_path: Path) -> None:
        self._state_dir = tmp_path / "state"

    def open_runtime(self, log_sink: LogSink) -> AbstractAsyncContextManager[Runtime]:
        return open_process_runtime(SystemClock(), SeededIds(1), log_sink, self._state_dir)


# -- what only the process runtime does --------------------------------------------------------------------------------


@asynccontextmanager
async def process_runtime(state_dir: Path | None = None) -> AsyncIterator[RuntimeUnderTest]:
    lines: list[LogLine] = []
    async with open_process_runtime(SystemClock(), SeededIds(1), lines.extend, state_dir) as runtime:
        yield RuntimeUnderTest(runtime, lines)


def function(test: RuntimeUnderTest, name: str, **settings) -> FunctionSpec:
    module, _, attribute = name.rpartition(".")
    return test.function(f"{module or 'process_handlers'}.{attribute}", code=FUNCTIONS, **settings)


async def test_forks_environments_from_a_zygote_that_never_imports_the_handler():
    """The environments' parent is the zygote, the engine's own child; two environments, one zygote."""
    async with process_runtime() as test:
        first = await test.result(function(test, "describe"))
        second = await test.result(function(test, "describe", version="2"))
        assert first["pid"] != second["pid"]
        assert first["parent"] == second["parent"] != os.getpid()
        assert first["imported_in"] == first["pid"]


async def test_spawns_a_fresh_interpreter():
    """Its command line says so; everything else is as with a fork."""
    async with process_runtime() as test:
        forked = await test.result(function(test, "describe"))
        spawned = function(test, "describe", version="2", start="spawn", environment={"TABLE": "orders"})
        found = await test.result(spawned)
        assert found["environment"]["TABLE"] == "orders"
        assert set(found["environment"]) == {*forked["environment"], "TABLE"}
        assert found["path"][0] == forked["path"][0] == str(FUNCTIONS)
        assert found["parent"] == forked["parent"]
        assert "eventcore.runtime.environment" in _read(f"/proc/{found['pid']}/cmdline").split("\0")
        assert (await test.result(spawned))["pid"] == found["pid"]


async def test_reports_faults_of_a_spawned_handler():
    async with process_runtime() as test:
        assert (await test.fault(test.function("fail", start="spawn"))).error_type == "CustomError"
        late = await test.fault(test.function("sleep", start="spawn", timeout_s=1), 60)
        assert late.error_type == "Sandbox.Timedout"
        crashed = await test.fault(test.function("conformance_harms.exit_at_once", start="spawn"), 3)
        assert crashed.exit_code == 3


async def test_starts_an_interpreter_through_the_functions_wrapper(tmp_path: Path):
    """Lambda semantics §7.2 "bad wrapper": exit status 127. A fork starts no interpreter, so there it is refused."""
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\nexport WRAPPED=yes\nexec "$@"\n')
    wrapper.chmod(0o700)
    async with process_runtime() as test:
        wrapped = {"AWS_LAMBDA_EXEC_WRAPPER": str(wrapper)}
        found = await test.result(function(test, "describe", start="spawn", environment=wrapped))
        assert found["environment"]["WRAPPED"] == "yes"
        missing = {"AWS_LAMBDA_EXEC_WRAPPER": str(tmp_path / "nothing")}
        spec = function(test, "describe", start="spawn", environment=missing)
        fault = await test.fault(spec, request_id="a")
        assert fault.message == "RequestId: a Error: Runtime exited with error: exit status 127"
        with pytest.raises(HandlerError, match="spawn"):
            await test.runtime.prepare(function(test, "describe", environment=wrapped))


async def test_preloads_modules_in_a_zygote_of_the_functions_own():
    """Imported once, before the fork; other functions have another zygote."""
    async with process_runtime() as test:
        plain = await test.result(function(test, "describe"))
        spec = function(test, "describe", version="2", preload=("preload_plain",))
        found = await test.result(spec)
        assert found["modules"] == ["preload_plain"]
        assert plain["modules"] == []
        assert found["parent"] != plain["parent"]
        await test.runtime.retire("describe")
        await until(lambda: not is_running(found["parent"]))
        assert is_running(plain["parent"])


@pytest.mark.parametrize(
    ("module", "left"),
    [
        ("preload_thread", "thread 'heartbeat'"),
        ("preload_socket", "a socket open"),
        ("preload_loop", "an event loop open"),
        ("preload_raises", "LookupError: no table"),
        ("no_such_module", "No module named 'no_such_module'"),
    ],
)
async def test_refuses_by_name_what_must_not_be_forked(module: str, left: str):
    """The first module that leaves something; the function fails, others run."""
    async with process_runtime() as test:
        spec = function(test, "describe", preload=("preload_plain", module))
        with pytest.raises(HandlerError) as raised:
            await test.runtime.prepare(spec)
        assert f"preload of '{module}'" in str(raised.value)
        assert left in str(raised.value)
        fault = await test.fault(spec)
        assert (fault.cause, fault.error_type) == (FaultCause.IMPORT, "Runtime.PreloadRefused")
        assert await test.result("echo", 1) == 1


async def test_hears_why_preload_was_refused_from_a_zygote_that_has_ended_before_it_was_asked():
    """A busy machine may run the zygote to its end before the engine's next step."""
    before = set(children_of(os.getpid()))

    def wait_for_its_end(lines: Sequence[LogLine]) -> None:
        """Let nothing else of this process run until then."""
        if any(line.text.startswith("INIT_START") for line in lines):
            (zygote,) = set(children_of(os.getpid())) - before
            os.waitid(os.P_PID, zygote, os.WEXITED | os.WNOWAIT)

    async with open_process_runtime(SystemClock(), SeededIds(1), wait_for_its_end, None) as runtime:
        test = RuntimeUnderTest(runtime, [])
        fault = await test.fault(function(test, "describe", preload=("preload_raises",)))
        assert (fault.cause, fault.error_type) == (FaultCause.IMPORT, "Runtime.PreloadRefused")


async def test_refuses_preload_where_nothing_is_forked():
    async with process_runtime() as test:
        with pytest.raises(HandlerError, match="fork"):
            await test.runtime.prepare(function(test, "describe", start="spawn", preload=("preload_plain",)))


async def test_refuses_a_folder_that_is_not_there(tmp_path: Path):
    async with process_runtime() as test:
        fault = await test.fault(test.function("echo", code=tmp_path / "nowhere"))
        assert fault.cause is FaultCause.IMPORT
        assert str(tmp_path / "nowhere") in fault.message


async def test_names_a_module_that_another_of_the_same_name_would_replace(tmp_path: Path):
    """The zygote has imported `json`: the user's would silently not be."""
    (tmp_path / "json.py").write_text("def handler(event): return 'mine'\n")
    async with process_runtime() as test:
        fault = await test.fault(test.function("json.handler", code=tmp_path))
        assert fault.error_type == "Runtime.ImportModuleError"
        assert "same name" in fault.message


async def test_starts_more_environments_than_it_asks_for_at_a_time():
    """A burst waits its turn; nothing is refused."""
    count = STARTS_MAX + 8
    async with process_runtime() as test:
        pids: list[int] = []

        async def call() -> None:
            pids.append(await test.result(function(test, "linger"), 0.5))

        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(call)
        assert len(pids) == count
        assert test.runtime.statistics().started == len(set(pids))


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "cancelled"])
async def test_ends_an_import_that_nobody_waits_for(is_killed: bool, tmp_path: Path):
    """An invocation that waits for its environment is released as one that runs."""
    variables = {"MARKER": str(tmp_path / "marker"), "SLOW_TRIES": "9"}
    outcomes: list[Outcome] = []
    async with process_runtime() as test:
        spec = function(test, "slow_import.handler", environment=variables)
        scope = anyio.CancelScope()

        async def call() -> None:
            with scope:
                outcomes.append(await test.call(spec, request_id="slow"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await until((tmp_path / "marker").exists)
            assert test.runtime.is_alive("slow")
            if is_killed:
                assert test.runtime.kill("slow")
            else:
                scope.cancel()
        assert [outcome.kind for outcome in outcomes] == ([OutcomeKind.RELEASED] if is_killed else [])
        assert test.runtime.statistics().environments == 0
        assert not test.runtime.is_alive("slow")


@pytest.mark.parametrize("is_first", [True, False], ids=["zygote", "environment"])
async def test_says_that_no_more_files_can_be_opened(is_first: bool):
    """It is the engine's trouble, no function's; nothing is left open, and it passes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with process_runtime() as test:
        if not is_first:
            await test.result("echo", 1)
        before = _open_descriptors()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(EventcoreError, match="no environment can be started: Too many open files") as raised:
                await test.call("count")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert not isinstance(raised.value, InvocationError)
        assert _open_descriptors() == before
        assert await test.result("count") == 1


async def test_takes_no_answer_to_another_invocation():
    """Whoever wrote it: the environment is not to be trusted any more."""
    async with process_runtime() as test:
        spec = function(test, "forge_reply")
        assert (await test.fault(spec)).error_type == "Runtime.ExitError"
        assert (await test.fault(spec)).error_type == "Runtime.ExitError"
        assert test.runtime.statistics().started == 2


async def test_keeps_its_descriptors_from_programs_that_a_handler_starts():
    async with process_runtime() as test:
        descriptors = await test.result(function(test, "list_childs_descriptors"))
        assert {0, 1, 2} <= set(descriptors)
        assert max(descriptors) < DESCRIPTOR_MIN


async def test_freezes_an_idle_environment_and_thaws_it(tmp_path: Path):
    """Its threads get no time between invocations, and go on with the next."""
    file = tmp_path / "count"
    async with process_runtime() as test:
        spec = function(test, "tick")
        pid = await test.result(spec, str(file))
        await until(lambda: _state_of(pid) == "T")
        frozen_at = file.read_text()
        await test.result("echo", 1)
        assert file.read_text() == frozen_at
        assert await test.result(spec, str(file)) == pid
        await until(lambda: file.read_text() not in {"", frozen_at})


async def test_ends_an_environment_that_stays_idle(tmp_path: Path):
    """With its folder; the next invocation starts another."""
    async with process_runtime(tmp_path) as test:
        spec = function(test, "describe", idle_timeout_s=1.5)
        first = await test.result(spec)
        await until(lambda: not is_running(first["pid"]))
        await until(lambda: not Path(first["environment"]["TMPDIR"]).exists())
        assert (await test.result(spec))["pid"] != first["pid"]
        assert test.runtime.statistics().killed == 0


async def test_reuses_the_most_recently_used_environment():
    """So that those that are not needed stay idle and end."""
    async with process_runtime() as test:
        spec = function(test, "describe")
        async with test.running(test.function("sleep"), 0.3), test.running(test.function("sleep"), 0.1):
            pass
        assert test.runtime.statistics().environments == 2
        pids = {(await test.result(spec))["pid"] for _ in range(5)}
        assert len(pids) == 1


@pytest.mark.slow
async def test_gives_a_slow_import_a_second_chance_within_the_timeout(tmp_path: Path):
    """Lambda semantics §7.1: ten seconds, then once more under the function's own time."""
    async with process_runtime() as test:
        marker = str(tmp_path / "marker")
        once = function(test, "slow_import.handler", timeout_s=5, environment={"MARKER": marker, "SLOW_TRIES": "1"})
        never = msgspec.structs.replace(
            once, name="never", timeout_s=1, environment={"MARKER": marker + "2", "SLOW_TRIES": "9"}
        )
        prepared = msgspec.structs.replace(
            once, name="prepared", environment={"MARKER": marker + "3", "SLOW_TRIES": "9"}
        )
        variables = {"MARKER": marker + "4", "SLOW_TRIES": "1", "THEN_S": "1"}
        shared = msgspec.structs.replace(
            once, name="shared", handler="slow_import.remaining", timeout_s=10, environment=variables
        )
        results: dict[str, Any] = {}

        async def call() -> None:
            results["once"] = await test.result(once)

        async def share() -> None:
            results["shared"] = await test.result(shared)

        async def fail() -> None:
            results["never"] = (await test.fault(never, request_id="late")).payload()

        async def prepare() -> None:
            with pytest.raises(HandlerTimeout, match="10 s"):
                await test.runtime.prepare(prepared)
            results["prepared"] = True

        async with anyio.create_task_group() as tasks:
            for work in (call, share, fail, prepare):
                tasks.start_soon(work)
        assert results["once"] == 2
        # What the second import took, the handler has not any more.
        assert 0 < results["shared"] <= 9_000
        assert results["never"] == {
            "errorType": "Sandbox.Timedout",
            "errorMessage": "RequestId: late Error: Task timed out after 1.00 seconds",
        }
        assert len(_read(marker + "3")) == 1
        inits = [line.text for line in test.lines if line.text.startswith("INIT_REPORT")]
        assert len(inits) == 5
        assert all(text.endswith("\tPhase: init\tStatus: timeout") for text in inits)


async def test_deletes_what_an_engine_that_was_killed_left(tmp_path: Path):
    """In the state folder, which one engine holds at a time."""
    left = tmp_path / "environments" / "7" / "file"
    left.parent.mkdir(parents=True)
    left.write_text("left")
    async with process_runtime(tmp_path) as test:
        assert not left.exists()
        folder = (await test.result(function(test, "describe")))["environment"]["TMPDIR"]
        assert (tmp_path / "environments" / "1").samefile(folder)
    assert not (tmp_path / "environments").exists()


def _state_of(pid: int) -> str:
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0]


def _open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def _read(path: str) -> str:
    return Path(path).read_text()


# -- the recorded cases ------------------------------------------------------------------------------------------------

CONFORMANCE = Path(os.environ.get("EVENTCORE_CONFORMANCE", Path(__file__).parents[3] / "shared" / "conformance"))

#: Each recorded case of family `runtime` that a synchronous invocation shows, with the tests that show it.
SHOWN = {
    "runtime/timeout": ["test_ends_an_invocation_at_its_timeout"],
    "runtime/exit-during-init": ["test_reports_a_process_that_ended"],
    "runtime/exit-in-handler": ["test_reports_a_process_that_ended"],
    "runtime/wrapper-not-found": ["test_starts_an_interpreter_through_the_functions_wrapper"],
    "runtime/handler-exception": ["test_reports_what_the_handler_raised"],
    "runtime/response-too-large": ["test_takes_a_result_of_the_largest_size_and_no_larger"],
    "runtime/event-invoke-of-failing-function": ["test_logs_what_the_handler_raised"],
    "runtime/context-and-environment": [
        "test_tells_the_handler_its_context",
        "test_tells_the_arn_as_invoked",
        "test_sets_lambdas_variables_and_the_users",
    ],
    "runtime/timeout-keeps-tmp": [
        "test_keeps_the_temporary_folder_over_a_reset",
        "test_starts_with_an_empty_folder_after_a_change",
    ],
}
#: The others, with the reason.
NOT_SHOWN = {
    "runtime/segfault-at-init": "refused: on AWS it shows as a timeout; eventcore reports the signal at once",
    "runtime/event-invoke": "not a runtime's: asynchronous invocation goes through the durable event queue",
    "runtime/stream-ignores-invocation-type": "not applicable: there are no response streams",
    "runtime/stream-error-has-no-function-error": "not applicable: there are no response streams",
    "runtime/recursion-stops-at-16": "not a runtime's: detecting a loop through queues is the engine's",
}


def test_answers_for_each_recorded_case():
    """Every line stands in one table, and every test that is named exists."""
    if not CONFORMANCE.is_dir():
        pytest.skip(f"no recorded cases at {CONFORMANCE}: set EVENTCORE_CONFORMANCE")
    lines = map(json.loads, (CONFORMANCE / "esm_scenarios.jsonl").read_text().splitlines())
    recorded = {line["name"] for line in lines if line["family"] == "runtime"}
    assert recorded == {*SHOWN, *NOT_SHOWN}
    assert not set(SHOWN) & set(NOT_SHOWN)
    for name in {name for names in SHOWN.values() for name in names}:
        assert hasattr(TestProcess, name) or name in globals(), name
