"""`http-post` posts records in order, stops at the first that is not taken, and names each the same every time."""

import httpx
import pytest

from eventcore import Batch, Record
from eventcore_functions.http_post import handler


class Endpoint:
    """An HTTP endpoint in memory that refuses chosen bodies."""

    def __init__(self, refused=(), broken=()):
        self.refused, self.broken = set(refused), set(broken)
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        if request.content in self.broken:
            raise httpx.ConnectError("connection refused", request=request)
        return httpx.Response(503 if request.content in self.refused else 204)

    def post(self, batch):
        return handler.post_records(batch, httpx.Client(transport=httpx.MockTransport(self)), "http://endpoint/orders")


def batch_of(*bodies, source="stream:orders", shard="3", **fields):
    records = [Record(position=number, body=body, **fields) for number, body in enumerate(bodies, 40)]
    return Batch(source=source, shard=shard, records=records)


def test_every_record_is_posted_in_order():
    endpoint = Endpoint()
    assert endpoint.post(batch_of(b"a", b"b", b"c")) == []
    assert [request.content for request in endpoint.requests] == [b"a", b"b", b"c"]
    assert {str(request.url) for request in endpoint.requests} == {"http://endpoint/orders"}


@pytest.mark.parametrize("trouble", [{"refused": [b"b"]}, {"broken": [b"b"]}], ids=["refused", "unreachable"])
def test_nothing_behind_a_record_that_is_not_taken_is_posted(trouble, capsys):
    endpoint = Endpoint(**trouble)
    batch = batch_of(b"a", b"b", b"c")
    assert endpoint.post(batch) == list(batch.records[1:])
    assert [request.content for request in endpoint.requests] == [b"a", b"b"]
    assert capsys.readouterr().err.startswith("stream:orders/3/41: ")


def test_a_record_has_the_same_key_each_time_and_no_other_has_it():
    endpoint = Endpoint()
    for _ in range(2):
        endpoint.post(batch_of(b"a", b"b"))
    endpoint.post(batch_of(b"a", shard="4"))
    keys = [request.headers["Idempotency-Key"] for request in endpoint.requests]
    assert keys[:2] == keys[2:4]
    assert len(set(keys)) == 3


def test_a_message_of_a_queue_is_named_by_its_id():
    endpoint = Endpoint()
    endpoint.post(batch_of(b"a", source="queue:q", shard="", id="m-1"))
    assert endpoint.requests[0].headers["Idempotency-Key"] == "queue:q/m-1"


def test_the_content_type_is_the_records_own():
    endpoint = Endpoint()
    endpoint.post(batch_of(b"a", headers=(("content-type", b"text/csv"),)))
    endpoint.post(batch_of(b"b"))
    assert [request.headers["Content-Type"] for request in endpoint.requests] == ["text/csv", "application/json"]


def test_the_client_is_set_up_by_the_environment(monkeypatch):
    monkeypatch.setenv("AUTHORIZATION", "Bearer x")
    monkeypatch.setenv("POST_TIMEOUT", "2.5")
    handler.open_client.cache_clear()
    with handler.open_client() as client:
        assert client.headers["Authorization"] == "Bearer x"
        assert client.timeout.read == 2.5
    handler.open_client.cache_clear()
