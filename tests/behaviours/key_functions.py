"""Functions that make idempotency keys, as people write them beside their handlers."""

from __future__ import annotations

import msgspec

import eventcore
from tests.behaviours.orders import Order

#: Ids for which the service behind `by_service` is down.
down: set[int] = set()


def by_id(order: Order) -> str | None:
    return f"order-{order.id}" if order.id else None


def by_kind_and_number(record: eventcore.Record) -> str:
    order = msgspec.json.decode(record.body or b"")
    return f"{order['kind']}/{int(order['number'])}"


async def by_service(order: Order) -> str:
    if order.id in down:
        raise ConnectionError("the service of keys is down")
    return str(order.id)


def ends_the_process(order: Order) -> str:
    raise SystemExit(3)


def of_event(event):
    return event["Records"][0]["body"]
