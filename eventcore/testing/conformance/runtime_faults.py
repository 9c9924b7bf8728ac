"""The runtimes' kit: what goes wrong, what ends, and what the log says of it."""

from __future__ import annotations

import anyio
import msgspec
import pytest

from eventcore.errors import HandlerError
from eventcore.model import FaultCause, OutcomeKind
from eventcore.testing.conformance.runtime_under_test import (
    FUNCTIONS,
    LONG_S,
    TIMEOUT_S,
    RuntimeKit,
    RuntimeUnderTest,
    line_of,
    until,
)


class RuntimeFaults(RuntimeKit):
    """Faults, deadlines, kills, retiring, logs."""

    # -- faults --------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("handler", ["fail", "fail_later"])
    def test_reports_what_the_handler_raised(self, handler: str) -> None:
        """Lambda semantics §7.2: formatted frames, each with its line end, the user's only; no reset."""
        file = str(FUNCTIONS / "conformance_handlers.py")
        line = line_of(file, 'raise CustomError("some error occurred")')

        async def scenario(test: RuntimeUnderTest) -> None:
            before = await test.result("count")
            fault = await test.fault(handler, request_id="00000000-0000-4000-8000-aaaaaaaaaaaa")
            payload = fault.payload()
            assert payload["errorType"] == "CustomError"
            assert payload["errorMessage"] == "some error occurred"
            assert payload["requestId"] == "00000000-0000-4000-8000-aaaaaaaaaaaa"
            assert len(payload["stackTrace"]) == 2
            assert all(frame.startswith(f'  File "{file}", line ') for frame in payload["stackTrace"])
            assert all(frame.endswith("\n") for frame in payload["stackTrace"])
            assert payload["stackTrace"][1].startswith(f'  File "{file}", line {line}, in _fail_deeper\n')
            assert fault.location == f"{file}:{line}"
            assert await test.result("count") == before + 1

        self.check(scenario)

    @pytest.mark.parametrize(
        ("handler", "error_type", "message"),
        [
            ("no_such_module.handler", "Runtime.ImportModuleError", "No module named 'no_such_module'"),
            ("conformance_needs.handler", "Runtime.ImportModuleError", "No module named 'no_such_dependency'"),
            ("no_such_handler", "Runtime.HandlerNotFound", "Handler 'no_such_handler' missing"),
            ("CustomError.nothing", "Runtime.ImportModuleError", "CustomError"),
            ("conformance_raises.handler", "KeyError", "'TABLE'"),
        ],
    )
    def test_reports_a_handler_that_cannot_be_imported(self, handler: str, error_type: str, message: str) -> None:
        """Lambda semantics §7.2, trap 2: the request id is empty."""

        async def scenario(test: RuntimeUnderTest) -> None:
            fault = await test.fault(handler)
            assert fault.cause is FaultCause.IMPORT
            assert fault.error_type == error_type
            assert message in fault.message
            payload = fault.payload()
            assert payload["requestId"] == ""
            assert isinstance(payload["stackTrace"], list)
            with pytest.raises(HandlerError) as raised:
                await test.runtime.prepare(test.function(handler))
            assert message in str(raised.value)

        self.check(scenario)

    def test_shows_where_a_module_raised(self) -> None:
        """The traceback of a failed import holds the user's frames only."""
        file = str(FUNCTIONS / "conformance_raises.py")

        async def scenario(test: RuntimeUnderTest) -> None:
            fault = await test.fault("conformance_raises.handler")
            line = line_of(file, 'TABLE = _SETTINGS["TABLE"]')
            assert fault.location == f"{file}:{line}"
            assert [frame.partition(", in")[0] for frame in fault.stack_trace] == [f'  File "{file}", line {line}']
            with pytest.raises(HandlerError, match="Traceback"):
                await test.runtime.prepare(test.function("conformance_raises.handler"))

        self.check(scenario)

    def test_refuses_a_handler_without_an_attribute(self) -> None:
        """A handler is `module.attribute`."""

        async def scenario(test: RuntimeUnderTest) -> None:
            function = msgspec.structs.replace(test.function("echo"), handler="echo")
            fault = await test.fault(function)
            assert (fault.cause, fault.error_type) == (FaultCause.IMPORT, "Runtime.MalformedHandlerName")

        self.check(scenario)

    def test_goes_on_after_a_function_that_cannot_be_imported(self) -> None:
        """A function that does not import is no other function's trouble."""

        async def scenario(test: RuntimeUnderTest) -> None:
            await test.fault("conformance_raises.handler")
            assert await test.result("echo", 1) == 1

        self.check(scenario)

    # -- deadlines, kills, cancellation --------------------------------------------------------------------------------

    def test_ends_an_invocation_at_its_timeout(self) -> None:
        """Lambda semantics §7.2: two decimals, neither request id nor stack trace."""

        async def scenario(test: RuntimeUnderTest) -> None:
            function = test.function("sleep", timeout_s=TIMEOUT_S)
            outcome = await test.call(function, LONG_S, "00000000-0000-4000-8000-aaaaaaaaaaaa")
            assert outcome.kind is OutcomeKind.FAILURE
            assert outcome.fault is not None
            assert outcome.fault.cause is FaultCause.TIMEOUT
            assert outcome.fault.payload() == {
                "errorType": "Sandbox.Timedout",
                "errorMessage": "RequestId: 00000000-0000-4000-8000-aaaaaaaaaaaa "
                "Error: Task timed out after 1.00 seconds",
            }
            assert outcome.usage.duration_ms >= TIMEOUT_S * 1000
            assert test.runtime.statistics().killed == 1
            assert await test.result(function, 0) == "slept"

        self.check(scenario)

    def test_ends_each_of_many_invocations_at_its_own_timeout(self) -> None:
        """Whichever began first."""

        async def scenario(test: RuntimeUnderTest) -> None:
            ended: list[int] = []

            async def run_out(timeout_s: int) -> None:
                function = test.function("sleep", version=str(timeout_s), timeout_s=timeout_s)
                fault = await test.fault(function, LONG_S)
                assert fault.message.endswith(f"timed out after {timeout_s}.00 seconds")
                ended.append(timeout_s)

            async with anyio.create_task_group() as tasks:
                for timeout_s in (2, 3, 1):
                    tasks.start_soon(run_out, timeout_s)
            assert ended == [1, 2, 3]

        self.check(scenario)

    def test_releases_an_invocation_that_is_killed(self) -> None:
        """Ended by us: no attempt, no fault."""

        async def scenario(test: RuntimeUnderTest) -> None:
            async with test.running("sleep", LONG_S) as running:
                assert test.runtime.is_alive(running.request_id)
                assert test.runtime.statistics().busy == 1
                assert not test.runtime.kill("another")
                assert test.runtime.kill(running.request_id)
                assert not test.runtime.is_alive(running.request_id)
                assert not test.runtime.kill(running.request_id)
            assert running.outcome is not None
            assert running.outcome.kind is OutcomeKind.RELEASED
            assert running.outcome.fault is None
            assert test.runtime.statistics().busy == 0
            assert await test.result("sleep", 0) == "slept"

        self.check(scenario)

    def test_ends_an_invocation_that_is_cancelled(self) -> None:
        """Nothing runs that nobody waits for: when the cancellation is through, the environment serves nobody."""

        async def scenario(test: RuntimeUnderTest) -> None:
            async with test.running("sleep", LONG_S) as running:
                running.scope.cancel()
            assert running.outcome is None
            assert not test.runtime.is_alive(running.request_id)
            assert test.runtime.statistics().busy == 0
            assert await test.result("sleep", 0) == "slept"

        self.check(scenario)

    def test_is_not_alive_for_nobody(self) -> None:
        """Only a running invocation is alive."""

        async def scenario(test: RuntimeUnderTest) -> None:
            assert not test.runtime.is_alive("nobody")
            await test.call("echo", 1, "00000000-0000-4000-8000-aaaaaaaaaaaa")
            assert not test.runtime.is_alive("00000000-0000-4000-8000-aaaaaaaaaaaa")

        self.check(scenario)

    # -- retiring ------------------------------------------------------------------------------------------------------

    def test_retires_a_function(self) -> None:
        """Its environments end; the next invocation starts a new one."""

        async def scenario(test: RuntimeUnderTest) -> None:
            await test.call("echo", 1)
            await test.call("count")
            assert test.runtime.statistics().environments == 2
            await test.runtime.retire("echo")
            await test.runtime.retire("nobody")
            await until(lambda: test.runtime.statistics().environments == 1)
            assert await test.result("echo", 2) == 2
            assert test.runtime.statistics().started == 3

        self.check(scenario)

    def test_lets_a_running_invocation_end_when_its_function_is_retired(self) -> None:
        """Retiring does not kill."""

        async def scenario(test: RuntimeUnderTest) -> None:
            async with test.running("sleep", 0.2) as running:
                await test.runtime.retire("sleep")
            assert running.outcome is not None
            assert running.outcome.response == b'"slept"'
            await until(lambda: test.runtime.statistics().environments == 0)

        self.check(scenario)

    def test_starts_anew_when_a_function_changes(self) -> None:
        """Lambda semantics §7.1: a change of configuration resets; versions stand beside each other."""

        async def scenario(test: RuntimeUnderTest) -> None:
            function = test.function("echo")
            await test.result(function, 1)
            await test.result(msgspec.structs.replace(function, version="7"), 1)
            await until(lambda: test.runtime.statistics().environments == 2)
            await test.result(msgspec.structs.replace(function, memory_size_mb=1024), 1)
            await until(lambda: test.runtime.statistics().environments == 2)
            assert test.runtime.statistics().started == 3

        self.check(scenario)

    # -- logs ----------------------------------------------------------------------------------------------------------

    def test_writes_start_end_and_report(self) -> None:
        """Lambda semantics §7.7: init only for the invocation that waited for it."""

        async def scenario(test: RuntimeUnderTest) -> None:
            function = test.function("echo", memory_size_mb=256)
            cold, warm = await test.call(function, 1), await test.call(function, 1)
            assert cold.usage.init_ms is not None
            assert warm.usage.init_ms is None
            for outcome, request_id in zip((cold, warm), ("…001", "…002"), strict=True):
                full = request_id.replace("…", "00000000-0000-4000-8000-000000000")
                start, end, report = test.logged(full, "platform")
                assert start == f"START RequestId: {full} Version: $LATEST"
                assert end == f"END RequestId: {full}"
                fields = report.split("\t")
                assert fields[0] == f"REPORT RequestId: {full}"
                assert fields[1] == f"Duration: {outcome.usage.duration_ms:.2f} ms"
                assert fields[2].startswith("Billed Duration: ")
                assert fields[3] == "Memory Size: 256 MB"
                assert fields[4] == f"Max Memory Used: {outcome.usage.memory_used_mb} MB"
                assert [field.split(":")[0] for field in fields[5:]] == (["Init Duration"] if outcome is cold else [])

        self.check(scenario)

    def test_reports_a_timeout_as_such(self) -> None:
        """Lambda semantics §7.7."""

        async def scenario(test: RuntimeUnderTest) -> None:
            await test.call(test.function("sleep", timeout_s=TIMEOUT_S), LONG_S, "slow")
            assert test.logged("slow", "platform")[-1].endswith("\tStatus: timeout")

        self.check(scenario)

    def test_logs_what_the_handler_raised(self) -> None:
        """The error of an asynchronous invocation shows in the log alone (recorded on AWS)."""

        async def scenario(test: RuntimeUnderTest) -> None:
            fault = await test.fault("fail", request_id="bad")
            lines = test.logged("bad", "log")
            assert lines[:2] == ["[ERROR] CustomError: some error occurred", "Traceback (most recent call last):"]
            assert lines[2:] == "".join(fault.stack_trace).splitlines()
            assert "Status" not in test.logged("bad", "platform")[-1]

        self.check(scenario)

    def test_stamps_lines_with_its_clock(self) -> None:
        """Every line bears its function's name and a time."""

        async def scenario(test: RuntimeUnderTest) -> None:
            await test.call("echo", 1)
            assert all(line.time_ms > 1_700_000_000_000 for line in test.lines)
            assert {line.function for line in test.lines} == {"echo"}

        self.check(scenario)
