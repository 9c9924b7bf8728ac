"""Runs a function once because a person asked, and keeps what it wrote for them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import msgspec

from eventcore.app import open_runtimes
from eventcore.clock import Clock
from eventcore.config.load import LoadedConfig
from eventcore.embedded.events import accept_event
from eventcore.engine.definitions import make_registry
from eventcore.engine.invoker import invoke_once
from eventcore.errors import CommandError
from eventcore.http.contract import Invoke, InvokeAsync, Invoked
from eventcore.http.refusals import ExitCode
from eventcore.http.targets import name_known
from eventcore.ids import IdFactory
from eventcore.model import UNREADABLE_JSON, Invocation, Outcome, OutcomeKind
from eventcore.ports.runtime import LogLine
from eventcore.ports.store import Store
from eventcore.registry import Registry
from eventcore.telemetry.fanout import FanOut

#: Shows every later line to a listener; returns what ends that. `FunctionLogs.subscribe` is one.
Subscribe = Callable[[Callable[[LogLine], None]], Callable[[], None]]


class RunFunction(Protocol):
    """Runs a function once; see `FunctionRunner.run`."""

    async def run(self, function: str, invocation: Invocation) -> Invoked:
        """Run a function of the pipeline once, and return what came of it with the lines that it wrote."""
        ...


class FunctionRunner:
    """Runs functions of an open registry."""

    def __init__(self, registry: Registry, subscribe: Subscribe) -> None:
        self._registry = registry
        self._subscribe = subscribe

    async def run(self, function: str, invocation: Invocation) -> Invoked:
        """Run a function once, beside what mappings have it do; a busy one is not waited for.

        Raises:
            CommandError: there is no such function.
            Throttled: all of its environments are busy.
        """
        found = self._registry.get(function)
        if found is None:
            raise _unknown(function, [entry.spec.name for entry in self._registry])
        lines: list[LogLine] = []

        def keep(line: LogLine) -> None:
            # Lines without a request id are an environment's first words: likely this invocation's own.
            if line.function == function and line.request_id in {"", invocation.request_id}:
                lines.append(line)

        unsubscribe = self._subscribe(keep)
        try:
            outcome = await invoke_once(found, invocation)
        finally:
            unsubscribe()
        return Invoked(
            function=function,
            request_id=invocation.request_id,
            kind=outcome.kind,
            response=_response(outcome),
            fault=outcome.fault,
            failed_count=len(outcome.failed or ()),
            usage=outcome.usage,
            lines=lines,
        )


class OneTimeRunner:
    """Runs a function in an environment that is made for one invocation, with the code that stands there now.

    The environments of a running engine keep the code that they were started with: whoever has just corrected a
    handler, and runs what failed again, means the corrected one.
    """

    def __init__(
        self,
        loaded: LoadedConfig,
        targets: Mapping[str, Callable[..., Any]],
        *,
        clock: Clock,
        ids: IdFactory,
        show: Callable[[LogLine], None] | None = None,
        inline: RunFunction | None = None,
    ) -> None:
        """Prepare to run functions.

        Args:
            loaded: the pipeline.
            targets: callables of functions that run inline.
            clock: wall time.
            ids: identifiers.
            show: is given each line as it is written, which then is not returned; None returns them.
            inline: runs the functions that share this process, whose modules can't be imported a second time; None
                runs them here.
        """
        self._loaded = loaded
        self._targets = targets
        self._clock = clock
        self._ids = ids
        self._show = show
        self._inline = inline

    async def run(self, function: str, invocation: Invocation) -> Invoked:
        """Run a function once; when it returns, its environment is gone.

        Raises:
            CommandError: there is no such function.
            Throttled: it shares this process, and is busy.
        """
        found = self._loaded.config.functions.get(function)
        if found is not None and found.runtime == "inline" and self._inline is not None:
            return await self._inline.run(function, invocation)
        lines: FanOut[LogLine] = FanOut()
        if self._show is not None:
            lines.subscribe(self._show)
        with TemporaryDirectory(prefix="eventcore-") as folder:
            async with open_runtimes(self._loaded, Path(folder), self._clock, self._ids, lines.tell_all) as runtimes:
                registry = make_registry(self._loaded, runtimes, self._targets)
                invoked = await FunctionRunner(registry, lines.subscribe).run(function, invocation)
        return invoked if self._show is None else msgspec.structs.replace(invoked, lines=())


async def invoke(runner: RunFunction, request: Invoke, ids: IdFactory) -> Invoked:
    """Run a function once with an event.

    Raises:
        CommandError: the event is not JSON, or too deeply nested; or as `RunFunction.run`.
    """
    try:
        event = msgspec.json.decode(request.event)
    except UNREADABLE_JSON as error:
        raise CommandError(f"the event is not JSON: {error}", exit_code=ExitCode.USAGE) from error
    request_id = ids.new_id()
    batch = request.batch and msgspec.structs.replace(request.batch, request_id=request_id)
    invocation = Invocation(request_id=request_id, build_event=lambda: event, batch=batch)
    return await runner.run(request.function, invocation)


async def accept(request: InvokeAsync, known: Collection[str], store: Store, *, clock: Clock, ids: IdFactory) -> str:
    """Let an event wait for one of the known functions, and return its request id once that is durable.

    Raises:
        CommandError: there is no such function, or the event is too long.
        StoreUnavailable: nothing was accepted.
    """
    if request.function not in known:
        raise _unknown(request.function, known)
    return await accept_event(store, request.function, bytes(request.event), clock=clock, ids=ids)


def _unknown(function: str, known: Collection[str]) -> CommandError:
    hint = name_known(function, list(known))
    return CommandError(f"there is no function `{function}` in this pipeline", hint=hint)


def _response(outcome: Outcome) -> msgspec.Raw:
    """Return what a caller of Lambda would be given: the result, or the error (§7.2)."""
    if outcome.fault is not None:
        return msgspec.Raw(msgspec.json.encode(outcome.fault.payload()))
    if outcome.kind is not OutcomeKind.SUCCESS:
        return msgspec.Raw(b"null")
    return msgspec.Raw(outcome.response or b"null")
