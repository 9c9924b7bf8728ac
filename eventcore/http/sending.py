"""Puts records into a source: an embedded queue or stream, or a system outside by its connector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eventcore.clock import Clock
from eventcore.config.reference import Reference
from eventcore.embedded.appending import append_records
from eventcore.embedded.sending import send_messages
from eventcore.errors import CommandError
from eventcore.http.contract import SEND_RECORDS_MAX, Place, Send
from eventcore.http.refusals import ExitCode
from eventcore.http.targets import name_known, read_target
from eventcore.ids import IdFactory
from eventcore.ports.connectors import Connector
from eventcore.ports.store import Store

LoadConnector = Callable[[str], Connector]


async def send(
    request: Send,
    *,
    store: Store | None,
    clock: Clock,
    ids: IdFactory,
    connections: Mapping[tuple[str, str], Any],
    load_connector: LoadConnector,
) -> Sequence[Place]:
    """Send records and return where each went, in order, once they are durable there.

    Args:
        request: what, and where to.
        store: holds embedded queues and streams; None will do for others.
        clock: for the time of sending.
        ids: for messages' ids.
        connections: of the pipeline, by kind and name.
        load_connector: finds the connector of a kind.

    Raises:
        CommandError: it can't be sent as it is: no such source, too large, a delay where there is none.
        DestinationUnavailable: the system outside can't be reached.
        StoreUnavailable: nothing was sent.
    """
    reference = read_target(request.reference)
    if len(request.records) > SEND_RECORDS_MAX:
        raise CommandError(f"at most {SEND_RECORDS_MAX} records can be sent at once, not {len(request.records)}")
    if request.delay_s is not None and reference.kind != "queue":
        raise CommandError("only queues can delay a message", exit_code=ExitCode.USAGE)
    if request.deduplication_id and reference.kind != "queue":
        raise CommandError("only FIFO queues have deduplication ids", exit_code=ExitCode.USAGE)
    if reference.kind in {"queue", "stream"}:
        assert store is not None, "whoever asks for an embedded source has opened the store"
        await _check_name(store, reference)
    if reference.kind == "queue":
        assert store is not None, "checked above"
        sent = await send_messages(
            store,
            reference.name,
            request.records,
            clock=clock,
            ids=ids,
            delay_s=request.delay_s,
            deduplication_id=request.deduplication_id,
        )
        return tuple([Place(id=message_id) for message_id in sent])
    if reference.kind == "stream":
        assert store is not None, "checked above"
        places: Sequence[tuple[str, int]] = await append_records(
            store, reference.name, request.records, clock=clock, ids=ids
        )
    else:
        connection = connections.get((reference.kind, reference.name))
        if connection is None:
            hint = name_known(reference.name, [name for kind, name in connections if kind == reference.kind])
            raise CommandError(f"there is no [{reference.kind}.{reference.name}] in this pipeline", hint=hint)
        places = await load_connector(reference.kind).send(reference, connection, request.records)
    return tuple([Place(shard=shard, position=position) for shard, position in places])


async def _check_name(store: Store, reference: Reference) -> None:
    """Refuse a queue or stream that is not there, naming those that are."""
    if reference.kind == "queue":
        known = [depth.queue for depth in await store.queue_depths()]
    else:
        known = list(await store.streams())
    if reference.name not in known:
        hint = name_known(reference.name, known)
        raise CommandError(f"there is no {reference.kind} {reference.name}", hint=hint)
