"""How commands print: JSON whole or line by line, tables that line up, text that does nothing to a terminal."""

from __future__ import annotations

import os

import click
import msgspec
import pytest

from eventcore.cli.output import GuardedWriter, Output, show_count, show_line, show_span


class Pair(msgspec.Struct):
    a: int
    b: str


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    Output("json").data([Pair(1, "x"), Pair(2, "y")])
    assert msgspec.json.decode(capsys.readouterr().out) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


def test_ndjson_is_one_line_an_element(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output("ndjson")
    output.data([Pair(1, "x"), Pair(2, "y\nz")])
    output.data(Pair(3, ""))
    lines = capsys.readouterr().out.splitlines()
    assert [msgspec.json.decode(line)["a"] for line in lines] == [1, 2, 3]


def test_a_tables_columns_line_up_whatever_is_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Colors take no room, line ends and control characters do nothing."""
    rows = [("short", click.style("red", fg="red"), "two\nlines"), ("much longer", "plain", "\x1b[2Jcleared")]
    Output("table").table(("NAME", "COLOR", "TEXT"), rows)
    heading, first, second = click.unstyle(capsys.readouterr().out).splitlines()
    assert heading.index("TEXT") == first.index("two lines") == second.index("\\x1b[2Jcleared")


def test_what_people_are_told_is_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    Output("table").note("by the way")
    Output("table", verbosity=-1).note("not when it is quiet")
    Output("table", verbosity=-1).warn("always")
    said = capsys.readouterr()
    assert said.out == ""
    assert "by the way" in said.err
    assert "not when" not in said.err
    assert "always" in said.err


@pytest.mark.parametrize(
    ("span_ms", "shown"),
    [
        (-5, "0 ms"),
        (0, "0 ms"),
        (999, "999 ms"),
        (1000, "1.0 s"),
        (4230, "4.2 s"),
        (59_000, "59 s"),
        (60_000, "1 min"),
        (185_000, "3 min 5 s"),
        (3_600_000, "1 h"),
        (3_605_000, "1 h"),
        (187_200_000, "2 d 4 h"),
    ],
)
def test_a_span_is_told_in_its_two_largest_units(span_ms: int, shown: str) -> None:
    assert show_span(span_ms) == shown


def test_counts_agree_with_their_nouns() -> None:
    assert [show_count(count, "record") for count in (0, 1, 1200)] == ["0 records", "1 record", "1,200 records"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain äöü\ttab", "plain äöü\ttab"),
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("over\rwritten", "over\\rwritten"),
        ("\x9b2J", "\\x9b2J"),
    ],
)
def test_text_from_outside_cannot_act_on_the_terminal(text: str, shown: str) -> None:
    """Colors may pass; nothing that moves, clears, or sets a title."""
    assert show_line(text) == shown


def test_a_reader_that_goes_away_is_told_once() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    gone: list[str] = []
    write = GuardedWriter(lambda text: os.write(writing, text.encode()), lambda: gone.append("gone"))
    write("a")
    write("b")
    os.close(writing)
    assert gone == ["gone"]
    assert write.is_gone


def print_narrow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int) -> list[str]:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    row = ("0123456789ab", "shard 0 [1000000-1000999]", "ValueError: a quantity of -1")
    Output("table").table(("ID", "RECORDS", "ERROR"), [row], shrinks={"RECORDS": 10})
    return click.unstyle(capsys.readouterr().out).splitlines()


def test_on_a_narrow_terminal_other_columns_are_cut_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert print_narrow(monkeypatch, capsys, 60)[1] == "0123456789ab  shard 0 [100000…  ValueError: a quantity of -1"


def test_where_that_is_not_enough_the_last_column_has_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = print_narrow(monkeypatch, capsys, 40)
    assert lines == [
        "ID            RECORDS",
        "    ERROR",
        "0123456789ab  shard 0 […",
        "    ValueError: a quantity of -1",
    ]


def test_a_table_that_goes_elsewhere_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    Output("table").table(("A", "B"), [("x" * 300, "y" * 300)], shrinks={"A": 5})
    assert f"{'x' * 300}  {'y' * 300}" in capsys.readouterr().out
