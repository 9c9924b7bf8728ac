"""What the records of failures are called in a bucket.

Source: Lambda semantics §2.1 (`aws/lambda/async/FUNCTION/…`), §4 (`aws/lambda/ESM-UUID/SHARD/…`); a mapping's name
stands in the place of its UUID.
"""

from __future__ import annotations

import uuid

from eventcore.clock import iso_ms


def object_key(place: str, key: str, created_ms: int) -> str:
    """Return `aws/lambda/PLACE/YYYY/MM/DD/YYYY-MM-DDTHH.MM.SS-UUID`: of the same row always the same.

    Args:
        place: `MAPPING/SHARD` or `async/FUNCTION`.
        key: idempotency key of the row, at least 32 hex digits: they become the UUID.
        created_ms: wall time, UTC.
    """
    moment = iso_ms(created_ms)
    day, second = moment[:10].replace("-", "/"), moment[:19].replace(":", ".")
    # Version 5 is the one whose bits come from a name.
    return f"aws/lambda/{place}/{day}/{second}-{uuid.UUID(key[:32], version=5)}"
