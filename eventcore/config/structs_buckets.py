"""The structs of buckets and of the object stores that they may stand on: `[buckets.NAME]` and `[s3.NAME]`."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from eventcore.config.section import Section

#: What stands before the connection's name.
CONNECTION_KIND = "s3"


class S3Config(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[s3.NAME]`: a connection to an object store that speaks S3."""

    endpoint: Annotated[
        str,
        Meta(
            pattern=r"^https?://",
            description="its address; buckets are below it: ENDPOINT/BUCKET",
            examples=["https://s3.eu-central-1.amazonaws.com"],
        ),
    ]
    access_key_id: Annotated[str, Meta(min_length=1, description="who asks", examples=["${env:S3_ACCESS_KEY_ID}"])]
    secret_access_key: Annotated[
        str, Meta(min_length=1, description="its secret; never shown", examples=["${env:S3_SECRET_ACCESS_KEY}"])
    ]
    region: Annotated[
        str, Meta(min_length=1, description="AWS Region that requests are signed for", examples=["eu-central-1"])
    ] = "us-east-1"
    allow_http: Annotated[
        bool, Meta(description="records may travel unencrypted to an endpoint that is not on this machine")
    ] = False

    SECRETS: ClassVar[frozenset[str]] = frozenset({"secret_access_key"})

    @property
    def is_encrypted(self) -> bool:
        """Whether the endpoint speaks TLS."""
        return self.endpoint.startswith("https://")

    @property
    def is_loopback(self) -> bool:
        """Whether the endpoint is on this machine."""
        try:
            host = urlsplit(self.endpoint).hostname or ""
        except ValueError:
            return False
        try:
            return host == "localhost" or ip_address(host).is_loopback
        except ValueError:
            return False


class BucketConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[buckets.NAME]`: a folder, or a bucket of an object store."""

    folder: (
        Annotated[str, Meta(min_length=1, description="where its objects are files", examples=["./failures"])] | None
    ) = None
    connection: (
        Annotated[
            str, Meta(min_length=1, description="the object store that it is on, as `s3:NAME`", examples=["s3:minio"])
        ]
        | None
    ) = None
    bucket: (
        Annotated[
            str,
            Meta(
                pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
                description="what the object store calls it; with `connection`",
                examples=["failed-orders"],
            ),
        ]
        | None
    ) = None

    @property
    def connection_name(self) -> str | None:
        """The name in `[s3.NAME]`; None where `connection` is not written as `s3:NAME`, or not at all."""
        kind, separator, name = (self.connection or "").partition(":")
        return name if kind == CONNECTION_KIND and separator and name else None


class BucketPlace(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket as its connector is given it: a folder, or a bucket's name and the object store that it is on."""

    folder: Path | None = None  #: absolute
    bucket: str = ""
    store: S3Config | None = None


def place_bucket(bucket: BucketConfig, stores: dict[str, S3Config], folder: Path) -> BucketPlace:
    """Return where a bucket is; relative folders lead from ``folder``."""
    if bucket.folder is not None:
        return BucketPlace(folder=folder / bucket.folder)
    assert bucket.connection_name is not None, "lint refuses a bucket without a place"
    return BucketPlace(bucket=bucket.bucket or "", store=stores[bucket.connection_name])
