"""The error tree: every class drawn where it stands, a sentence of its own, and its fields."""

from __future__ import annotations

import re

import pytest

from eventcore import errors
from eventcore.errors import (
    CommandError,
    ConfigError,
    ConnectorUnavailable,
    EventcoreError,
    FencedOut,
    HandlerCrashed,
    Mistake,
    ShardLost,
    SourceUnavailable,
    StoreUnavailable,
    Throttled,
)


def _classes() -> list[type[EventcoreError]]:
    return [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, EventcoreError)]


def test_every_error_is_drawn_in_the_tree_below_its_parent() -> None:
    """Who reads the file's first lines has seen all of it."""
    drawing = (errors.__doc__ or "").split("\n\n")[1]
    drawn: dict[str, str] = {}
    parent = ""
    for line in drawing.splitlines():
        names = re.findall(r"\b[A-Z]\w+", re.split(r"\s{2,}", line.lstrip("│├└─ "))[0])
        is_below = line.startswith("│")
        for name in names:
            drawn[name] = parent if is_below else "EventcoreError"
        if not is_below:
            parent = names[0]
    actual = {kind.__name__: kind.__mro__[1].__name__ for kind in _classes()}
    assert drawn == actual | {"EventcoreError": "EventcoreError"}


@pytest.mark.parametrize("kind", [kind for kind in _classes() if kind is not ConfigError])
def test_an_error_without_a_message_says_what_its_class_says(kind: type[EventcoreError]) -> None:
    message = str(kind())
    assert message == (kind.__doc__ or "").split("\n")[0]
    assert message.endswith(".")


@pytest.mark.parametrize("kind", [kind for kind in _classes() if kind is not ConfigError])
def test_an_error_says_what_it_was_given(kind: type[EventcoreError]) -> None:
    assert str(kind("no such topic")) == "no such topic"


def test_errors_carry_fields() -> None:
    assert SourceUnavailable(source="kafka:local/orders", retry_after_s=2.5).retry_after_s == 2.5
    assert ShardLost(source="kafka:local/orders", shard="orders-0", epoch=4).epoch == 4
    assert FencedOut(epoch=7).epoch == 7
    assert HandlerCrashed(request_id="r", function="f", exit_code=-9).exit_code == -9
    assert Throttled(limit=10).limit == 10
    assert CommandError("no", exit_code=4, hint="try again").exit_code == 4
    assert CommandError("no").exit_code == CommandError.FAILED


def test_a_missing_client_is_told_by_the_command_that_installs_it() -> None:
    assert str(ConnectorUnavailable(requirement="confluent-kafka")) == "pip install confluent-kafka"


def test_the_world_is_told_apart_from_misuse() -> None:
    """What the engine reacts to, and what it never catches, have no common parent but the root."""
    assert not issubclass(errors.ProgrammingError, errors.SourceError | errors.StoreError | errors.InvocationError)
    assert issubclass(StoreUnavailable, errors.StoreError)


@pytest.mark.parametrize(
    ("mistake", "text"),
    [
        (Mistake(path="mappings.orders.batch_size", message="is 0"), "mappings.orders.batch_size: is 0"),
        (Mistake(path="a", message="b", hint="write 1"), "a: b (write 1)"),
        (Mistake(path="a", message="b", file="eventcore.toml"), "eventcore.toml: a: b"),
        (Mistake(path="a", message="b", file="eventcore.toml", line=7, hint="c"), "eventcore.toml:7: a: b (c)"),
        (Mistake(path="a", message="b", line=7), "a: b"),
    ],
)
def test_a_mistake_says_where_what_and_what_to_write(mistake: Mistake, text: str) -> None:
    assert str(mistake) == text


def test_all_mistakes_are_one_error() -> None:
    error = ConfigError([Mistake(path="a", message="b"), Mistake(path="c", message="d")])
    assert str(error) == "a: b\nc: d"
    assert [mistake.path for mistake in error.mistakes] == ["a", "c"]
