"""Prices orders, a batch a call: an order that can't be priced fails its batch.

Two kinds of orders fail, and nothing but the order itself and the batch's attempt decides it, so that every run is the
same: one with a quantity below 1 at every attempt, one in pounds at a batch's first attempt, as if the exchange rate
had to be asked for and came too late.
"""

import msgspec

from eventcore import Batch

RATES = {"EUR": 1.0, "GBP": 1.17, "USD": 0.92}


class Order(msgspec.Struct):
    """What a record holds, as JSON."""

    id: int
    customer: str
    quantity: int
    currency: str = "EUR"


def price(batch: Batch) -> None:
    """Price the orders of a batch, in order."""
    for record in batch:
        order = msgspec.json.decode(record.value or b"", type=Order)
        if order.quantity < 1:
            raise ValueError(f"order {order.id}: a quantity of {order.quantity}")
        if order.currency == "GBP" and batch.attempt == 1:
            raise TimeoutError(f"order {order.id}: no exchange rate for {order.currency} yet")
        print(f"order {order.id} of {order.customer}: {order.quantity * 2.5 * RATES[order.currency]:.2f} EUR")
