"""Checks of buckets and object stores."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from urllib.parse import urlsplit

from eventcore.config.convert import Draft
from eventcore.config.findings import Findings
from eventcore.config.provenance import KeyPath
from eventcore.config.structs import BucketConfig, S3Config
from eventcore.config.structs_buckets import CONNECTION_KIND


def lint_buckets(draft: Draft, findings: Findings, folder: Path) -> None:
    """Add buckets without a place or with two, and endpoints that would carry records for everyone to read."""
    for name, bucket in draft.config.buckets.items():
        _lint_bucket(("buckets", name), bucket, draft, findings, folder)
    for name, store in draft.config.s3.items():
        _lint_store(("s3", name), store, findings)


def used_by_bucket(bucket: BucketConfig) -> set[tuple[str, str]]:
    """Return what a bucket uses: table and name."""
    return set() if bucket.connection_name is None else {("s3", bucket.connection_name)}


def _lint_bucket(path: KeyPath, bucket: BucketConfig, draft: Draft, findings: Findings, folder: Path) -> None:
    seen = tuple((*path, setting) for setting in ("folder", "connection", "bucket"))
    if bucket.folder is None and bucket.connection is None:
        hint = 'write folder = "./failures", or connection = "s3:NAME" and bucket = "..."'
        findings.add("EC134", path, "it has no place: neither a folder nor a connection", hint, depends_on=seen)
    for setting in ("connection", "bucket"):
        if bucket.folder is not None and getattr(bucket, setting) is not None:
            message = "a bucket that is a folder is on no object store: this has no effect"
            findings.add("EC134", (*path, setting), message, "take it out, or the folder", depends_on=seen)
    if bucket.folder is None and bucket.connection is not None and bucket.bucket is None:
        message = "is missing: what the object store calls it"
        findings.add("EC134", (*path, "bucket"), message, 'write bucket = "failed-orders"', depends_on=seen)
    # `Path.is_dir` raises for a name that is too long; this says that there is no such folder.
    if bucket.folder is not None and not os.path.isdir(folder / bucket.folder):  # noqa: PTH112
        message = f"there is no folder `{bucket.shown('folder')}`: none is made, so that a disk that is away is told"
        findings.add("EC123", (*path, "folder"), message, "make it; it is relative to the pipeline file")
    if bucket.connection is not None:
        _lint_connection((*path, "connection"), bucket, draft, findings)


def _lint_connection(path: KeyPath, bucket: BucketConfig, draft: Draft, findings: Findings) -> None:
    shown, name = bucket.shown("connection"), bucket.connection_name
    known = sorted(draft.names[CONNECTION_KIND])
    if name is None:
        findings.add("EC101", path, f"`{shown}` is not a connection", f"write {CONNECTION_KIND}:NAME")
    elif name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        is_masked = shown != bucket.connection
        hint = f"did you mean `s3:{close[0]}`?" if close else f"add [s3.{'NAME' if is_masked else name}]"
        findings.add("EC102", path, f"`{shown}` leads to nothing: no such name in [s3]", hint)


def _lint_store(path: KeyPath, store: S3Config, findings: Findings) -> None:
    endpoint, shown = (*path, "endpoint"), store.shown("endpoint")
    if not _is_address(store.endpoint):
        hint = "write scheme, host and port: http://127.0.0.1:9000"
        findings.add("EC121", endpoint, f"`{shown}` is no address of an object store", hint)
        return
    is_plain = not store.is_encrypted and not store.is_loopback
    if is_plain and not store.allow_http:
        message = f"`{shown}` is not on this machine, and not encrypted: anybody between could read the records"
        hint = "write https://, or allow_http = true beside it"
        findings.add("EC135", endpoint, message, hint, depends_on=((*path, "allow_http"),))
    elif store.allow_http and not is_plain:
        message = f"`{shown}` is {'encrypted' if store.is_encrypted else 'on this machine'}: this has no effect"
        findings.add("EC135", (*path, "allow_http"), message, "take it out", depends_on=(endpoint,))


def _is_address(endpoint: str) -> bool:
    """Tell whether it is scheme, host and perhaps a port: a bucket's name is put behind it."""
    try:
        parts = urlsplit(endpoint)
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        return False
    return bool(parts.hostname) and has_port and not (parts.path.strip("/") or parts.query or parts.username)
