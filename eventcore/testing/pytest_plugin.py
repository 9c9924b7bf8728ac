"""The pytest plugin: a pipeline in virtual time as a fixture, and a timeline where a test fails.

Loaded by pytest wherever eventcore is installed, so it imports nothing of the engine before a test asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from eventcore.config.pipeline import Pipeline
    from eventcore.testing.faults import Faults
    from eventcore.testing.virtual_pipeline import VirtualPipeline

_OPENED = pytest.StashKey[list["VirtualPipeline"]]()


class OpenPipeline(Protocol):
    """What the fixture `eventcore_pipeline` returns; the arguments are those of `eventcore.testing.open_pipeline`."""

    def __call__(
        self,
        pipeline: Pipeline | str | os.PathLike[str],
        *,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        shards: Mapping[str, int] | None = None,
        seed: int | None = None,
        faults: Faults | None = None,
    ) -> VirtualPipeline:
        """Start a pipeline, which is drained when the test ends; a path is relative to pytest's root folder."""
        ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--eventcore-seed`."""
    parser.getgroup("eventcore").addoption(
        "--eventcore-seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of pipelines in virtual time whose test names none (default 0)",
    )


@pytest.fixture
def eventcore_pipeline(request: pytest.FixtureRequest) -> Iterator[OpenPipeline]:
    """Return what starts a pipeline in virtual time; a test may start several."""
    from eventcore.testing.virtual_pipeline import VirtualPipeline

    opened: list[VirtualPipeline] = []
    request.node.stash[_OPENED] = opened

    def open_one(
        pipeline: Pipeline | str | os.PathLike[str],
        *,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        shards: Mapping[str, int] | None = None,
        seed: int | None = None,
        faults: Faults | None = None,
    ) -> VirtualPipeline:
        if isinstance(pipeline, str | os.PathLike):
            pipeline = request.config.rootpath / Path(pipeline)
        chosen = request.config.getoption("--eventcore-seed") if seed is None else seed
        running = VirtualPipeline(pipeline, functions=functions, shards=shards, seed=chosen, faults=faults)
        opened.append(running)
        closing.callback(running.close)
        return running

    # Closes the last first, each of them, and raises at the end what one raised.
    with ExitStack() as closing:
        yield open_one


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what happened in the pipelines of a test that failed."""
    report = yield
    del call
    if report.when == "call" and report.failed:
        for running in item.stash.get(_OPENED, []):
            text = running.timeline() or "nothing"
            report.sections.append((f"eventcore, seed {running.seed}: what happened", text))
    return report
