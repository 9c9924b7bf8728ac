"""`init` writes a pipeline that runs as it is; `validate` tells all that is wrong with one; options stand anywhere."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import msgspec
import pytest

from tests.behaviours.commands import POISONED, ask, run, run_process, running, write_pipeline

ORDER = '{"id": "1", "customer": "ada", "quantity": 2}'


# -- init --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("template", "source"), [("stream", "stream:orders"), ("queue", "queue:orders")])
def test_a_template_runs_unchanged(tmp_path: Path, template: str, source: str) -> None:
    done = run("init", "--template", template, "shop", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.split() == ["shop/README.md", "shop/eventcore.toml", "shop/orders.py"]
    assert "eventcore dev" in done.stderr
    assert run("-c", "shop", "validate", cwd=tmp_path).stderr == ""
    with running("-c", "shop", "dev", cwd=tmp_path) as engine:
        assert run("-c", "shop", "send", source, ORDER, cwd=tmp_path).returncode == 0
        engine.wait_line("order 1 of ada: 5.00 EUR")
        engine.wait_line("1 record settled")


@pytest.mark.parametrize("template", ["stream", "queue", "kafka"])
def test_every_template_is_valid(tmp_path: Path, template: str) -> None:
    assert run("init", "--template", template, cwd=tmp_path).returncode == 0
    done = run("validate", cwd=tmp_path)
    assert (done.returncode, done.stdout.startswith("eventcore.toml is valid")) == (0, True)


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text("mine")
    done = run("init", cwd=tmp_path)
    assert done.returncode == 1
    assert "orders.py would be overwritten" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["orders.py"]
    assert (tmp_path / "orders.py").read_text() == "mine"


# -- validate ----------------------------------------------------------------------------------------------------------

WRONG = """
[functions.work]
handler = "handlers.work"
timout = 3

[mappings.orders]
source = "stream:ordres"
function = "wrk"
starting_position = "TRIM_HORIZON"
batch_size = 0

[streams.orders]
"""


def test_every_mistake_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    done = run("validate", cwd=write_pipeline(tmp_path, POISONED, WRONG))
    assert (done.returncode, done.stdout) == (3, "")
    mistakes = [line for line in done.stderr.splitlines() if line.startswith("eventcore.toml:")]
    assert [line.split(":")[1] for line in mistakes] == ["4", "7", "8", "10"]
    assert "did you mean `timeout`?" in mistakes[0]


@pytest.mark.parametrize("command", [["run"], ["dev"], ["status"], ["send", "queue:q", "x"], ["invoke", "work", "{}"]])
def test_a_command_that_needs_the_pipeline_tells_its_mistakes_too(tmp_path: Path, command: list[str]) -> None:
    done = run(*command, cwd=write_pipeline(tmp_path, POISONED, WRONG))
    assert done.returncode == 3
    assert "eventcore.toml:10" in done.stderr


def test_a_pipeline_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    done = run("validate", cwd=tmp_path)
    assert done.returncode == 3
    assert "there is no such file" in done.stderr
    assert "eventcore init" in done.stderr


def test_mistakes_are_data_where_data_is_asked_for(tmp_path: Path) -> None:
    done = run("-o", "json", "validate", cwd=write_pipeline(tmp_path, POISONED, WRONG))
    assert done.returncode == 3
    assert [mistake["line"] for mistake in msgspec.json.decode(done.stdout)["mistakes"]] == [4, 7, 8, 10]


def test_a_handler_that_is_not_there_is_a_mistake_and_none_of_it_runs(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, "raise SystemExit\n" + POISONED)
    assert run("validate", cwd=folder).returncode == 0
    write_pipeline(tmp_path, "def wrk(event, context): ...\n")
    done = run("validate", cwd=folder)
    assert (done.returncode, done.stdout) == (3, "")
    assert "eventcore.toml:6: functions.work.handler: there is no `work` in handlers.py" in done.stderr
    assert "did you mean `handlers.wrk`?" in done.stderr


@pytest.mark.parametrize("named", ["shop.py", "shop"])
def test_a_module_without_its_app_is_told_how_it_is_named(tmp_path: Path, named: str) -> None:
    (tmp_path / "shop.py").write_text(APP)
    done = run("run", named, cwd=tmp_path)
    assert done.returncode == 3
    assert "did you mean `shop:app`?" in done.stderr


def test_a_command_that_is_not_there_names_one_like_it(tmp_path: Path) -> None:
    done = run("validat", cwd=tmp_path)
    assert done.returncode == 2
    assert "Did you mean validate?" in done.stderr
    assert "Did you mean peek?" in run("queue", "peak", cwd=tmp_path).stderr


def test_warnings_let_a_pipeline_pass(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, POISONED, '[functions.work]\nhandler = "handlers.work"\n')
    done = run("validate", cwd=folder)
    assert done.returncode == 0
    assert "warning:" in done.stderr
    assert "valid: 1 function" in done.stdout


def test_explain_says_where_each_value_comes_from_and_keeps_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "very-secret")
    environment = '[functions.work]\nhandler = "handlers.work"\nenvironment = { TOKEN = "${env:TOKEN}" }\n'
    folder = write_pipeline(tmp_path, POISONED, environment)
    rows = {row["path"]: row for row in ask("validate", "--explain", cwd=folder)}
    assert rows["functions.work.timeout"]["origin"] == "default"
    assert rows["functions.work.handler"]["origin"].endswith("eventcore.toml:2")
    assert rows["functions.work.environment.TOKEN"]["value"] == "***"
    assert "very-secret" not in run("validate", "--explain", cwd=folder).stdout


def test_the_schema_accepts_what_validate_accepts(tmp_path: Path) -> None:
    schema = msgspec.json.decode(run("validate", "--schema", cwd=tmp_path).stdout)
    jsonschema.validate({"functions": {"work": {"handler": "handlers.work"}}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"functions": {"work": {"handler": "handlers.work", "timout": 3}}}, schema)


# -- pipelines in Python -----------------------------------------------------------------------------------------------

APP = """
import eventcore

app = eventcore.App()
app.queue("orders")

@app.function(runtime="inline")
async def work(event, context):
    print("to whom it concerns")
    return len(event)

app.mapping("orders", source="queue:orders", function=work)
"""


@pytest.mark.slow
def test_a_pipeline_in_python_runs_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    with running("run", "shop:app", cwd=tmp_path) as engine:
        engine.wait_line("state=Enabled")
        assert ask("status", cwd=tmp_path)["mappings"][0]["mapping"] == "orders"
        assert run("send", "queue:orders", "a", cwd=tmp_path).returncode == 0
        engine.wait_line("to whom it concerns")
    assert engine.printed == []
    assert run_process("-c", "shop:app", "invoke", "work", "{}", cwd=tmp_path).stdout == "0\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("app = 3\n", "is no eventcore.App"),
        ("", "is not there"),
        ("import eventcore\napp = eventcore.App()\napp.queue('q', delay=-1)\n", "shop.py:3"),
    ],
)
def test_a_module_that_holds_no_pipeline_says_why(tmp_path: Path, source: str, said: str) -> None:
    """The user's own lines of a traceback are shown, ours are not."""
    (tmp_path / "shop.py").write_text(source)
    done = run_process("run", "shop:app", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert said in done.stderr
    assert "eventcore/cli" not in done.stderr


# -- options -----------------------------------------------------------------------------------------------------------


def test_global_options_may_stand_before_the_command_or_behind_it(tmp_path: Path) -> None:
    write_pipeline(tmp_path / "shop", POISONED)
    before = run("-c", "shop", "-o", "json", "queue", "ls", cwd=tmp_path)
    behind = run("queue", "ls", "-c", "shop", "-o", "json", cwd=tmp_path)
    between = run("queue", "-o", "json", "ls", "-c", "shop", cwd=tmp_path)
    assert before.returncode == 0
    assert before == behind == between


def test_state_may_lie_elsewhere(tmp_path: Path) -> None:
    write_pipeline(tmp_path, POISONED)
    assert run("--state", "elsewhere/state", "status", cwd=tmp_path).returncode == 0
    assert (tmp_path / "elsewhere" / "state" / "state.db").exists()
    assert not (tmp_path / ".eventcore").exists()


@pytest.mark.parametrize(
    "arguments", [["nix"], ["--nix"], ["queue", "nix"], ["run", "a", "b"], ["-o", "xml", "status"]]
)
def test_wrong_usage_is_two(tmp_path: Path, arguments: list[str]) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: eventcore" in done.stderr


def test_less_is_said_when_it_is_asked_for(tmp_path: Path) -> None:
    write_pipeline(tmp_path, POISONED)
    assert run("-q", "send", "stream:orders", "x", cwd=tmp_path).stderr == ""
    assert run("send", "stream:orders", "x", "-q", cwd=tmp_path).stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(tmp_path: Path, shell: str) -> None:
    done = run("completion", shell, cwd=tmp_path)
    assert done.returncode == 0
    assert "_EVENTCORE_COMPLETE" in done.stdout
