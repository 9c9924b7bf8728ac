"""Buckets keep the promises of destinations: a folder, an endpoint that speaks S3, obstore's own store in memory."""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import anyio
import msgspec
import pytest
from obstore.store import MemoryStore

import eventcore
from eventcore.clock import SystemClock
from eventcore.config.reference import Reference
from eventcore.config.structs_buckets import BucketPlace
from eventcore.delivery.lineage import hand_on_lineage, read_lineage
from eventcore.engine.definitions import pipeline_connections
from eventcore.errors import (
    ConnectorUnavailable,
    DestinationRefused,
    DestinationUnavailable,
    ProgrammingError,
    SourceUnavailable,
)
from eventcore.ids import SeededIds
from eventcore.ports.connectors import ConnectorContext, OutgoingRecord
from eventcore.ports.destinations import OBJECT_KEY, Destination
from eventcore.ports.store import OutboxRow
from eventcore.testing.conformance.destination import (
    DestinationConformance,
    DestinationTraits,
    DestinationUnderTest,
    Taken,
)
from eventcore_connectors.bucket import connector
from eventcore_connectors.bucket.folder import FolderDestination
from eventcore_connectors.bucket.object_store import METADATA_BYTES_MAX, ObjectStoreDestination, metadata
from tests.conformance.http_endpoint import Answer, Endpoint, Request, open_endpoint

FAILURES = Reference("bucket", "failures")
CONTEXT = ConnectorContext(clock=SystemClock(), ids=SeededIds(1), region="us-east-1", account_id="000000000000")
NAME = "aws/lambda/orders/shard-0/2026/01/02/2026-01-02T03.04.05-u"
ROW = OutboxRow(
    key="k", destination="bucket:failures", lane="orders/0", payload=b'{"a": 1}', attributes={OBJECT_KEY: NAME}
)
PREFIX = "x-amz-meta-"


def _named(key: str) -> str:
    return f"tested/{key}"


class Naming:
    """A destination whose rows get the names that a router gives them."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self.reference = destination.reference

    async def open(self) -> None:
        await self._destination.open()

    async def deliver(self, rows: Sequence[OutboxRow]) -> None:
        named = [
            msgspec.structs.replace(row, attributes={**row.attributes, OBJECT_KEY: _named(row.key)}) for row in rows
        ]
        await self._destination.deliver(named)

    async def aclose(self) -> None:
        await self._destination.aclose()


# -- a folder ----------------------------------------------------------------------------------------------------------


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class FolderUnderTest:
    """A folder; names of rows tell their order."""

    traits = DestinationTraits()

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.destination = Naming(FolderDestination(FAILURES, folder))

    async def taken(self) -> Sequence[Taken]:
        files = [path for path in (self._folder / "tested").glob("*") if path.is_file()]
        found = []
        for path in sorted(files, key=lambda path: (len(path.name), path.name)):
            about = json.loads((self._folder / ".eventcore/metadata/tested" / f"{path.name}.json").read_bytes())
            attributes = about["attributes"]
            key = attributes["eventcore-idempotency-key"]
            found.append(Taken(key=key, payload=msgspec.json.decode(path.read_bytes()), attributes=attributes))
        return found

    async def leave(self) -> None:
        self._folder.rename(self._folder.with_name("elsewhere"))

    async def come_back(self) -> None:
        self._folder.with_name("elsewhere").rename(self._folder)

    async def refuse(self, key: str) -> None:
        (self._folder / _named(key)).mkdir(parents=True)


class TestFolder(DestinationConformance):
    @pytest.fixture(autouse=True)
    def _make(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "failures"
        self.folder.mkdir()

    def open_destination(self) -> AbstractAsyncContextManager[DestinationUnderTest]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[DestinationUnderTest]:
            yield FolderUnderTest(self.folder)

        return opened()


class TestFolderFiles:
    """What stands in a folder, and what is told when it can't."""

    async def test_the_object_and_its_metadata_and_nothing_else(self, tmp_path: Path) -> None:
        destination = FolderDestination(FAILURES, tmp_path)
        await destination.deliver([ROW])
        await destination.deliver([ROW])
        assert _files(tmp_path) == [f".eventcore/metadata/{NAME}.json", NAME]
        assert (tmp_path / NAME).read_bytes() == ROW.payload

    @pytest.mark.parametrize(
        "name",
        ["", "../out", "a/../../out", "/out", "a//b", "a/", ".", "./a", ".eventcore/metadata/a", "a/\0b"],
    )
    async def test_no_name_leads_out_of_it_or_to_what_is_ours(self, tmp_path: Path, name: str) -> None:
        folder = tmp_path / "failures"
        folder.mkdir()
        row = msgspec.structs.replace(ROW, attributes={OBJECT_KEY: name})
        with pytest.raises(DestinationRefused, match="no name of an object"):
            await FolderDestination(FAILURES, folder).deliver([row])
        assert _files(tmp_path) == []

    async def test_a_missing_folder_is_told_and_not_made(self, tmp_path: Path) -> None:
        destination = FolderDestination(FAILURES, tmp_path / "missing")
        for ask in (destination.open(), destination.deliver([ROW])):
            with pytest.raises(DestinationUnavailable, match=r"there is no folder .*missing: make it, or mount"):
                await ask
        assert not (tmp_path / "missing").exists()

    @pytest.mark.parametrize(
        ("code", "kind", "said"),
        [
            (errno.ENOSPC, DestinationUnavailable, "is full .*: make room"),
            (errno.EDQUOT, DestinationUnavailable, "is full .*: make room"),
            (errno.EROFS, DestinationRefused, "can't be written .*: give the engine's user the right"),
            (errno.EACCES, DestinationRefused, "can't be written .*: give the engine's user the right"),
            (errno.EIO, DestinationUnavailable, "can't be written"),
        ],
    )
    async def test_what_the_disk_says_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception], said: str
    ) -> None:
        """Rows before it are on the disk; nothing half written is seen as an object, or left behind by the next try."""
        rows = [msgspec.structs.replace(ROW, attributes={OBJECT_KEY: f"a/{number}"}) for number in range(3)]
        destination = FolderDestination(FAILURES, tmp_path)
        synced = os.fsync
        calls = []

        def fail(descriptor: int) -> None:
            calls.append(descriptor)
            if (tmp_path / "a/0").exists() and len(list(tmp_path.glob(".eventcore/writing/*"))) == 1:
                raise OSError(code, os.strerror(code))
            synced(descriptor)

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(kind, match=said) as caught:
            await destination.deliver(rows)
        assert caught.value.taken_count == 1  # type: ignore[attr-defined]
        assert [name for name in _files(tmp_path) if name.startswith("a/")] == ["a/0"]
        monkeypatch.undo()
        await destination.deliver(rows[1:])
        assert [name for name in _files(tmp_path) if ".eventcore/metadata" not in name] == ["a/0", "a/1", "a/2"]

    @pytest.mark.skipif(sys.platform != "linux", reason="what a descriptor is can't be seen here")
    def test_every_file_and_every_name_is_on_the_disk_before_it_returns(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The order that a power loss leaves whole: content, then its name, then the folders' names above it."""
        steps: list[str] = []
        synced, replaced = os.fsync, Path.replace

        def sync(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            steps.append(f"sync {path.relative_to(tmp_path)}")
            synced(descriptor)

        def replace(self: Path, target: Path) -> Path:
            steps.append(f"name {target.relative_to(tmp_path)}")
            return replaced(self, target)

        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(Path, "replace", replace)
        row = msgspec.structs.replace(ROW, attributes={OBJECT_KEY: "a/o"})
        anyio.run(FolderDestination(FAILURES, tmp_path).deliver, [row])
        writing = ".eventcore/writing"
        begun = f"{writing}/{hashlib.sha256(b'a/o').hexdigest()}"
        of_object = [step for step in steps if "metadata" not in step]
        assert of_object[-4:] == ["sync .", f"sync {begun}", "name a/o", "sync a"]
        assert steps.index("name .eventcore/metadata/a/o.json") < steps.index("name a/o")


# -- an object store ---------------------------------------------------------------------------------------------------


def _app(endpoint: str, **settings: Any) -> eventcore.App:
    app = eventcore.App()
    secrets = {"access_key_id": "AK", "secret_access_key": "geheim"}
    app.s3("store", **{"endpoint": endpoint, **secrets, **settings})
    app.bucket("failures", connection="s3:store", bucket="failed-orders")
    return app


def _destination(endpoint: str, **settings: Any) -> Any:
    """The destination that a pipeline gets."""
    connections = pipeline_connections(_app(endpoint, **settings).loaded())
    return connector.open_destination(FAILURES, connections["bucket", "failures"], CONTEXT)


def _at(endpoint: Endpoint, host: str = "127.0.0.1", **settings: Any) -> Any:
    return _destination(f"http://{host}:{endpoint.port}", **settings)


#: As an object store answers that has taken an object.
TAKEN = Answer(headers={"ETag": '"e"'})


@asynccontextmanager
async def open_store() -> AsyncIterator[Endpoint]:
    async with open_endpoint() as endpoint:
        endpoint.answer = lambda _: TAKEN
        yield endpoint


class EndpointUnderTest:
    """An endpoint that speaks as much S3 as is needed to take objects."""

    traits = DestinationTraits()

    def __init__(self, endpoint: Endpoint, away: Answer) -> None:
        self._endpoint = endpoint
        self._away = away
        self.destination = Naming(_at(endpoint))

    async def taken(self) -> Sequence[Taken]:
        return [
            Taken(
                key=request.headers[f"{PREFIX}eventcore-idempotency-key"],
                payload=msgspec.json.decode(request.body),
                attributes={
                    name.removeprefix(PREFIX): unquote(value)
                    for name, value in request.headers.items()
                    if name.startswith(PREFIX)
                },
            )
            for request in self._endpoint.requests
        ]

    async def leave(self) -> None:
        self._endpoint.answer = lambda _: self._away

    async def come_back(self) -> None:
        self._endpoint.answer = lambda _: TAKEN

    async def refuse(self, key: str) -> None:
        self._endpoint.answer = lambda request: (
            _error(403, "AccessDenied") if request.path.endswith(f"/{key}") else TAKEN
        )


def _error(status: int, code: str) -> Answer:
    return Answer(status, body=f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode())


class ObjectStoreConformance(DestinationConformance):
    away: Answer

    def open_destination(self) -> AbstractAsyncContextManager[DestinationUnderTest]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[DestinationUnderTest]:
            async with open_store() as endpoint:
                yield EndpointUnderTest(endpoint, self.away)

        return opened()


class TestObjectStoreThatAnswers503(ObjectStoreConformance):
    away = _error(503, "SlowDown")


class TestObjectStoreThatHangsUp(ObjectStoreConformance):
    away = Answer(0)


class MemoryUnderTest:
    """obstore's own store in memory, behind the same destination."""

    traits = DestinationTraits(can_be_away=False, can_refuse=False)

    def __init__(self) -> None:
        self._store = MemoryStore()
        self.destination = Naming(ObjectStoreDestination(FAILURES, self._store, "memory"))

    async def taken(self) -> Sequence[Taken]:
        names = [meta["path"] for batch in self._store.list() for meta in batch]
        found = []
        for name in sorted(names, key=lambda name: (len(name), name)):
            got = self._store.get(name)
            attributes = {key: unquote(value) for key, value in got.attributes.items()}
            key = attributes["eventcore-idempotency-key"]
            found.append(Taken(key=key, payload=msgspec.json.decode(bytes(got.bytes())), attributes=attributes))
        return found

    async def leave(self) -> None:
        raise NotImplementedError

    async def come_back(self) -> None:
        raise NotImplementedError

    async def refuse(self, key: str) -> None:
        raise NotImplementedError


class TestMemoryStore(DestinationConformance):
    def open_destination(self) -> AbstractAsyncContextManager[DestinationUnderTest]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[DestinationUnderTest]:
            yield MemoryUnderTest()

        return opened()


def _signature(request: Request, host: str, secret: str, region: str) -> str:
    """What the request's signature has to be. Source: AWS Signature Version 4, "Create a signed request"."""
    given = request.headers["authorization"]
    signed = given.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    headers = {**request.headers, "host": host}
    content = request.headers["x-amz-content-sha256"]
    lines = [request.method, request.path, "", *[f"{name}:{headers[name]}" for name in signed], "", ";".join(signed)]
    moment = request.headers["x-amz-date"]
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256("\n".join([*lines, content]).encode()).hexdigest()
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}".encode(), "sha256").hex()


class TestObjectStoreRequests:
    """What is asked of an object store, and what each answer means."""

    async def test_an_object_is_put_into_the_bucket_under_its_name(self) -> None:
        async with open_store() as endpoint:
            await _at(endpoint).deliver([ROW])
            (request,) = endpoint.requests
        assert (request.method, request.path, request.body) == ("PUT", f"/failed-orders/{NAME}", ROW.payload)
        assert request.headers["content-type"] == "application/octet-stream"
        assert not [name for name in request.headers if name.startswith(f"{PREFIX}{OBJECT_KEY}")]

    async def test_requests_are_signed_as_the_connection_says_and_not_the_environment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {
            "AWS_SESSION_TOKEN": "another's",
            "AWS_ACCESS_KEY_ID": "another's",
            "AWS_SECRET_ACCESS_KEY": "another's",
            "AWS_REGION": "another-1",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
            "AWS_SKIP_SIGNATURE": "true",
        }.items():
            monkeypatch.setenv(name, value)
        async with open_store() as endpoint:
            await _at(endpoint, region="eu-central-1").deliver([ROW])
            (request,) = endpoint.requests
            host = f"127.0.0.1:{endpoint.port}"
        given = request.headers["authorization"]
        day = request.headers["x-amz-date"][:8]
        assert f"Credential=AK/{day}/eu-central-1/s3/aws4_request" in given
        assert given.partition("Signature=")[2] == _signature(request, host, "geheim", "eu-central-1")
        assert "x-amz-security-token" not in request.headers

    async def test_records_travel_unencrypted_where_that_is_allowed(self) -> None:
        """0.0.0.0 leads to this machine, and is no address of it."""
        async with open_store() as endpoint:
            with pytest.raises(eventcore.errors.ConfigError, match="EC135"):
                _at(endpoint, "0.0.0.0")
            await _at(endpoint, "0.0.0.0", allow_http=True).deliver([ROW])
            assert len(endpoint.requests) == 1

    @pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504])
    async def test_what_may_change_is_tried_again(self, status: int) -> None:
        async with open_store() as endpoint:
            endpoint.answer = lambda _: _error(status, "SlowDown")
            said = f"http://127.0.0.1:{endpoint.port}/failed-orders answered {status} SlowDown"
            with pytest.raises(DestinationUnavailable, match=said):
                await _at(endpoint).deliver([ROW])

    @pytest.mark.parametrize(
        ("status", "code", "said"),
        [
            (301, "PermanentRedirect", "another Region"),
            (400, "MetadataTooLarge", "400 MetadataTooLarge$"),
            (401, "", "look at access_key_id"),
            (403, "AccessDenied", "AccessDenied.*s3:PutObject"),
            (403, "SignatureDoesNotMatch", "SignatureDoesNotMatch.*secret_access_key"),
            (404, "NoSuchBucket", "NoSuchBucket: make the bucket"),
        ],
    )
    async def test_what_somebody_has_to_change_is_refused(self, status: int, code: str, said: str) -> None:
        async with open_store() as endpoint:
            endpoint.answer = lambda _: _error(status, code)
            with pytest.raises(DestinationRefused, match=said):
                await _at(endpoint).deliver([ROW])

    async def test_a_port_that_nobody_listens_on_is_told_with_its_address(self) -> None:
        async with open_store() as endpoint:
            pass
        with anyio.fail_after(30), pytest.raises(DestinationUnavailable, match=f":{endpoint.port}/failed-orders can't"):
            await _at(endpoint).deliver([ROW])

    async def test_rows_that_were_taken_are_not_sent_again(self) -> None:
        rows = [msgspec.structs.replace(ROW, attributes={OBJECT_KEY: f"a/{number}"}) for number in range(4)]
        async with open_store() as endpoint:
            endpoint.answer = lambda request: Answer(503) if request.path.endswith("/2") else TAKEN
            with pytest.raises(DestinationUnavailable) as caught:
                await _at(endpoint).deliver(rows)
            assert caught.value.taken_count == 2
            assert [request.path[-1] for request in endpoint.requests] == ["0", "1"]

    def test_metadata_is_never_more_than_a_store_takes(self) -> None:
        """Of a lineage too long the functions that were invoked most stay; all other attributes are there."""
        lineage = {
            f"function-with-a-long-name-of-eighty-letters-{'x' * 30}-{number:02}": number for number in range(40)
        }
        attributes = {
            "eventcore-lineage": hand_on_lineage(lineage, "last"),
            "traceparent": "t" * 55,
            "tracestate": "s" * 512,
            OBJECT_KEY: NAME,
        }
        kept = metadata(msgspec.structs.replace(ROW, attributes=attributes))
        assert sum(len(name) + len(value) for name, value in kept.items()) <= METADATA_BYTES_MAX
        assert set(kept) == {"eventcore-lineage", "traceparent", "tracestate", "eventcore-idempotency-key"}
        counts = read_lineage(kept["eventcore-lineage"].encode())
        assert set(range(30, 40)) < set(counts.values())

    def test_metadata_that_fits_in_no_way_is_left_out(self) -> None:
        row = msgspec.structs.replace(ROW, attributes={"tracestate": "s" * METADATA_BYTES_MAX, OBJECT_KEY: NAME})
        assert metadata(row) == {"eventcore-idempotency-key": "k"}


# -- as a connector ----------------------------------------------------------------------------------------------------


def test_a_missing_client_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder needs none."""
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ConnectorUnavailable, match=r'^pip install "eventcore-engine\[s3\]"$'):
        _destination("http://127.0.0.1:9")
    app = eventcore.App()
    app.bucket("failures", folder=str(tmp_path))
    place = pipeline_connections(app.loaded())["bucket", "failures"]
    assert isinstance(connector.open_destination(FAILURES, place, CONTEXT), FolderDestination)


async def test_a_folder_leads_from_the_pipelines_own(tmp_path: Path) -> None:
    (tmp_path / "failures").mkdir()
    app = eventcore.App(folder=tmp_path)
    app.bucket("failures", folder="failures")
    place = pipeline_connections(app.loaded())["bucket", "failures"]
    await connector.open_destination(FAILURES, place, CONTEXT).deliver([ROW])
    assert (tmp_path / "failures" / NAME).is_file()


async def test_it_is_no_source_and_takes_nothing_by_hand(tmp_path: Path) -> None:
    place = BucketPlace(folder=tmp_path)
    with pytest.raises(ProgrammingError, match="bucket:failures is no source"):
        connector.open_range(FAILURES, place)
    with pytest.raises(ProgrammingError, match="bucket:failures takes the results of mappings"):
        await connector.send(FAILURES, place, [OutgoingRecord(body=b"{}")])


async def test_check_tells_where_it_is(tmp_path: Path) -> None:
    assert str(tmp_path) in await connector.check(FAILURES, BucketPlace(folder=tmp_path))
    with pytest.raises(SourceUnavailable, match="there is no folder"):
        await connector.check(FAILURES, BucketPlace(folder=tmp_path / "gone"))
    store = pipeline_connections(_app("http://127.0.0.1:9").loaded())["bucket", "failures"]
    assert await connector.check(FAILURES, store) == "http://127.0.0.1:9/failed-orders"
