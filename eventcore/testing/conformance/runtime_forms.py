"""The runtimes' kit: what handlers are given, and what becomes of what they return."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from eventcore.model import RESPONSE_BYTES_MAX, FaultCause, Invocation, Outcome, OutcomeKind, Record
from eventcore.ports.runtime import HandlerForm
from eventcore.testing.conformance.runtime_under_test import (
    ARN,
    TIMEOUT_S,
    RuntimeKit,
    RuntimeUnderTest,
    until,
)


class RuntimeForms(RuntimeKit):
    """Results, context, and the three forms of handlers."""

    # -- results -------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("handler", ["echo", "echo_alone", "echo_later", "echo_decorated", "echo_object"])
    def test_returns_what_the_handler_returned(self, handler: str) -> None:
        """Every kind of callable, with values that JSON holds."""
        event = {"text": "grüße 👋", "number": 1.5, "large": 2**70, "list": [None, True, {"": []}]}

        async def scenario(test: RuntimeUnderTest) -> None:
            assert await test.result(handler, event) == event
            assert await test.result(handler, event) == event

        self.check(scenario)

    def test_returns_literal_null_for_nothing(self) -> None:
        """Lambda semantics §1.1."""

        async def scenario(test: RuntimeUnderTest) -> None:
            outcome = await test.call("echo", None)
            assert outcome.response == b"null"

        self.check(scenario)

    def test_keeps_the_module_between_invocations(self) -> None:
        """An environment stays warm: what a module holds is there the next time."""

        async def scenario(test: RuntimeUnderTest) -> None:
            first = await test.result("count")
            assert await test.result("count") == first + 1

        self.check(scenario)

    def test_answers_many_invocations_at_once_each_with_its_own(self) -> None:
        """No answer crosses over to another invocation."""
        count = 12

        async def scenario(test: RuntimeUnderTest) -> None:
            results: dict[int, Any] = {}

            async def ask(number: int) -> None:
                results[number] = await test.result("echo_later", {"number": number})

            for _ in range(3):
                results.clear()
                async with anyio.create_task_group() as tasks:
                    for number in range(count):
                        tasks.start_soon(ask, number)
                assert results == {number: {"number": number} for number in range(count)}

        self.check(scenario)

    def test_takes_a_result_of_the_largest_size_and_no_larger(self) -> None:
        """Lambda semantics §1.1; the environment stays usable."""

        async def scenario(test: RuntimeUnderTest) -> None:
            largest = await test.call("return_bytes_of_json", RESPONSE_BYTES_MAX)
            assert len(largest.response) == RESPONSE_BYTES_MAX
            for _ in range(2):
                fault = await test.fault("return_bytes_of_json", RESPONSE_BYTES_MAX + 1)
                assert fault.payload() == {
                    "errorType": "Function.ResponseSizeTooLarge",
                    "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
                }
            started = test.runtime.statistics().started
            await test.result("return_bytes_of_json", 10)
            assert test.runtime.statistics().started == started

        self.check(scenario)

    @pytest.mark.parametrize("handler", ["return_set", "return_nan", "return_cycle", "return_generator"])
    def test_refuses_a_result_that_json_cannot_hold(self, handler: str) -> None:
        """Lambda semantics §7.2."""

        async def scenario(test: RuntimeUnderTest) -> None:
            fault = await test.fault(handler)
            assert fault.cause is FaultCause.RESPONSE
            assert fault.error_type == "Runtime.MarshalError"
            assert fault.message.startswith("Unable to marshal response: ")
            assert set(fault.payload()) == {"errorMessage", "errorType"}

        self.check(scenario)

    # -- context -------------------------------------------------------------------------------------------------------

    def test_tells_the_handler_its_context(self) -> None:
        """Lambda semantics §7.4; `memory_limit_in_mb` is text, as recorded on AWS."""

        async def scenario(test: RuntimeUnderTest) -> None:
            function = test.function("describe_context", memory_size_mb=1024, timeout_s=20)
            context = await test.result(function)
            assert 0 < context.pop("remaining_ms") <= 20_000
            stream = context.pop("log_stream_name")
            assert stream[:4].isdigit()
            assert stream[4] == stream[7] == stream[10] == "/"
            assert stream[11:20] == "[$LATEST]"
            assert context == {
                "aws_request_id": "00000000-0000-4000-8000-000000000001",
                "client_context": None,
                "function_name": "describe_context",
                "function_version": "$LATEST",
                "identity": None,
                "invoked_function_arn": ARN + "describe_context",
                "log_group_name": "/aws/lambda/describe_context",
                "memory_limit_in_mb": "1024",
                "tenant_id": None,
            }

        self.check(scenario)

    def test_tells_the_arn_as_invoked(self) -> None:
        """Lambda semantics §7.4: qualified or not, in the same environment."""

        async def scenario(test: RuntimeUnderTest) -> None:
            plain = test.function("describe_context")
            qualified = msgspec.structs.replace(plain, arn=plain.arn + ":$LATEST")
            for function in (plain, qualified, plain):
                assert (await test.result(function))["invoked_function_arn"] == function.arn
            assert test.runtime.statistics().started == 1

        self.check(scenario)

    # -- forms ---------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("handler", "form"),
        [
            ("echo", HandlerForm.EVENT),
            ("echo_decorated", HandlerForm.EVENT),
            ("take_batch", HandlerForm.BATCH),
            ("take_batch_later", HandlerForm.BATCH),
            ("take_order", HandlerForm.TYPED),
            ("take_either", HandlerForm.TYPED),
            ("take_record", HandlerForm.TYPED),
        ],
    )
    def test_finds_the_form_without_calling(self, handler: str, form: HandlerForm) -> None:
        """Forms come from signatures; a second `prepare` finds the environment that the first one left."""

        async def scenario(test: RuntimeUnderTest) -> None:
            assert await test.runtime.prepare(test.function(handler)) is form
            assert await test.runtime.prepare(test.function(handler)) is form
            assert test.runtime.statistics().started == 1
            assert test.runtime.statistics().busy == 0

        self.check(scenario)

    def test_asks_for_the_event_once(self) -> None:
        """`build_event` is called at most once; `RuntimeUnderTest.send` sees that native handlers need none."""
        asked: list[int] = []

        def build_event() -> int:
            asked.append(1)
            return 7

        async def scenario(test: RuntimeUnderTest) -> None:
            invocation = Invocation(request_id=test.new_id(), build_event=build_event)
            outcome = await test.runtime.invoke(test.function("echo"), invocation)
            assert outcome.response == b"7"
            assert len(asked) == 1

        self.check(scenario)

    def test_gives_a_batch_to_a_batch_handler(self, tmp_path: Path) -> None:
        """Every field of batch and records arrives, bytes as bytes."""
        journal = tmp_path / "journal"
        records = [
            Record(position=1, body=str(journal).encode(), key=b"k\xff", headers=(("a", b"\x00"), ("a", b"2"))),
            Record(position=2, body=None, attributes={"ApproximateReceiveCount": "2"}),
        ]

        async def scenario(test: RuntimeUnderTest) -> None:
            outcome = await test.send_records("take_batch_later", records, "shard-0")
            assert (outcome.kind, outcome.failed, outcome.fault) == (OutcomeKind.SUCCESS, (), None)
            request_id = "00000000-0000-4000-8000-000000000001"
            assert journal.read_text().splitlines() == [
                f"queue:orders shard-0 orders 2 {request_id} {request_id}",
                "1 b'k\\xff' (('a', b'\\x00'), ('a', b'2')) {}",
                "2 None () {'ApproximateReceiveCount': '2'}",
            ]

        self.check(scenario)

    def test_reads_the_failed_records_of_a_batch_handler(self) -> None:
        """A list of failed records becomes rising indices."""

        async def scenario(test: RuntimeUnderTest) -> None:
            outcome = await test.send("take_batch", [b"ok", b"bad", b"ok", b"bad"])
            assert (outcome.kind, outcome.failed, outcome.fault) == (OutcomeKind.SUCCESS, (1, 3), None)

        self.check(scenario)

    def test_fails_the_batch_of_a_batch_handler_that_raises(self) -> None:
        """Nothing is known of single records then."""

        async def scenario(test: RuntimeUnderTest) -> None:
            outcome = await test.send("fail_batch", [b"a", b"b"])
            assert outcome.kind is OutcomeKind.FAILURE
            assert outcome.fault is not None
            assert outcome.fault.error_type == "CustomError"

        self.check(scenario)

    @pytest.mark.parametrize("handler", ["answer_batch", "blame_stranger"])
    def test_refuses_an_answer_of_a_batch_handler_that_names_no_records(self, handler: str) -> None:
        """What can't be read must not pass as success."""

        async def scenario(test: RuntimeUnderTest) -> None:
            outcome = await test.send(handler, [b"a"])
            assert outcome.kind is OutcomeKind.FAILURE
            assert outcome.fault is not None
            assert (outcome.fault.cause, outcome.fault.error_type) == (FaultCause.RESPONSE, "Runtime.MarshalError")

        self.check(scenario)

    def test_gives_each_record_to_a_typed_handler_in_one_invocation(self, tmp_path: Path) -> None:
        """One request id, deadline and pair of log lines for all of them."""
        journal = tmp_path / "journal"

        async def scenario(test: RuntimeUnderTest) -> None:
            outcome = await test.send("take_order_later", [_order(n, journal) for n in range(3)], shard="0")
            assert (outcome.kind, outcome.failed, outcome.fault) == (OutcomeKind.SUCCESS, (), None)
            request_id = "00000000-0000-4000-8000-000000000001"
            assert journal.read_text().splitlines() == [f"{n} {request_id}" for n in range(3)]
            starts = [line for line in test.logged(request_id, "platform") if line.startswith("START ")]
            assert len(starts) == 1

        self.check(scenario)

    def test_stops_a_stream_at_the_first_record_that_fails(self, tmp_path: Path) -> None:
        """Nothing behind it runs before it."""
        journal = tmp_path / "journal"
        bodies = [_order(n, journal, must_fail=n in {1, 2}) for n in range(4)]

        async def scenario(test: RuntimeUnderTest) -> None:
            outcome = await test.send("take_order", bodies, shard="0")
            assert (outcome.kind, outcome.failed) == (OutcomeKind.SUCCESS, (1,))
            assert outcome.fault is not None
            assert (outcome.fault.cause, outcome.fault.error_type) == (FaultCause.HANDLER, "CustomError")
            assert journal.read_text().split() == ["0", "1"]

        self.check(scenario)

    @pytest.mark.parametrize("shard", ["0", ""])
    def test_begins_no_record_behind_the_one_whose_time_is_over(self, shard: str, tmp_path: Path) -> None:
        """An invocation that is ended has ended: neither a stream nor a queue goes on with its next record."""
        journal = tmp_path / "journal"
        bodies = [_order(n, journal) for n in range(3)]

        async def scenario(test: RuntimeUnderTest) -> None:
            outcome = await test.send("take_order_forever", bodies, shard=shard, timeout_s=TIMEOUT_S)
            assert outcome.kind is OutcomeKind.FAILURE
            assert outcome.fault is not None
            assert outcome.fault.cause is FaultCause.TIMEOUT
            assert journal.read_text().split() == ["0"]

        self.check(scenario)

    def test_begins_no_record_behind_the_one_in_which_it_was_killed(self, tmp_path: Path) -> None:
        """What is ended by us comes again, with all that is behind it."""
        journal = tmp_path / "journal"
        bodies = [_order(n, journal) for n in range(3)]

        async def scenario(test: RuntimeUnderTest) -> None:
            outcomes: list[Outcome] = []

            async def send() -> None:
                outcomes.append(await test.send("take_order_forever", bodies, shard="0"))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                await until(lambda: journal.exists() and journal.read_text())
                assert test.runtime.kill("00000000-0000-4000-8000-000000000001")
            assert [outcome.kind for outcome in outcomes] == [OutcomeKind.RELEASED]
            assert journal.read_text().split() == ["0"]

        self.check(scenario)

    def test_goes_on_in_a_queue_behind_a_record_that_fails(self, tmp_path: Path) -> None:
        """Messages of a queue do not wait for each other."""
        journal = tmp_path / "journal"
        bodies = [_order(n, journal, must_fail=n in {1, 2}) for n in range(4)]

        async def scenario(test: RuntimeUnderTest) -> None:
            outcome = await test.send("take_order", bodies)
            assert (outcome.kind, outcome.failed) == (OutcomeKind.SUCCESS, (1, 2))
            assert journal.read_text().split() == ["0", "1", "2", "3"]

        self.check(scenario)

    @pytest.mark.parametrize("body", [b"no json", b'{"number": "1"}', b"\xff", None, b"[" * 100_000])
    def test_names_a_record_that_a_typed_handler_cannot_read(self, body: bytes | None, tmp_path: Path) -> None:
        """It is the record's fault, told apart from the handler's."""
        journal = tmp_path / "journal"

        async def scenario(test: RuntimeUnderTest) -> None:
            outcome = await test.send("take_order", [_order(0, journal), body, _order(2, journal)], shard="0")
            assert (outcome.kind, outcome.failed) == (OutcomeKind.SUCCESS, (1,))
            assert outcome.fault is not None
            assert outcome.fault.cause is FaultCause.UNDECODABLE
            assert outcome.fault.message
            assert journal.read_text().split() == ["0"]

        self.check(scenario)

    def test_speaks_of_unreadable_records_only_when_nothing_else_failed(self, tmp_path: Path) -> None:
        """One fault stands for all failed records of a queue's batch: a record that raised must be tried again."""
        journal = tmp_path / "journal"

        async def scenario(test: RuntimeUnderTest) -> None:
            both = await test.send("take_order", [b"no json", _order(1, journal, must_fail=True)])
            assert both.failed == (0, 1)
            assert both.fault is not None
            assert both.fault.cause is FaultCause.HANDLER
            unreadable = await test.send("take_order", [b"no json", _order(1, journal), b"{}"])
            assert unreadable.failed == (0, 2)
            assert unreadable.fault is not None
            assert unreadable.fault.cause is FaultCause.UNDECODABLE

        self.check(scenario)

    def test_decodes_unions_and_tombstones(self) -> None:
        """A type may have several forms; one that allows None takes records without a body."""
        bodies = [b'{"type": "Cancel", "number": 1}', b'{"type": "Refund", "number": 2}', None]

        async def scenario(test: RuntimeUnderTest) -> None:
            outcome = await test.send("take_either", bodies, shard="0")
            assert (outcome.kind, outcome.failed, outcome.fault) == (OutcomeKind.SUCCESS, (), None)

        self.check(scenario)

    def test_gives_records_as_they_are(self) -> None:
        """A handler of single `Record`s decodes nothing."""

        async def scenario(test: RuntimeUnderTest) -> None:
            outcome = await test.send("take_record", [b"\xff", b"bad", None])
            assert (outcome.kind, outcome.failed) == (OutcomeKind.SUCCESS, (1,))

        self.check(scenario)

    def test_takes_a_direct_event_as_a_record(self, tmp_path: Path) -> None:
        """A direct invocation of a native handler is a batch of one; its fault is the invocation's."""
        journal = tmp_path / "journal"

        async def scenario(test: RuntimeUnderTest) -> None:
            event = {"number": 5, "journal": str(journal)}
            assert (await test.call("take_order", event)).kind is OutcomeKind.SUCCESS
            assert journal.read_text().split() == ["5"]
            assert (await test.fault("take_order", {**event, "must_fail": True})).error_type == "CustomError"
            assert (await test.fault("take_order", {"number": 5})).cause is FaultCause.UNDECODABLE
            assert (await test.call("take_batch", event)).failed == ()

        self.check(scenario)


def _order(number: int, journal: Path, *, must_fail: bool = False) -> bytes:
    return msgspec.json.encode({"number": number, "journal": str(journal), "must_fail": must_fail})
