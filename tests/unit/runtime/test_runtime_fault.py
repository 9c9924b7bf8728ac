"""What user code raises becomes data, bounded, without our own frames."""

import asyncio
from pathlib import Path

import pytest

from eventcore.model import FaultCause
from eventcore.runtime import fault as faults
from eventcore.runtime.fault import FRAMES_MAX, MESSAGE_CHARS_MAX, Border

HERE = str(Path(__file__).parent)


def _raise(error: BaseException) -> BaseException:
    with Border() as border:
        raise error
    assert border.error is error
    return error


@pytest.mark.parametrize("error", [ValueError(), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()])
def test_the_border_keeps_everything(error: BaseException):
    assert _raise(error) is error


def test_the_border_lets_through_what_it_is_told():
    border = Border(SystemExit, KeyboardInterrupt)
    with pytest.raises(SystemExit), border:
        raise SystemExit(1)
    assert border.error is None
    with border:
        raise ValueError
    assert isinstance(border.error, ValueError)


def test_survives_an_exception_that_cannot_be_printed():
    class Hostile(Exception):
        def __str__(self) -> str:
            raise RuntimeError("ha")

    fault = faults.handler_fault(_raise(Hostile()), "r", HERE)
    assert (fault.error_type, fault.message) == ("Hostile", "(its message can't be read: RuntimeError)")


def test_bounds_message_and_frames():
    def recurse(depth: int) -> None:
        if depth:
            recurse_too(depth - 1)
        raise ValueError("x" * 1_000_000)

    def recurse_too(depth: int) -> None:
        recurse(depth)

    with Border() as border:
        recurse(300)
    assert border.error is not None
    fault = faults.handler_fault(border.error, "r", HERE)
    assert len(fault.message) == MESSAGE_CHARS_MAX
    assert len(fault.stack_trace) == FRAMES_MAX
    assert "raise ValueError" in fault.stack_trace[-1]


def test_locates_a_fault_in_the_users_code_not_in_a_library(tmp_path: Path):
    """The deepest frame beneath the function's code; what is installed beneath it is not the user's."""
    installed = tmp_path / "venv" / "site-packages"
    installed.mkdir(parents=True)
    (tmp_path / "orders.py").write_text("def handler(library):\n    library()\n")
    (installed / "library.py").write_text("def fail():\n    raise ValueError('deep')\n")
    names: dict[str, object] = {}
    for file in (tmp_path / "orders.py", installed / "library.py"):
        exec(compile(file.read_text(), str(file), "exec"), names)
    with Border() as border:
        names["handler"](names["fail"])  # type: ignore[operator]
    assert border.error is not None
    assert faults.handler_fault(border.error, "r", str(tmp_path)).location == f"{tmp_path}/orders.py:2"
    elsewhere = faults.handler_fault(border.error, "r", "/elsewhere")
    assert elsewhere.location == f"{installed}/library.py:2"


def test_has_no_location_where_the_call_itself_failed():
    """A handler with too few parameters has no frame."""
    error = TypeError("handler() takes 0 positional arguments but 1 was given")
    fault = faults.handler_fault(error, "r", HERE)
    assert (fault.location, fault.stack_trace) == ("", ())


def test_tells_a_syntax_error_by_its_line(tmp_path: Path):
    file = tmp_path / "orders.py"
    with Border() as border:
        compile("def handler(:\n", str(file), "exec")
    assert border.error is not None
    fault = faults.import_fault(border.error, "orders", str(tmp_path))
    assert (fault.cause, fault.error_type) == (FaultCause.IMPORT, "Runtime.UserCodeSyntaxError")
    assert fault.message.startswith("Syntax error in module 'orders': ")
    assert fault.location == f"{file}:1"


@pytest.mark.parametrize(
    ("end", "code"), [(None, 0), (0, 0), (3, 3), (-1, 255), (256, 0), ("reason", 1), (False, 0), ([], 1)]
)
def test_knows_the_status_of_an_exit(end: object, code: int):
    """As the interpreter does."""
    assert faults.exit_code_of(SystemExit(end)) == code  # type: ignore[arg-type]


def test_writes_timeouts_with_two_decimals():
    """Lambda semantics §7.2."""
    assert faults.timeout_fault("r", 3).message == "RequestId: r Error: Task timed out after 3.00 seconds"
