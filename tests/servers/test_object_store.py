"""Buckets on a real object store: objects, metadata, refusals, and a store that goes away."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import anyio
import msgspec
import pytest

from eventcore.config.structs import S3Config
from eventcore.config.structs_buckets import BucketPlace
from eventcore.errors import DestinationRefused
from eventcore.testing.conformance.destination import (
    DestinationConformance,
    DestinationTraits,
    DestinationUnderTest,
    Taken,
)
from eventcore.testing.harness import open_harness
from eventcore_connectors.bucket import connector
from eventcore_connectors.bucket.object_store import open_s3
from tests.behaviours.orders import stream_app
from tests.conformance.test_bucket_destinations import CONTEXT, FAILURES, ROW, Naming
from tests.servers.kafka_server import ServerUnavailable
from tests.servers.s3_server import ACCESS_KEY, REGION, SECRET_KEY, S3Server, find_gateway

BUCKET = "failed-orders"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    """An object store that a test starts, with one bucket."""
    try:
        server = S3Server(find_gateway(), tmp_path)
    except ServerUnavailable as error:
        # In no run that has not asked for it: nothing but `make test-s3` builds it.
        pytest.skip(f"An object store can't be had here: {error}")
    (server.root / BUCKET).mkdir()
    try:
        yield server
    finally:
        server.stop()


def _store(server: S3Server, **settings: Any) -> S3Config:
    secrets = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
    return S3Config(**{"endpoint": server.endpoint, "region": REGION, **secrets, **settings})


def _destination(server: S3Server, bucket: str = BUCKET, **settings: Any) -> Any:
    place = BucketPlace(bucket=bucket, store=_store(server, **settings))
    return connector.open_destination(FAILURES, place, CONTEXT)


class _StoreUnderTest:
    """A bucket; names of rows tell their order."""

    traits = DestinationTraits(can_refuse=False)

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self._client: Any = open_s3(_store(server), BUCKET)
        self.destination = Naming(_destination(server))

    async def taken(self) -> Sequence[Taken]:
        names = [meta["path"] for batch in self._client.list() for meta in batch]
        found = []
        for name in sorted(names, key=lambda name: (len(name), name)):
            got = await self._client.get_async(name)
            attributes = {key: unquote(value) for key, value in got.attributes.items()}
            payload = msgspec.json.decode(bytes(await got.bytes_async()))
            found.append(Taken(key=attributes["eventcore-idempotency-key"], payload=payload, attributes=attributes))
        return found

    async def leave(self) -> None:
        self._server.stop()

    async def come_back(self) -> None:
        await self._server.start()

    async def refuse(self, key: str) -> None:
        raise NotImplementedError


class TestRealObjectStore(DestinationConformance):
    @pytest.fixture(autouse=True)
    def _have(self, server: S3Server) -> None:
        self.server = server

    def open_destination(self) -> AbstractAsyncContextManager[DestinationUnderTest]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[DestinationUnderTest]:
            await self.server.start()
            yield _StoreUnderTest(self.server)

        return opened()


async def test_a_missing_bucket_and_wrong_keys_are_told(server: S3Server) -> None:
    await server.start()
    with pytest.raises(DestinationRefused, match="NoSuchBucket: make the bucket"):
        await _destination(server, "another").deliver([ROW])
    with pytest.raises(DestinationRefused, match=r"SignatureDoesNotMatch.*secret_access_key"):
        await _destination(server, secret_access_key="wrong").deliver([ROW])
    with pytest.raises(DestinationRefused, match="at access_key_id"):
        await _destination(server, access_key_id="nobody").deliver([ROW])


async def _fail(event: dict[str, Any], context: Any) -> None:
    raise ValueError("always")


async def test_an_engine_puts_what_it_gives_up_once_though_the_store_was_away(server: S3Server) -> None:
    """The record with its event, under Lambda's name, its lineage in the metadata."""
    app = stream_app(_fail, maximum_retry_attempts=0, batch_size=1, on_failure="bucket:failures")
    app.s3("store", endpoint=server.endpoint, region=REGION, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY)
    app.bucket("failures", connection="s3:store", bucket=BUCKET)
    async with open_harness(app, connectors={"bucket": connector}) as harness:
        await harness.send("stream:orders", [1, 2], key="ada")
        with anyio.fail_after(60):
            while not any(each.last_error for each in (await harness.status()).destinations):  # noqa: ASYNC110
                await anyio.sleep(0.05)
            await server.start()
            await harness.run_until_idle()
    client: Any = open_s3(_store(server), BUCKET)
    names = [meta["path"] for batch in client.list() for meta in batch]
    assert len(names) == 2
    assert all(name.startswith("aws/lambda/orders/shardId-000000000000/") for name in names)
    got = client.get(names[0])
    assert got.attributes["eventcore-lineage"] == "work=1"
    assert got.attributes["Content-Type"] == "application/octet-stream"
    record = json.loads(bytes(got.bytes()))
    assert len(json.loads(record["payload"])["Records"]) == 1
