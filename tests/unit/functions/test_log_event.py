"""`log-event` writes each event as one line, and a very long one cut."""

import json
from types import SimpleNamespace

from eventcore_functions.log_event import handler

CONTEXT = SimpleNamespace(aws_request_id="request-1")


def test_an_event_is_one_line_of_json_behind_the_request_id(capsys):
    event = {"a": "line\nbreak", "b": "ü", "c": [1, None]}
    assert handler.handle(event, CONTEXT) is None
    [line] = capsys.readouterr().out.splitlines()
    request_id, _, text = line.partition(" ")
    assert request_id == "request-1"
    assert json.loads(text) == event
    assert "ü" in text


def test_a_very_long_event_is_cut_and_says_so(capsys):
    handler.handle("x" * (handler.CHARACTERS_MAX + 1), CONTEXT)
    out = capsys.readouterr().out
    assert len(out) < handler.CHARACTERS_MAX + 100
    assert out.endswith(f"... ({handler.CHARACTERS_MAX + 3} characters)\n")
