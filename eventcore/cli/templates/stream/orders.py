"""Prices orders: one typed order a call.

An order that raises is tried again, in order, and discarded to `failed-orders` when its tries are used up. A record
that is no `Order` at all is discarded at once.
"""

import msgspec


class Order(msgspec.Struct):
    """What a record holds, as JSON."""

    id: str
    customer: str
    quantity: int
    unit_cents: int = 250


def price(order: Order) -> None:
    """Price one order."""
    if order.quantity < 1:
        raise ValueError(f"order {order.id}: a quantity of {order.quantity}")
    print(f"order {order.id} of {order.customer}: {order.quantity * order.unit_cents / 100:.2f} EUR")
