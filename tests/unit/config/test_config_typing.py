"""Type checkers accept every form of a handler, know that it comes back unchanged, and refuse what could never run."""

import re
import subprocess
import sys
import textwrap

import pytest

GOOD = """
    from typing import Any
    import msgspec
    from eventcore import Batch, Record
    from eventcore.config.pipeline import Pipeline

    app = Pipeline()

    class Order(msgspec.Struct):
        id: str

    @app.function
    def event_only(event: dict[str, Any]) -> dict[str, Any]:
        return event

    @app.function()
    def event_and_context(event: dict[str, Any], context: Any) -> None: ...

    @app.function("batch-only", timeout=3, environment={"A": "b"}, preload=["json"])
    def batch_only(batch: Batch) -> list[Record]:
        return list(batch)

    @app.function(runtime="inline")
    async def batch_and_context(batch: Batch, context: object) -> None: ...

    @app.function
    async def typed(order: Order) -> None: ...

    @app.function(concurrency=2)
    def typed_and_context(order: Order, context: Any) -> str:
        return order.id

    @app.function
    def default(event: Any, context: Any = None) -> None: ...

    class Handler:
        async def __call__(self, batch: Batch) -> None: ...

    app.function("called", runtime="inline")(Handler())
    app.function("lambda", runtime="inline")(lambda event: event)
    app.function("named", handler="orders.enrich", code="lib")

    app.mapping("m", source="queue:q", function=batch_only, batch_size=10)
    app.mapping("n", source="stream:s", function="named", starting_position="LATEST", on_failure="stdout")
    app.queue("q", redrive_policy={"dead_letter_queue": "d", "max_receive_count": 3})

    reveal_type(typed)
    reveal_type(batch_only)
"""

BAD = """
    from typing import Any
    from eventcore.config.pipeline import Pipeline

    app = Pipeline()

    @app.function  # 1
    def none() -> None: ...

    @app.function(timeout=3)  # 2
    def three(event: Any, context: Any, more: Any) -> None: ...

    app.function("f", handler="a.b", timeout="3")  # 3
    app.function(runtime="thread")  # 4
    app.mapping("m", source="queue:q", function="f", batchsize=10)  # 5
    app.mapping("m", source="queue:q", function=3)  # 6
    app.mapping("m", source="stream:s", function="f", starting_position="EARLIEST")  # 7
    app.queue("q", redrive_policy={"target": "d"})  # 8
    app.kafka("k")  # 9
"""


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    """Return what mypy says of a text, by line."""
    folder = tmp_path_factory.mktemp("mypy")

    def check(text):
        path = folder / "snippet.py"
        path.write_text(textwrap.dedent(text))
        # Not in this process, whose limit of recursion it would raise for all tests that follow.
        command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(folder / "cache")]
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
        out, err = done.stdout, done.stderr
        assert not err, err
        assert "error" not in re.sub(r"^.*snippet\.py:.*$", "", out, flags=re.MULTILINE), out
        return re.findall(r"snippet\.py:(\d+): (\w+): (.*)", out)

    return check


@pytest.mark.slow
def test_every_form_of_a_handler_is_accepted_and_comes_back_as_it_is(check):
    said = check(GOOD)
    assert [text for _, kind, text in said if kind == "error"] == []
    revealed = [text for _, kind, text in said if text.startswith("Revealed")]
    assert len(revealed) == 2
    assert re.search(r"def \(order: .*Order\) -> .*Coroutine\[Any, Any, None\]", revealed[0])
    assert re.search(r"def \(batch: .*Batch\) -> .*list\[.*Record\]", revealed[1])


@pytest.mark.slow
def test_what_could_never_run_is_refused(check):
    marked = [number for number, line in enumerate(textwrap.dedent(BAD).splitlines(), 1) if re.search(r"  # \d$", line)]
    assert {int(line) for line, kind, _ in check(BAD) if kind == "error"} == set(marked)
    assert len(marked) == 9
