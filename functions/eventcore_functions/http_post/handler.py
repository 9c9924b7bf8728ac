"""Posts the body of each record to an HTTP endpoint, in order.

What a handler of this kind needs to be careful about, it is: the connection is kept between invocations, the endpoint
is told by an `Idempotency-Key` when it is given a record again, and at the first record that it does not take, that
one and all behind it are reported failed: nothing overtakes, and nothing that was taken is sent again.

Environment: `URL` (required), `AUTHORIZATION` (the header's value), `POST_TIMEOUT` (seconds for one request, 10).
"""

from __future__ import annotations

import os
import sys
from functools import cache

import httpx

from eventcore import Batch, Record

#: Seconds for one request where `POST_TIMEOUT` says nothing.
TIMEOUT_DEFAULT_S = 10.0


@cache
def open_client() -> httpx.Client:
    """Return the client that every invocation of this environment shares."""
    headers = {"Authorization": os.environ["AUTHORIZATION"]} if "AUTHORIZATION" in os.environ else {}
    timeout_s = float(os.environ.get("POST_TIMEOUT", TIMEOUT_DEFAULT_S))
    return httpx.Client(headers=headers, timeout=timeout_s)


def handle(batch: Batch) -> list[Record]:
    """Post the records of a batch; return those that were not taken."""
    return post_records(batch, open_client(), os.environ["URL"])


def post_records(batch: Batch, client: httpx.Client, url: str) -> list[Record]:
    """Post records in order; return the first one that was not taken, and all behind it.

    Args:
        batch: records of one shard or queue.
        client: sends the requests.
        url: the endpoint.
    """
    for index, record in enumerate(batch.records):
        problem = _post(record, batch, client, url)
        if problem:
            sys.stderr.write(f"{_name(record, batch)}: {problem}\n")
            return list(batch.records[index:])
    return []


def _post(record: Record, batch: Batch, client: httpx.Client, url: str) -> str:
    """Return why the endpoint did not take a record; empty when it did."""
    headers = {
        "Content-Type": (record.header("content-type") or b"application/json").decode("latin-1"),
        "Idempotency-Key": _name(record, batch),
    }
    try:
        response = client.post(url, content=record.body or b"", headers=headers)
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}"
    return "" if response.is_success else f"answered {response.status_code}"


def _name(record: Record, batch: Batch) -> str:
    """Return what identifies a record, however often it is received."""
    return "/".join(part for part in (batch.source, batch.shard, record.id or str(record.position)) if part)
