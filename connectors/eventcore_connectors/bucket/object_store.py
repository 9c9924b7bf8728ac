"""A bucket of an object store that speaks S3, by obstore: each record is an object, its attributes are its metadata.

What a row is put with is decided by the pipeline alone: obstore would read `AWS_*` variables of the engine's
environment for whatever is not said, and send records elsewhere or sign them with another's token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio

from eventcore.config.reference import Reference
from eventcore.config.structs_buckets import S3Config
from eventcore.errors import DestinationError, DestinationRefused, DestinationUnavailable
from eventcore.ports.destinations import OBJECT_KEY
from eventcore.ports.store import OutboxRow
from eventcore_connectors.header_text import header_name, header_value

if TYPE_CHECKING:
    from obstore.store import ObjectStore

#: A record has a few megabytes at most; one put, seconds.
REQUEST_TIMEOUT_S = 30.0
#: A wrong address is told within this, seconds.
CONNECT_TIMEOUT_S = 5.0
#: What Lambda puts (recorded).
CONTENT_TYPE = "application/octet-stream"
#: The metadata that holds a row's idempotency key.
IDEMPOTENCY_KEY = "eventcore-idempotency-key"
#: The metadata that is shortened where all of it would be too much: its entries are `FUNCTION=COUNT`.
LINEAGE = "eventcore-lineage"
#: Names and values of an object's metadata together, bytes. Source: S3, "User-defined object metadata".
METADATA_BYTES_MAX = 2048

#: Answers that a later try may change, besides 5xx: Request Timeout, a conflict with another request, Too Early, Too
#: Many Requests.
_TRANSIENT = frozenset({408, 409, 425, 429})
_STATUS = re.compile(r"status code: (\d{3})")
#: How obstore tells of a redirect that names no address, which is what S3 answers for another Region's bucket.
_REDIRECT = "redirect without LOCATION"
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,80})</Code>")


def open_s3(store: S3Config, bucket: str) -> ObjectStore:
    """Return the client of a bucket; nothing is asked of the object store yet.

    Raises:
        ImportError: obstore is not installed.
    """
    from obstore.store import S3Store

    def credentials() -> Any:
        return {
            "access_key_id": store.access_key_id,
            "secret_access_key": store.secret_access_key,
            "token": None,
            "expires_at": None,
        }

    return S3Store(
        bucket=bucket,
        endpoint=store.endpoint,
        aws_endpoint_url_s3=store.endpoint,
        region=store.region,
        virtual_hosted_style_request=False,
        skip_signature=False,
        s3_express=False,
        request_payer=False,
        unsigned_payload=False,
        credential_provider=credentials,
        client_options={
            "allow_http": store.allow_http or store.is_loopback,
            "timeout": timedelta(seconds=REQUEST_TIMEOUT_S),
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        },
        # The outbox tries again, and shows it.
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=REQUEST_TIMEOUT_S)},
    )


class ObjectStoreDestination:
    """A bucket. Open → closed. A record that is handed over again is the same object with the same content."""

    def __init__(self, reference: Reference, store: ObjectStore, address: str) -> None:
        """Put into a bucket.

        Args:
            reference: as in the pipeline.
            store: the client of this bucket.
            address: what people know the bucket by.
        """
        self.reference = str(reference)
        self._store = store
        self._address = address

    async def open(self) -> None:
        """Do nothing: the object store is first spoken to when there is something for it."""

    async def deliver(self, rows: Sequence[OutboxRow]) -> None:
        """Put each row, in order; when it returns, the object store has all of them.

        Raises:
            DestinationUnavailable: no answer, 408, 409, 425, 429 or 5xx.
            DestinationRefused: any other answer; it says what to do about a missing bucket and a missing right.
        """
        import obstore
        from obstore.exceptions import BaseError

        for index, row in enumerate(rows):
            try:
                with anyio.fail_after(REQUEST_TIMEOUT_S + CONNECT_TIMEOUT_S):
                    await obstore.put_async(
                        self._store,
                        row.attributes[OBJECT_KEY],
                        row.payload,
                        attributes={"Content-Type": CONTENT_TYPE, **metadata(row)},
                        use_multipart=False,
                        mode="overwrite",
                    )
            # obstore raises Python's own errors for what is not found or can't be done.
            except (BaseError, OSError, ValueError, NotImplementedError) as error:
                raise self._explain(error, index) from error

    async def aclose(self) -> None:
        """Do nothing: connections end with the client."""

    def _explain(self, error: Exception, taken_count: int) -> DestinationError:
        said = str(error)
        found, code = _STATUS.search(said), _CODE.search(said)
        if found is None and _REDIRECT not in said:
            # Behind what was asked of where, and how long it took.
            reason = (
                said.partition("\n")[0].rpartition(" - ")[2]
                or f"no answer in {REQUEST_TIMEOUT_S + CONNECT_TIMEOUT_S:g} s"
            )
            message = f"{self._address} can't be reached: {reason}"
            return DestinationUnavailable(message, destination=self.reference, taken_count=taken_count)
        status = 301 if found is None else int(found[1])
        message = f"{self._address} answered {status}" + (f" {code[1]}" if code else "")
        if status in _TRANSIENT or status >= 500:
            return DestinationUnavailable(message, destination=self.reference, taken_count=taken_count)
        message += _NO_BUCKET if code is not None and code[1] == "NoSuchBucket" else _ADVICE.get(status, "")
        return DestinationRefused(message, destination=self.reference, taken_count=taken_count)


_ADVICE: Mapping[int, str] = {
    301: ": the bucket is in another Region: write its endpoint and region",
    307: ": the bucket is in another Region: write its endpoint and region",
    401: ": look at access_key_id and secret_access_key",
    403: ": look at access_key_id and secret_access_key; they need the right to put objects (s3:PutObject)",
    # versitygw's answer to keys that it does not know is a 404, too.
    404: ": look at the bucket's name, and at access_key_id",
}
_NO_BUCKET = ": make the bucket; none is made by itself"


def metadata(row: OutboxRow) -> dict[str, str]:
    """Return what goes with a row's object, in at most `METADATA_BYTES_MAX`, or the store would never take it.

    What is short has its place first; what does not fit is left out, and of a long lineage the functions that were
    invoked most stay.
    """
    values = {
        header_name(name): header_value(value, keeps_spaces=False)
        for name, value in {**row.attributes, IDEMPOTENCY_KEY: row.key}.items()
        if name != OBJECT_KEY
    }
    lineage = values.pop(LINEAGE, "")
    kept: dict[str, str] = {}
    left = METADATA_BYTES_MAX
    for name, value in sorted(values.items(), key=lambda entry: len(entry[1])):
        if len(name) + len(value) <= left:
            kept[name] = value
            left -= len(name) + len(value)
    if lineage:
        kept[LINEAGE] = _shorten(lineage, left - len(LINEAGE))
    return kept


def _shorten(lineage: str, length: int) -> str:
    """Return as much of a lineage as fits, the highest counts first."""
    if len(lineage) <= length:
        return lineage
    entries = sorted(lineage.split(","), key=lambda entry: -int(entry.rpartition("=")[2]))
    kept: list[str] = []
    for entry in entries:
        if len(",".join([*kept, entry])) <= length:
            kept.append(entry)
    return ",".join(kept)
