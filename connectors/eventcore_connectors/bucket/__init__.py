"""Buckets as destinations: folders, and buckets of object stores. See `connectors/README.md`."""

from __future__ import annotations

from eventcore_connectors.bucket.connector import BucketConnector

connector = BucketConnector()
