"""Settings of a function act from the pipeline file on: read, made a function of the process runtime, invoked."""

from pathlib import Path
from typing import Any

from eventcore.config.load import load_config
from eventcore.engine.definitions import function_specs
from eventcore.ports.runtime import FunctionSpec
from eventcore.testing.conformance.runtime_under_test import FUNCTIONS as KIT
from eventcore.testing.conformance.runtime_under_test import is_running, until
from tests.conformance.test_runtimes import FUNCTIONS, process_runtime


def configured(folder: Path, handler: str, *, code: Path = FUNCTIONS, **settings: Any) -> FunctionSpec:
    """Return the function of a pipeline file."""
    lines = [f"{name} = {value}" for name, value in settings.items()]
    text = "\n".join(["[functions.work]", f'handler = "{handler}"', f'code = "{code}"', *lines])
    (folder / "eventcore.toml").write_text(text, encoding="utf-8")
    return function_specs(load_config(folder))["work"]


def command_of(pid: int) -> list[str]:
    """Return a process's command line."""
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")


async def test_a_timeout_ends_an_invocation(tmp_path: Path) -> None:
    async with process_runtime() as test:
        fault = await test.fault(configured(tmp_path, "conformance_handlers.sleep", code=KIT, timeout=1), 10)
        assert fault.message.endswith("Task timed out after 1.00 seconds")


async def test_what_takes_more_memory_than_its_size_is_ended(tmp_path: Path) -> None:
    async with process_runtime() as test:
        spec = configured(tmp_path, "conformance_harms.hoard", code=KIT, memory_size=128, timeout=60)
        assert (await test.fault(spec)).error_type == "Runtime.ExitError"
        assert any("memory_size of 128 MB" in line.text for line in test.lines)


async def test_what_writes_more_than_its_storage_is_ended(tmp_path: Path) -> None:
    async with process_runtime() as test:
        spec = configured(tmp_path, "conformance_harms.fill_disk", code=KIT, ephemeral_storage=513, timeout=60)
        assert (await test.fault(spec)).error_type == "Runtime.ExitError"
        assert any("ephemeral_storage of 513 MB" in line.text for line in test.lines)


async def test_variables_reach_the_handler(tmp_path: Path) -> None:
    async with process_runtime() as test:
        spec = configured(tmp_path, "process_handlers.describe", environment='{ TABLE = "orders" }')
        assert (await test.result(spec))["environment"]["TABLE"] == "orders"


async def test_modules_are_preloaded(tmp_path: Path) -> None:
    async with process_runtime() as test:
        spec = configured(tmp_path, "process_handlers.describe", preload='["preload_plain"]')
        assert (await test.result(spec))["modules"] == ["preload_plain"]


async def test_an_environment_is_spawned(tmp_path: Path) -> None:
    async with process_runtime() as test:
        found = await test.result(configured(tmp_path, "process_handlers.describe", start='"spawn"'))
        assert "eventcore.runtime.environment" in command_of(found["pid"])


async def test_an_idle_environment_is_ended(tmp_path: Path) -> None:
    async with process_runtime() as test:
        found = await test.result(configured(tmp_path, "process_handlers.describe", idle_timeout=1))
        await until(lambda: not is_running(found["pid"]))


def test_an_inline_function_has_no_process(tmp_path: Path) -> None:
    assert configured(tmp_path, "process_handlers.describe", runtime='"inline"').runtime == "inline"
