"""What a pipeline needs of the outside: connectors by kind, and the destinations that are not on the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventcore.clock import Clock
from eventcore.config.effective import EffectivePipeline
from eventcore.config.reference import Reference
from eventcore.embedded.destinations import QueueDestination, StreamDestination
from eventcore.embedded.events import event_queue
from eventcore.errors import ConnectorUnavailable
from eventcore.ids import IdFactory
from eventcore.ports.connectors import Connector, ConnectorContext
from eventcore.ports.destinations import Destination, TransactionalDestination


def load_connector(kind: str) -> Connector:
    """Return the connector of a kind.

    Raises:
        ConnectorUnavailable: nothing installed provides it.
    """
    # Imported here: it costs a command more than opening the state does.
    from importlib.metadata import entry_points

    for entry in entry_points(group="eventcore.connectors", name=kind):
        connector: Connector = entry.load()
        return connector
    raise ConnectorUnavailable(f"no installed package provides a connector for `{kind}:`")


def find_connectors(pipeline: EffectivePipeline, given: Mapping[str, Connector]) -> dict[str, Connector]:
    """Return the connectors that a pipeline needs, by kind; those that are not given are loaded.

    Raises:
        ConnectorUnavailable: nothing installed provides one of them.
    """
    kinds = {mapping.source.kind for mapping in pipeline.mappings.values()}
    kinds |= {reference.kind for reference in pipeline.destinations}
    outside = kinds - {"queue", "stream", "function"}
    return {kind: given[kind] if kind in given else load_connector(kind) for kind in sorted(outside)}


def transactional_destinations(
    pipeline: EffectivePipeline, clock: Clock, ids: IdFactory
) -> dict[str, TransactionalDestination]:
    """Return the destinations on the store, by reference."""
    queues: dict[str, TransactionalDestination] = {
        f"queue:{name}": QueueDestination(name, clock=clock, ids=ids) for name in pipeline.queues
    }
    streams: dict[str, TransactionalDestination] = {
        f"stream:{name}": StreamDestination(name, shards=stream.shards, clock=clock)
        for name, stream in pipeline.streams.items()
    }
    functions: dict[str, TransactionalDestination] = {
        f"function:{name}": QueueDestination(event_queue(name), clock=clock, ids=ids) for name in pipeline.functions
    }
    return queues | streams | functions


def outside_references(
    pipeline: EffectivePipeline, transactional: Mapping[str, TransactionalDestination]
) -> list[Reference]:
    """Return the destinations of a pipeline that the outbox serves."""
    wanted = {str(reference): reference for reference in pipeline.destinations}
    return [reference for text, reference in sorted(wanted.items()) if text not in transactional]


def open_destination(
    reference: Reference,
    connections: Mapping[tuple[str, str], Any],
    connectors: Mapping[str, Connector],
    context: ConnectorContext,
) -> Destination:
    """Return a destination outside the store; it connects when it is first needed."""
    connection = connections.get((reference.kind, reference.name))
    return connectors[reference.kind].open_destination(reference, connection, context)
