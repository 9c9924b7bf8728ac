"""Starts environments: finds the zygote, hands over the descriptors, waits until the handler is imported."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from pathlib import Path

import anyio
import anyio.abc

from eventcore.clock import Clock
from eventcore.errors import RuntimeUnavailable
from eventcore.ids import IdFactory
from eventcore.loop import loop_time
from eventcore.model import Fault
from eventcore.ports.runtime import FunctionSpec
from eventcore.runtime import fault as faults
from eventcore.runtime import protocol
from eventcore.runtime.channel import Deadlines
from eventcore.runtime.identity import code_folder, name_environment
from eventcore.runtime.launcher import Launcher, open_launcher
from eventcore.runtime.output import OutputCapture
from eventcore.runtime.pool import Pool
from eventcore.runtime.remote import EndReason, RemoteEnvironment
from eventcore.runtime.report import Reporter
from eventcore.runtime.variables import WRAPPER, function_variables, pass_on
from eventcore.runtime.watch import Watch

#: How long a kill is waited for: the kernel needs milliseconds, unless the process hangs in a system call.
KILL_WAIT_S = 2.0


class Starter:
    """The zygotes, and every environment that came from them and is not gone."""

    def __init__(
        self, clock: Clock, ids: IdFactory, reporter: Reporter, folder: Path, tasks: anyio.abc.TaskGroup
    ) -> None:
        self._clock = clock
        self._ids = ids
        self._reporter = reporter
        self._folder = folder
        self._tasks = tasks
        self._deadlines = Deadlines()
        self._numbers = itertools.count(1)
        self._launchers: set[Launcher] = set()
        self._root: Launcher | None = None
        self.environments: dict[RemoteEnvironment, Pool] = {}  #: all that are not gone
        self.serving: dict[str, RemoteEnvironment] = {}  #: by the request id that they serve or start for
        self.started_count = 0
        self.killed_count = 0
        self.watch = Watch(self.environments, reporter)
        tasks.start_soon(self.watch.watch_memory)
        tasks.start_soon(self.watch.watch_disk)

    async def start(
        self, pool: Pool, function: FunctionSpec, request_id: str | None, limit_s: float
    ) -> RemoteEnvironment | Fault | None:
        """Start an environment and wait until its handler is imported.

        Args:
            pool: where it belongs.
            function: what it is to serve.
            request_id: the invocation that waits for it; None when none does.
            limit_s: how long the import may take.

        Returns:
            The environment, busy; why it can't serve; or None when it was killed by its request id.

        Raises:
            RuntimeUnavailable: there is no process to be had, which is no fault of the function's.
        """
        refusal = _refuse(function)
        if refusal is not None:
            return refusal
        try:
            launcher = self._find_launcher(pool)
            await launcher.reserve()
            began = loop_time()
            self._reporter.init_start(function)
            environment = self._open(pool, launcher, function)
        except OSError as error:
            raise RuntimeUnavailable(f"no environment can be started: {error.strerror or error}") from error
        environment.request_id = request_id or ""
        if request_id is not None:
            self.serving[request_id] = environment
        self.watch.wake()
        frame = None
        try:
            with anyio.move_on_after(limit_s) as scope:
                frame = await environment.receive()
        finally:
            environment.output.end()
            # Not another's: an event whose lease has ended is tried beside itself, with one request id.
            if request_id is not None and self.serving.get(request_id) is environment:
                del self.serving[request_id]
            if not isinstance(frame, protocol.Ready):
                await kill(environment, EndReason.TIMEOUT if scope.cancelled_caught else EndReason.UNFIT)
        if isinstance(frame, protocol.Ready):
            environment.form = frame.form
            return environment
        fault = _why_unready(environment, launcher, frame, request_id or "", limit_s)
        if fault is not None:
            self._reporter.init_failed(function, (loop_time() - began) * 1000, fault)
        return fault

    def remove_folders(self, pool: Pool) -> None:
        """Delete what a retired pool left, and its own zygote once nothing of it runs."""
        for folder in pool.take_folders():
            self.watch.remove(folder)
        if pool.is_retired and not pool.environments and pool.launcher is not None:
            self._tasks.start_soon(self._discard, pool.launcher)
            pool.launcher = None

    async def close(self) -> None:
        """Kill every environment, end every zygote, and return when they are gone."""
        for environment in list(self.environments):
            environment.kill(EndReason.UNUSED)
        for launcher in list(self._launchers):
            await self._discard(launcher)

    def _open(self, pool: Pool, launcher: Launcher, function: FunctionSpec) -> RemoteEnvironment:
        number = next(self._numbers)
        left = pool.take_folder()
        temporary = left or self._folder / str(number)
        output = OutputCapture(function.name, self._reporter)
        environment = RemoteEnvironment(number, temporary, output, self._deadlines, replaces_lost=left is not None)
        try:
            temporary.mkdir(mode=0o700, exist_ok=True)
            descriptors = environment.open(self._forget)
        except OSError:
            launcher.give_back()
            pool.leave_folder(temporary)
            raise
        self.environments[environment] = pool
        pool.environments.add(environment)
        self.started_count += 1
        launcher.start(environment, descriptors)
        # Both go ahead of the process that will read them.
        serving = name_environment(function, self._clock, self._ids)
        variables = function_variables(function, serving, temporary, os.environ)
        environment.send(protocol.Launch(function.start, variables))
        environment.send(protocol.Setup(serving, function.handler, code_folder(function)))
        return environment

    def _forget(self, environment: RemoteEnvironment) -> None:
        """Take note that an environment's process is gone."""
        pool = self.environments.pop(environment)
        if environment.ended_by not in {None, EndReason.UNUSED, EndReason.UNFIT}:
            self.killed_count += 1
        pool.forget(environment)
        self.remove_folders(pool)

    def _find_launcher(self, pool: Pool) -> Launcher:
        """Return the zygote for a pool, started if there is none: its own if it has `preload`, else everybody's."""
        function = pool.function
        old = pool.launcher if function.preload else self._root
        if old is not None and old.is_open:
            return old
        if old is not None:
            self._tasks.start_soon(self._discard, old)
        if function.preload:
            serving = name_environment(function, self._clock, self._ids)
            variables = function_variables(function, serving, self._folder, os.environ)
            launcher = open_launcher(self._folder, variables, code=function.code, preload=function.preload)
            pool.launcher = launcher
        else:
            launcher = self._root = open_launcher(self._folder, pass_on(os.environ))
        self._launchers.add(launcher)
        self._tasks.start_soon(launcher.listen)
        return launcher

    async def _discard(self, launcher: Launcher) -> None:
        if launcher in self._launchers:
            self._launchers.remove(launcher)
            await launcher.close()


async def kill(environment: RemoteEnvironment, reason: EndReason) -> None:
    """Kill an environment and wait until it is gone; cancellation waits for it too, but not for ever."""
    environment.kill(reason)
    with anyio.move_on_after(KILL_WAIT_S, shield=True):
        await environment.wait_exited()


def fault_of_exit(environment: RemoteEnvironment, request_id: str) -> Fault | None:
    """Return the fault of an environment that is gone; None when it was killed by its request id."""
    if environment.ended_by is EndReason.RELEASED:
        return None
    return faults.exit_fault(request_id, -signal.SIGKILL if environment.exit_code is None else environment.exit_code)


def _refuse(function: FunctionSpec) -> Fault | None:
    """Return why a function can't run as it is configured: no setting is accepted and ignored."""
    if not function.code.is_dir():
        return faults.setup_fault("Runtime.ImportModuleError", f"there is no folder {code_folder(function)}")
    if function.preload and function.start == "spawn":
        message = 'preload imports modules before a fork: take it out, or write start = "fork"'
        return faults.setup_fault("Runtime.BadSettings", message)
    if function.start == "fork" and WRAPPER in function.environment:
        message = f'{WRAPPER} starts an interpreter, and a fork starts none: write start = "spawn"'
        return faults.setup_fault("Runtime.BadSettings", message)
    if function.start == "fork" and sys.platform == "darwin":
        message = 'macOS\'s own libraries do not survive a fork: write start = "spawn"'
        return faults.setup_fault("Runtime.BadSettings", message)
    return None


def _why_unready(
    environment: RemoteEnvironment,
    launcher: Launcher,
    frame: protocol.FromEnvironment | None,
    request_id: str,
    limit_s: float,
) -> Fault | None:
    """Return why an environment did not become ready; None when it was killed by its request id."""
    if isinstance(frame, protocol.Unready):
        return frame.fault
    if launcher.refusal:
        return faults.setup_fault("Runtime.PreloadRefused", launcher.refusal)
    if environment.why_not_started:
        raise RuntimeUnavailable(f"no environment can be started: {environment.why_not_started}")
    if environment.was_never_started:
        launcher.give_up()
        raise launcher.why_ended()
    if environment.ended_by is EndReason.TIMEOUT:
        return faults.timeout_fault(request_id, limit_s)
    return fault_of_exit(environment, request_id)
