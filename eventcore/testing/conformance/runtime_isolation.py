"""The runtimes' kit: what an isolated runtime keeps when handlers do their worst."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import msgspec
import pytest

from eventcore.errors import HandlerCrashed
from eventcore.model import FaultCause, OutcomeKind
from eventcore.ports.runtime import LOG_BYTES_MAX_PER_INVOCATION, LOG_LINE_BYTES_MAX
from eventcore.testing.conformance.runtime_under_test import (
    FUNCTIONS,
    LONG_S,
    TIMEOUT_S,
    RuntimeKit,
    RuntimeUnderTest,
    is_running,
    until,
)

#: A request id that a test looks for in the log.
WRITER = "00000000-0000-4000-8000-aaaaaaaaaaaa"


class RuntimeIsolation(RuntimeKit):
    """Crashes, hard deadlines, limits, output: each for the capability that promises it."""

    # -- ends ----------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("handler", "event", "exit_code", "reason"),
        [
            ("exit_with", 0, 0, "Runtime exited without providing a reason"),
            ("exit_with", None, 0, "Runtime exited without providing a reason"),
            ("exit_with", 3, 3, "Runtime exited with error: exit status 3"),
            ("exit_with", "no such table", 1, "Runtime exited with error: exit status 1"),
            ("exit_at_once", 0, 0, "Runtime exited without providing a reason"),
            ("exit_at_once", 127, 127, "Runtime exited with error: exit status 127"),
            ("kill_itself", signal.SIGKILL, -9, "Runtime exited with error: signal: killed"),
            ("kill_itself", signal.SIGTERM, -15, "Runtime exited with error: signal: terminated"),
            ("crash", None, -11, "Runtime exited with error: signal: segmentation fault"),
            ("conformance_exits.handler", None, 0, "Runtime exited without providing a reason"),
        ],
    )
    def test_reports_a_process_that_ended(self, handler: str, event: Any, exit_code: int, reason: str) -> None:
        """Lambda semantics §7.2, trap 2: neither request id nor stack trace; the next invocation starts anew."""
        self.require("is_isolated")

        async def scenario(test: RuntimeUnderTest) -> None:
            function = _harm(test, handler)
            for request_id in ("a", "b"):
                fault = await test.fault(function, event, request_id)
                assert fault.cause is FaultCause.EXIT
                assert fault.exit_code == exit_code
                assert fault.payload() == {
                    "errorType": "Runtime.ExitError",
                    "errorMessage": f"RequestId: {request_id} Error: {reason}",
                }
                report = test.logged(request_id, "platform")[-1]
                assert report.endswith("\tStatus: error\tError Type: Runtime.ExitError")
            assert await test.result("echo", 1) == 1
            await until(lambda: test.runtime.statistics().environments == 1)

        self.check(scenario)

    def test_says_that_a_process_ended_while_it_imported(self) -> None:
        """`prepare` has an error of its own for it."""
        self.require("is_isolated")

        async def scenario(test: RuntimeUnderTest) -> None:
            with pytest.raises(HandlerCrashed) as raised:
                await test.runtime.prepare(test.function("conformance_exits.handler"))
            assert raised.value.exit_code == 0

        self.check(scenario)

    def test_harms_nobody_else_when_a_process_ends(self) -> None:
        """An invocation that runs meanwhile, of the same function or another, comes to its end."""
        self.require("is_isolated")

        async def scenario(test: RuntimeUnderTest) -> None:
            async with test.running("sleep", 0.5) as other:
                for event in (0, 1):
                    await test.fault(_harm(test, "exit_at_once"), event)
            assert other.outcome is not None
            assert other.outcome.response == b'"slept"'

        self.check(scenario)

    # -- deadlines -----------------------------------------------------------------------------------------------------

    def test_ends_a_handler_that_never_yields(self, tmp_path: Path) -> None:
        """It uses the processor, ignores SIGTERM, and has a child in a session of its own."""
        self.require("has_hard_deadline")
        pids = tmp_path / "pids"

        async def scenario(test: RuntimeUnderTest) -> None:
            function = _harm(test, "spin", timeout_s=TIMEOUT_S)
            fault = await test.fault(function, {"pids": str(pids), "forks": True}, "late")
            assert fault.message == "RequestId: late Error: Task timed out after 1.00 seconds"
            await _until_gone(pids.read_text(), count=2)

        self.check(scenario)

    @pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "cancelled"])
    def test_ends_a_handler_that_nobody_waits_for(self, is_killed: bool, tmp_path: Path) -> None:
        """Killed or cancelled, it is gone with all that it forked."""
        self.require("has_hard_deadline")
        pids = tmp_path / "pids"

        async def scenario(test: RuntimeUnderTest) -> None:
            async with test.running(_harm(test, "spin"), {"pids": str(pids), "forks": True}) as running:
                await until(lambda: pids.exists() and pids.read_text())
                if is_killed:
                    assert test.runtime.kill(running.request_id)
                else:
                    running.scope.cancel()
            await _until_gone(pids.read_text(), count=2)
            assert test.runtime.statistics().killed == 1

        self.check(scenario)

    def test_ends_what_a_handler_left_behind(self, tmp_path: Path) -> None:
        """Children outlive their invocation, as on Lambda, and end with their environment."""
        self.require("is_isolated")
        pids = tmp_path / "pids"

        async def scenario(test: RuntimeUnderTest) -> None:
            await test.result(_harm(test, "leave_children"), {"pids": str(pids)})
            await test.fault(_harm(test, "exit_at_once"), 1)  # another environment's end is not theirs
            assert all(is_running(int(pid)) for pid in pids.read_text().split())
            await test.runtime.retire("leave_children")
            await _until_gone(pids.read_text(), count=3)

        self.check(scenario)

    # -- hostile to our descriptors ------------------------------------------------------------------------------------

    def test_counts_closed_descriptors_as_a_crash(self) -> None:
        """Of this environment alone."""
        self.require("is_isolated")

        async def scenario(test: RuntimeUnderTest) -> None:
            async with test.running("sleep", 0.5) as other:
                assert (await test.fault(_harm(test, "close_descriptors"))).error_type == "Runtime.ExitError"
            assert other.outcome is not None
            assert other.outcome.kind is OutcomeKind.SUCCESS
            assert await test.result("echo", 1) == 1

        self.check(scenario)

    @pytest.mark.parametrize(
        "garbage", ["garbage", "x", "\0" * 4000, "ec1\n\0\0\0\1\x90", "ec1\n\x7f\0\0\0"], ids=range(5)
    )
    def test_takes_no_garbage_for_an_answer(self, garbage: str) -> None:
        """Whatever it writes to our descriptors: a fault within the timeout, and a new environment."""
        self.require("is_isolated")

        async def scenario(test: RuntimeUnderTest) -> None:
            function = _harm(test, "write_garbage", timeout_s=3)
            fault = await test.fault(function, garbage)
            assert fault.cause in {FaultCause.EXIT, FaultCause.TIMEOUT}
            assert await test.result("echo", 1) == 1
            started = test.runtime.statistics().started
            await test.fault(function, garbage)
            assert test.runtime.statistics().started == started + 1

        self.check(scenario)

    def test_answers_once_when_a_handler_forks_and_both_return(self) -> None:
        """The parent answers; its child ends."""
        self.require("is_isolated")

        async def scenario(test: RuntimeUnderTest) -> None:
            for _ in range(5):
                assert await test.result(_harm(test, "fork_and_return_twice")) == "parent"
            assert test.runtime.statistics().started == 1

        self.check(scenario)

    def test_calls_once_for_each_record_when_a_handler_forks_and_both_return(self, tmp_path: Path) -> None:
        """The child does not go on with the batch."""
        self.require("is_isolated")
        journal = tmp_path / "journal"
        bodies = [msgspec.json.encode({"number": number, "journal": str(journal)}) for number in range(5)]

        async def scenario(test: RuntimeUnderTest) -> None:
            outcome = await test.send("conformance_harms.fork_for_order", bodies, shard="0")
            assert (outcome.kind, outcome.failed) == (OutcomeKind.SUCCESS, ())
            assert journal.read_text().split() == ["0", "1", "2", "3", "4"]

        self.check(scenario)

    def test_shares_no_connection_that_a_module_opened(self) -> None:
        """Four environments with a socket each, opened at import: no reply crosses."""
        self.require("is_isolated")
        answers: list[tuple[str, str]] = []

        async def echo(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                async for data in stream:
                    await stream.send(data)

        async def scenario(test: RuntimeUnderTest) -> None:
            async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
                port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - no database here
                function = test.function("conformance_connects.ask", environment={"PORT": str(port)})

                async def ask(name: str) -> None:
                    for number in range(50):
                        question = f"{name}-{number}"
                        answers.append((question, await test.result(function, question)))

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(listener.serve, echo)
                    async with anyio.create_task_group() as asking:
                        for name in "abcd":
                            asking.start_soon(ask, name)
                    assert test.runtime.statistics().started == 4
                    tasks.cancel_scope.cancel()
            assert len(answers) == 200
            assert all(question == answer for question, answer in answers)

        self.check(scenario)

    # -- what is kept --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("harm", ["sleep", "exit"])
    def test_keeps_the_temporary_folder_over_a_reset(self, harm: str) -> None:
        """Lambda semantics §7.1, §10 extra (a): a timeout or crash resets the module, not the folder."""
        self.require("is_isolated")

        async def scenario(test: RuntimeUnderTest) -> None:
            function = _harm(test, "keep_counts", timeout_s=TIMEOUT_S)
            first = await test.result(function)
            assert (first["module"], first["disk"]) == (1, 1)
            second = await test.call(function, "raise")
            assert second.kind is OutcomeKind.FAILURE
            third = await test.result(function)
            assert third == {"module": 3, "disk": 3, "folder": first["folder"]}
            await test.fault(function, harm)
            after = await test.call(function, "", WRITER)
            assert msgspec.json.decode(after.response) == {"module": 1, "disk": 5, "folder": first["folder"]}
            assert after.usage.init_ms is None
            assert "Init Duration" not in test.logged(WRITER, "platform")[-1]

        self.check(scenario)

    def test_starts_with_an_empty_folder_after_a_change(self) -> None:
        """Lambda semantics §7.1: a change of configuration resets module and folder; no two environments share one."""
        self.require("is_isolated")

        async def scenario(test: RuntimeUnderTest) -> None:
            function = _harm(test, "keep_counts")
            first = await test.result(function)
            second = await test.result(msgspec.structs.replace(function, memory_size_mb=1024))
            assert (second["module"], second["disk"]) == (1, 1)
            assert second["folder"] != first["folder"]
            await until(lambda: not Path(first["folder"]).exists())

        self.check(scenario)

    # -- limits --------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("handler", ["hoard", "hoard_in_child"])
    def test_ends_what_takes_more_memory_than_its_size(self, handler: str) -> None:
        """Its own or its descendants', which may have left its group."""
        self.require("has_memory_limit")

        async def scenario(test: RuntimeUnderTest) -> None:
            outcome = await test.call(_harm(test, handler, memory_size_mb=128), None, WRITER)
            assert outcome.fault is not None
            assert outcome.fault.message == f"RequestId: {WRITER} Error: Runtime exited with error: signal: killed"
            assert outcome.usage.memory_used_mb >= 128
            assert any("memory_size of 128 MB" in line for line in test.logged(WRITER, "platform"))
            assert test.runtime.statistics().killed == 1
            assert await test.result("echo", 1) == 1

        self.check(scenario)

    def test_ends_what_writes_more_than_its_ephemeral_storage(self) -> None:
        """To its temporary folder; what it wrote is what its replacement finds."""
        self.require("has_memory_limit")

        async def scenario(test: RuntimeUnderTest) -> None:
            fault = await test.fault(_harm(test, "fill_disk", ephemeral_storage_mb=32), None, WRITER)
            assert fault.error_type == "Runtime.ExitError"
            assert any("ephemeral_storage of 32 MB" in line for line in test.logged(WRITER, "platform"))

        self.check(scenario)

    # -- environment variables -----------------------------------------------------------------------------------------

    def test_sets_lambdas_variables_and_the_users(self) -> None:
        """Lambda semantics §7.3; `LAMBDA_TASK_ROOT` is where the code is."""
        self.require("is_isolated")

        async def scenario(test: RuntimeUnderTest) -> None:
            function = test.function(
                "describe_environment", memory_size_mb=1024, environment={"TABLE": "orders", "TZ": "Asia/Tokyo"}
            )
            found = await test.result(function)
            variables = found["variables"]
            expected = {
                "AWS_DEFAULT_REGION": "eu-west-1",
                "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info.major}.{sys.version_info.minor}",
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
                "AWS_LAMBDA_FUNCTION_NAME": "describe_environment",
                "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
                "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
                "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/describe_environment",
                "AWS_REGION": "eu-west-1",
                "LAMBDA_TASK_ROOT": str(FUNCTIONS),
                "TABLE": "orders",
                "TZ": "Asia/Tokyo",
                "_HANDLER": "conformance_handlers.describe_environment",
            }
            assert {name: variables.get(name) for name in expected} == expected
            assert {"LANG", "PATH", "AWS_LAMBDA_LOG_STREAM_NAME", "LAMBDA_RUNTIME_DIR", "TMPDIR"} <= set(variables)
            assert found["folder"] == str(FUNCTIONS)
            default = await test.result(msgspec.structs.replace(function, environment={}))
            assert default["variables"]["TZ"] == ":UTC"

        self.check(scenario)

    def test_keeps_the_engines_variables_to_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Secrets least of all."""
        self.require("is_isolated")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "engine's own")
        monkeypatch.setenv("DATABASE_PASSWORD", "engine's own")
        monkeypatch.setenv("LC_NUMERIC", "C")

        async def scenario(test: RuntimeUnderTest) -> None:
            variables = (await test.result("describe_environment"))["variables"]
            assert "engine's own" not in variables.values()
            assert variables["LC_NUMERIC"] == "C"

        self.check(scenario)

    # -- output --------------------------------------------------------------------------------------------------------

    def test_captures_what_is_written_by_every_way(self) -> None:
        """With the request id and its stream; the import's without a request id; logging in Lambda's form (§7.7)."""
        self.require("captures_output")

        async def scenario(test: RuntimeUnderTest) -> None:
            await test.call(_harm(test, "write_everywhere"), None, WRITER)
            assert test.logged("", "stdout") == ["importing"]
            assert test.logged(WRITER, "stdout") == ["printed", "raw", "by a child", "by C", "without an end"]
            assert test.logged(WRITER, "stderr") == ["grüße"]
            (line,) = test.logged(WRITER, "log")
            assert re.fullmatch(rf"\[WARNING\]\t\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z\t{WRITER}\tlogged 7", line)
            platform = test.logged(WRITER, "platform")
            assert test.logged(WRITER)[0] == platform[0]
            assert test.logged(WRITER)[-2:] == platform[-2:]

        self.check(scenario)

    def test_logs_what_the_handlers_level_lets_through(self) -> None:
        """The default level is WARNING; a handler may lower it."""
        self.require("captures_output")

        async def scenario(test: RuntimeUnderTest) -> None:
            await test.call(_harm(test, "log_info"), None, WRITER)
            first, second = test.logged(WRITER, "log")
            assert first.startswith("[INFO]\t")
            assert first.endswith(f"\t{WRITER}\thello")
            assert second == "world"

        self.check(scenario)

    @pytest.mark.parametrize("line_bytes", [1, 100])
    def test_bounds_what_one_invocation_writes(self, line_bytes: int) -> None:
        """The rest is dropped, and a line says how much; the next invocation may write again."""
        self.require("captures_output")
        written = 50_000_000

        async def scenario(test: RuntimeUnderTest) -> None:
            function = _harm(test, "write_bytes")
            await test.call(function, {"bytes": written, "line": line_bytes}, WRITER)
            kept = sum(len(line) + 1 for line in test.logged(WRITER, "stdout"))
            assert 0 < kept <= LOG_BYTES_MAX_PER_INVOCATION
            (told,) = [line for line in test.logged(WRITER, "platform") if "dropped" in line]
            assert told.startswith(f"{written - kept} bytes")
            await test.call(function, {"bytes": 6, "line": 6}, "next")
            assert test.logged("next", "stdout") == ["xxxxx"]

        self.check(scenario)

    def test_cuts_a_line_that_never_ends(self) -> None:
        """And marks it."""
        self.require("captures_output")

        async def scenario(test: RuntimeUnderTest) -> None:
            size = LOG_LINE_BYTES_MAX * 3
            await test.call(_harm(test, "write_bytes"), {"bytes": size, "line": size}, WRITER)
            (line,) = test.logged(WRITER, "stdout")
            assert len(line) == LOG_LINE_BYTES_MAX
            assert line.endswith("x [cut]")

        self.check(scenario)

    def test_serves_others_while_threads_go_on(self) -> None:
        """Of an invocation that has returned."""
        self.require("is_isolated")

        async def scenario(test: RuntimeUnderTest) -> None:
            assert await test.result(_harm(test, "start_threads")) == "started"
            for number in range(20):
                assert await test.result("echo", number) == number
            assert await test.result(_harm(test, "start_threads")) == "started"

        self.check(scenario)

    def test_serves_others_while_a_handler_writes_gigabytes(self) -> None:
        """The loop takes a bounded bite each time."""
        self.require("is_isolated")

        async def scenario(test: RuntimeUnderTest) -> None:
            flood = {"bytes": 1_000_000_000_000, "line": 100}
            async with test.running(_harm(test, "write_bytes"), flood) as writer:
                for number in range(50):
                    assert await test.result("echo", number) == number
                assert test.runtime.is_alive(writer.request_id)
                test.runtime.kill(writer.request_id)

        self.check(scenario)

    def test_hands_on_the_trace(self) -> None:
        """In both forms that libraries read, for this invocation alone."""
        self.require("is_isolated")
        trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

        async def scenario(test: RuntimeUnderTest) -> None:
            function = test.function("describe_environment")
            traced = await test.traced(function, f"00-{trace}-{span}-01")
            assert traced["variables"]["TRACEPARENT"] == f"00-{trace}-{span}-01"
            expected = f"Root=1-{trace[:8]}-{trace[8:]};Parent={span};Sampled=1"
            assert traced["variables"]["_X_AMZN_TRACE_ID"] == expected
            plain = await test.traced(function, "")
            assert not {"TRACEPARENT", "_X_AMZN_TRACE_ID"} & set(plain["variables"])

        self.check(scenario)


def _harm(test: RuntimeUnderTest, handler: str, **settings: Any) -> Any:
    name = handler if "." in handler else f"conformance_harms.{handler}"
    return test.function(name, **{"timeout_s": LONG_S, **settings})


async def _until_gone(pids: str, *, count: int) -> None:
    found = [int(pid) for pid in pids.split()]
    assert len(found) == count
    assert os.getpid() not in found
    await until(lambda: not any(map(is_running, found)))
