"""Who carries a request out: the engine that runs on the state folder, or this process itself, under the folder's lock.

An engine is asked over its socket, which costs no event loop. Without one, the state is opened here, in a loop of its
own thread, so that commands stay plain functions.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, Protocol

import click

from eventcore.cli.log_lines import print_line
from eventcore.cli.place import PipelinePlace, read_pipeline
from eventcore.errors import StateInUse
from eventcore.http.client import ControlClient
from eventcore.http.contract import Request, Result

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from eventcore.http.operations import Operations

#: A folder that is locked and has no socket belongs to an engine that starts or stops, or to another command: seconds
#: between looks, and how many.
LOCK_PAUSE_S = 0.05
LOCK_LOOKS = 100


class Asker(Protocol):
    """Carries requests out, one at a time."""

    def ask(self, request: Request[Result]) -> Result:
        """Return the answer.

        Raises:
            EventcoreError: the request can't be carried out.
        """
        ...


class _Here:
    """Operations in the loop of another thread."""

    def __init__(self, portal: BlockingPortal, operations: Operations) -> None:
        self._portal = portal
        self._operations = operations

    def ask(self, request: Request[Result]) -> Result:
        # A function that runs inline prints where this process prints; standard output is for data.
        with redirect_stdout(sys.stderr):
            return self._portal.call(self._operations.perform, request)


@contextmanager
def reach(place: PipelinePlace, *, needs_state: bool = True) -> Iterator[Asker]:
    """Give whoever carries requests out, for the block.

    Args:
        place: the pipeline and its state.
        needs_state: False for requests that leave the state alone: no lock is taken for them.

    Raises:
        StateInUse: somebody else holds the folder and answers no requests.
        ConfigError, CommandError: no engine runs, and the pipeline can't be read.
        StoreError: the state can't be used.
    """
    client = ControlClient(place.state)
    if client.is_reachable:
        yield client
        return
    with ExitStack() as stack:
        yield _open_here(stack, place, client, needs_state=needs_state)


def _open_here(stack: ExitStack, place: PipelinePlace, client: ControlClient, *, needs_state: bool) -> Asker:
    pipeline = read_pipeline(place)
    import anyio
    from anyio.from_thread import start_blocking_portal

    from eventcore.cli.local import open_operations

    # Client libraries log what they also raise: a command says it once, in its own words.
    logging.getLogger().addHandler(logging.NullHandler())
    show = partial(print_line, color=click.get_current_context().color)
    portal = stack.enter_context(start_blocking_portal())
    state = place.state if needs_state else None
    for look in range(LOCK_LOOKS):
        try:
            opened = portal.wrap_async_context_manager(open_operations(pipeline, state, show))
            return _Here(portal, stack.enter_context(opened))
        except StateInUse:
            if look == LOCK_LOOKS - 1:
                raise
        if client.is_reachable:
            return client
        portal.call(anyio.sleep, LOCK_PAUSE_S)
    raise AssertionError("the last look returns or raises")
