"""What functions write is kept, bounded, and shown live."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventcore.ports.runtime import LogLine
from eventcore.telemetry import logs
from eventcore.telemetry.logs import FunctionLogs, log_path, read_log

#: 2026-01-01T00:00:00.000Z
START_MS = 1_767_225_600_000


def _line(text: str = "hello", **fields: object) -> LogLine:
    return LogLine(**{"function": "enrich", "request_id": "r-1", "time_ms": START_MS, "text": text} | fields)  # type: ignore[arg-type]


def test_a_line_is_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    """So that an engine that is killed has lost none; and a person reads it with any tool."""
    with FunctionLogs(tmp_path / "logs") as sink:
        sink([_line("hello\tworld", time_ms=START_MS + 7)])
        sink([_line("", request_id="", stream="platform")])
        text = (tmp_path / "logs" / "enrich.log").read_text()
    assert text == "2026-01-01T00:00:00.007Z\tr-1\tstdout\thello\tworld\n2026-01-01T00:00:00.000Z\t-\tplatform\t\n"


def test_the_end_of_an_invocation_is_in_the_file_when_the_loop_has_had_its_turn(tmp_path: Path) -> None:
    """Or with the next line of its function, before it; lines of another function wait for nobody."""
    end = [_line("END RequestId: r-1", stream="platform"), _line("REPORT RequestId: r-1\tand so on", stream="platform")]

    async def scenario() -> None:
        with FunctionLogs(tmp_path) as sink:
            path = log_path(tmp_path, "enrich")
            sink([_line("START")])
            sink(end)
            assert sink.recent() == [_line("START"), *end]
            sink([_line("other", function="thumbnail")])
            sink([_line("next")])
            assert read_log(path) == [_line("START"), *end, _line("next")]
            sink(end)
            sink(end)
            await anyio.lowlevel.checkpoint()
            assert read_log(path) == [_line("START"), *end, _line("next"), *end, *end]
            assert sink.statistics().written == 9
            sink(end)
        assert len(read_log(path)) == 10

    anyio.run(scenario)


def test_ends_that_wait_are_bounded_and_counted_when_they_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = [_line("REPORT RequestId: r-1", stream="platform")]

    async def scenario() -> None:
        monkeypatch.setattr(logs, "HELD_BYTES_MAX", 150)
        with FunctionLogs(tmp_path) as sink:
            for _ in range(3):
                sink(end)
            assert read_log(log_path(tmp_path, "enrich")) == end * 3
            log_path(tmp_path, "full").symlink_to("/dev/full")
            sink([_line("REPORT RequestId: r-1", function="full")])
            assert sink.statistics().lost == 0
            await anyio.lowlevel.checkpoint()
            assert sink.statistics().lost == 1

    anyio.run(scenario)


def test_lines_that_come_together_keep_their_order_and_their_own_times(tmp_path: Path) -> None:
    """In the file, in memory and for who watches."""
    together = [
        _line("[ERROR] no", stream="log"),
        _line("END", stream="platform"),
        _line("REPORT", time_ms=START_MS + 1),
        _line("of another", request_id="r-2"),
    ]
    shown: list[LogLine] = []
    with FunctionLogs(tmp_path) as sink:
        sink.subscribe(shown.append, function="enrich")
        sink(together)
        assert read_log(log_path(tmp_path, "enrich")) == together
        assert sink.recent() == together
    assert shown == together
    assert sink.statistics().written == 4


def test_lines_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    lines = [
        _line("tab\there, cr\rthere, nul\0, wide 漢字 🎉"),
        _line("from before", time_ms=1),
        _line("", request_id="", stream="platform"),
        _line("x" * 300_000, stream="stderr"),
    ]
    with FunctionLogs(tmp_path) as sink:
        for line in lines:
            sink([line])
    assert read_log(log_path(tmp_path, "enrich")) == lines


@given(st.lists(st.text(), max_size=5))
@example(
    ["two\nlines", "\n", "2026-01-01T00:00:00.000Z\tr-2\tstdout\tforged", "x\n2026-01-01T00:00:00.000Z\tr-2\tstdout\tx"]
)
def test_no_text_breaks_the_log(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """A line within a line becomes one of its own: nothing that a function writes can pass for a line of another."""
    folder = tmp_path_factory.mktemp("logs")
    with FunctionLogs(folder) as sink:
        for text in texts:
            sink([_line(text)])
    read = read_log(log_path(folder, "enrich"))
    assert "\n".join(line.text for line in read) == "\n".join(texts)
    assert all(line.request_id == "r-1" for line in read)


def test_text_that_is_no_text_is_written_all_the_same(tmp_path: Path) -> None:
    with FunctionLogs(tmp_path) as sink:
        sink([_line("\udc80")])
    assert [line.text for line in read_log(log_path(tmp_path, "enrich"))] == ["?"]


def test_each_function_has_a_file(tmp_path: Path) -> None:
    with FunctionLogs(tmp_path) as sink:
        sink([_line("one")])
        sink([_line("other", function="thumbnail")])
    assert [line.text for line in read_log(log_path(tmp_path, "enrich"))] == ["one"]
    assert [line.function for line in read_log(log_path(tmp_path, "thumbnail"))] == ["thumbnail"]
    assert read_log(log_path(tmp_path, "nobody")) == []


def test_the_next_engine_goes_on_in_the_same_file(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with FunctionLogs(tmp_path) as sink:
            sink([_line(text)])
    assert [line.text for line in read_log(log_path(tmp_path, "enrich"))] == ["one", "two"]


def test_a_log_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Functions log what they work with."""
    with FunctionLogs(tmp_path) as sink:
        sink([_line()])
    assert log_path(tmp_path, "enrich").stat().st_mode & 0o777 == 0o600


def test_files_are_rotated_and_the_oldest_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES_MAX", 1_000)
    with FunctionLogs(tmp_path) as sink:
        for number in range(500):
            sink([_line(f"{number:04}")])
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["enrich.log", *[f"enrich.log.{number}" for number in range(1, logs.FILES_KEPT + 1)]]
    assert all(path.stat().st_size <= 1_000 for path in tmp_path.iterdir())
    texts = [int(line.text) for line in read_log(log_path(tmp_path, "enrich"))]
    assert texts == list(range(texts[0], 500))
    assert len(texts) > 1_000 * logs.FILES_KEPT // 40


def test_a_file_that_was_full_before_is_rotated_by_the_next_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES_MAX", 100)
    for _ in range(3):
        with FunctionLogs(tmp_path) as sink:
            sink([_line("x" * 30)])
    assert log_path(tmp_path, "enrich").stat().st_size <= 100
    assert len(read_log(log_path(tmp_path, "enrich"))) == 3


def test_a_line_that_is_larger_than_a_file_is_still_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES_MAX", 100)
    with FunctionLogs(tmp_path) as sink:
        sink([_line("x" * 500)])
        sink([_line("after")])
    assert [len(line.text) for line in read_log(log_path(tmp_path, "enrich"))] == [500, 5]


def test_reading_chooses_by_invocation_time_and_number(tmp_path: Path) -> None:
    with FunctionLogs(tmp_path) as sink:
        for number in range(10):
            sink([_line(str(number), request_id=f"r-{number % 2}", time_ms=START_MS + number)])
    path = log_path(tmp_path, "enrich")
    assert [line.text for line in read_log(path, request_id="r-1")] == ["1", "3", "5", "7", "9"]
    assert [line.text for line in read_log(path, since_ms=START_MS + 8)] == ["8", "9"]
    assert [line.text for line in read_log(path, count_max=2)] == ["8", "9"]
    assert [line.text for line in read_log(path, request_id="r-0", count_max=1)] == ["8"]


def test_what_is_not_a_line_of_ours_is_passed_over(tmp_path: Path) -> None:
    path = log_path(tmp_path, "enrich")
    path.write_bytes(b"\xff\xfe\nby hand\nyesterday\tr\tstdout\ttext\n")
    with FunctionLogs(tmp_path) as sink:
        sink([_line("ours")])
    path.write_bytes(path.read_bytes() + b"2026-01-01T00:00")
    assert [line.text for line in read_log(path)] == ["ours"]


def _count_descriptors() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


def test_open_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "OPEN_FILES_MAX", 3)
    before = _count_descriptors()
    with FunctionLogs(tmp_path) as sink:
        for _ in range(2):
            for number in range(9):
                sink([_line("x", function=f"f{number}")])
        assert _count_descriptors() - before == 3
    assert _count_descriptors() == before
    assert all(len(read_log(log_path(tmp_path, f"f{number}"))) == 2 for number in range(9))


# -- what can't be written ---------------------------------------------------------------------------------------------


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is counted, said once, still shown live, and goes on when there is room again."""
    obstacle = tmp_path / "logs"
    obstacle.write_text("a file where the folder should be")
    shown: list[str] = []
    with FunctionLogs(obstacle) as sink:
        sink.subscribe(lambda line: shown.append(line.text))
        sink([_line("one")])
        sink([_line("two")])
        obstacle.unlink()
        sink([_line("three")])
    assert shown == ["one", "two", "three"]
    assert (sink.statistics().written, sink.statistics().lost) == (1, 2)
    assert [record.getMessage() for record in caplog.records] == ["logs.write_failed"]
    assert [line.text for line in read_log(log_path(obstacle, "enrich"))] == ["three"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full stands for a full disk; Linux has it")
def test_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    log_path(tmp_path, "enrich").symlink_to("/dev/full")
    with FunctionLogs(tmp_path) as sink:
        sink([_line()])
    assert sink.statistics().lost == 1


def test_a_line_that_was_cut_off_does_not_take_the_next_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up in the middle of a line."""
    write = os.write
    with FunctionLogs(tmp_path) as sink:
        sink([_line("whole")])
        monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:-5]))
        sink([_line("cut off")])
        monkeypatch.undo()
        sink([_line("whole again")])
    assert [line.text for line in read_log(log_path(tmp_path, "enrich"))] == ["whole", "cut", "whole again"]
    assert sink.statistics().lost == 1


# -- live --------------------------------------------------------------------------------------------------------------


def test_who_watches_sees_every_line_or_those_of_one_function(tmp_path: Path) -> None:
    everything: list[str] = []
    thumbnails: list[str] = []
    with FunctionLogs(tmp_path) as sink:
        end = sink.subscribe(lambda line: everything.append(line.text))
        sink.subscribe(lambda line: thumbnails.append(line.text), function="thumbnail")
        sink([_line("a")])
        sink([_line("b", function="thumbnail")])
        end()
        sink([_line("c", function="thumbnail")])
    assert everything == ["a", "b"]
    assert thumbnails == ["b", "c"]


def test_who_begins_to_watch_sees_the_newest_lines(tmp_path: Path) -> None:
    with FunctionLogs(tmp_path) as sink:
        sink([_line("a")])
        sink([_line("b", request_id="r-2")])
        sink([_line("c", function="thumbnail", request_id="r-2")])
        assert [line.text for line in sink.recent()] == ["a", "b", "c"]
        assert [line.text for line in sink.recent(function="enrich")] == ["a", "b"]
        assert [line.text for line in sink.recent(function="enrich", request_id="r-2")] == ["b"]


def test_what_is_remembered_is_bounded_in_lines_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "RECENT_LINES_MAX", 10)
    monkeypatch.setattr(logs, "RECENT_BYTES_MAX", 100)
    with FunctionLogs(tmp_path) as sink:
        for number in range(50):
            sink([_line(str(number))])
        assert [line.text for line in sink.recent()] == [str(number) for number in range(40, 50)]
        sink([_line("x" * 96)])
        assert [line.text[:2] for line in sink.recent()] == ["48", "49", "xx"]
        sink([_line("y" * 101)])
        assert sink.recent() == []
        sink([_line(str(number)) for number in range(50)])
        assert [line.text for line in sink.recent()] == [str(number) for number in range(40, 50)]
        sink([_line("z"), _line("z")])
        assert [line.text for line in sink.recent()] == ["z", "z"]
