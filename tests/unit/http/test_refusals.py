"""Which sentence and exit code an error becomes."""

from __future__ import annotations

import pytest

from eventcore import errors
from eventcore.errors import Mistake, find_cause
from eventcore.http.refusals import ExitCode, explain


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.CommandError("x", exit_code=6), 6),
        (errors.ConfigError([Mistake(path="a", message="x")]), ExitCode.CONFIG_INVALID),
        (errors.SourceUnavailable("x"), ExitCode.SOURCE_UNREACHABLE),
        (errors.DestinationUnavailable("x"), ExitCode.SOURCE_UNREACHABLE),
        (errors.ConnectorUnavailable("x"), ExitCode.SOURCE_UNREACHABLE),
        (errors.StateInUse("x"), ExitCode.FAILED),
        (errors.StoreCorrupt("x"), ExitCode.FAILED),
        (errors.SchemaMismatch("x"), ExitCode.FAILED),
        (errors.StoreUnavailable("x"), ExitCode.FAILED),
        (errors.Throttled("x"), ExitCode.FAILED),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: errors.EventcoreError, code: int) -> None:
    told = explain(error)
    assert told is not None
    assert told.exit_code == code
    assert "x" in told.message


def test_a_missing_library_is_said_with_the_command_that_installs_it() -> None:
    told = explain(errors.ConnectorUnavailable(requirement="confluent-kafka"))
    assert told is not None
    assert told.hint == "pip install confluent-kafka"


def test_several_mistakes_stand_each_on_a_line_of_its_own() -> None:
    mistakes = [Mistake(path="a.b", message="wrong", file="f.toml", line=line) for line in (3, 5)]
    told = explain(errors.ConfigError(mistakes))
    assert told is not None
    assert told.message.splitlines() == [
        "the pipeline has 2 mistakes",
        "f.toml:3: a.b: wrong",
        "f.toml:5: a.b: wrong",
    ]


def test_of_a_group_the_first_error_counts() -> None:
    first = errors.StateInUse("first")
    group = BaseExceptionGroup("", [ExceptionGroup("", [first, ValueError()]), ValueError()])
    assert find_cause(group) is first
    told = explain(group)
    assert told is not None
    assert told.message == "first"


def test_a_defect_is_no_answer() -> None:
    assert explain(LookupError("ours")) is None
