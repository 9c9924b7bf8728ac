"""Every attribute name that a span or a log line carries, in one place.

The OpenTelemetry names are the semantic conventions' (Lambda semantics §8.3). Most of them are still "incubating", and
the package that holds those says that they may move: so they stand here as constants of our own. What the conventions
have no word for begins with `eventcore.`.
"""

from __future__ import annotations

# -- messaging ---------------------------------------------------------------------------------------------------------
MESSAGING_SYSTEM = "messaging.system"
MESSAGING_OPERATION_NAME = "messaging.operation.name"
MESSAGING_OPERATION_TYPE = "messaging.operation.type"
MESSAGING_DESTINATION_NAME = "messaging.destination.name"
MESSAGING_DESTINATION_PARTITION_ID = "messaging.destination.partition.id"
MESSAGING_BATCH_MESSAGE_COUNT = "messaging.batch.message_count"

# -- functions as a service --------------------------------------------------------------------------------------------
FAAS_INVOKED_NAME = "faas.invoked_name"
FAAS_INVOCATION_ID = "faas.invocation_id"
FAAS_TRIGGER = "faas.trigger"

# -- errors ------------------------------------------------------------------------------------------------------------
ERROR_TYPE = "error.type"
EXCEPTION_EVENT = "exception"
EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"
EXCEPTION_STACKTRACE = "exception.stacktrace"
CODE_LOCATION = "eventcore.fault.location"

# -- our own -----------------------------------------------------------------------------------------------------------
MAPPING = "eventcore.mapping"
ATTEMPT = "eventcore.attempt"
FIRST_POSITION = "eventcore.first"
LAST_POSITION = "eventcore.last"
SETTLED_COUNT = "eventcore.settled_count"
RETRIED_COUNT = "eventcore.retried_count"
DISCARDED_COUNT = "eventcore.discarded_count"
RELEASED_COUNT = "eventcore.released_count"

#: Facts of the engine's events (`eventcore.telemetry.events`) whose attribute is not `eventcore.` and their field name.
OF_FIELD = {
    "source": MESSAGING_DESTINATION_NAME,
    "shard": MESSAGING_DESTINATION_PARTITION_ID,
    "count": MESSAGING_BATCH_MESSAGE_COUNT,
    "function": FAAS_INVOKED_NAME,
    "request_id": FAAS_INVOCATION_ID,
    "error_type": ERROR_TYPE,
    "location": CODE_LOCATION,
}


def of_field(field: str) -> str:
    """Return the attribute under which a field of an engine's event is logged."""
    return OF_FIELD.get(field, f"eventcore.{field}")
