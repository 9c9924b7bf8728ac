"""The functions of a running pipeline: what each is, how it runs, and how many may run at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import anyio

from eventcore.ports.runtime import FunctionSpec, HandlerForm, Runtime


class Function:
    """A function ready to be invoked."""

    def __init__(self, spec: FunctionSpec, runtime: Runtime, *, concurrency: int, stops_loops: bool = True) -> None:
        self.spec = spec
        self.runtime = runtime
        self.concurrency = concurrency
        #: What came through it too often in one chain is given up (Lambda semantics §2.3).
        self.stops_loops = stops_loops
        #: One slot an invocation, shared by every mapping of the function (Lambda semantics §7.8).
        self.slots = anyio.Semaphore(concurrency, max_value=concurrency, fast_acquire=True)
        self.form: HandlerForm | None = None

    @property
    def running(self) -> int:
        """How many invocations hold a slot."""
        return self.concurrency - self.slots.value

    async def prepare(self) -> HandlerForm:
        """Import the handler once and learn its form.

        Raises:
            InvocationError: it does not import, or is not there; a later call tries again.
        """
        if self.form is None:
            self.form = await self.runtime.prepare(self.spec)
        return self.form


class Registry:
    """Functions by name."""

    def __init__(self, functions: Iterable[Function]) -> None:
        self._functions = {function.spec.name: function for function in functions}

    def get(self, name: str) -> Function | None:
        """Return a function, or None when there is none of that name."""
        return self._functions.get(name)

    def __iter__(self) -> Iterator[Function]:
        return iter(self._functions.values())
