"""Keeps failed batches, so that they can be looked at and run again (the recorder port).

Lambda's own on-failure record of a stream holds positions only. Here the event as it was given, the error with its
traceback, the attempts and what code ran are kept as well, in the settling transaction, bounded by size and age.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import msgspec

from eventcore.engine.event_value import event_value, window_name
from eventcore.model import DiscardReason, Outcome
from eventcore.ports.recorder import FailedBatch, FailedEvent
from eventcore.ports.runtime import FunctionSpec
from eventcore.ports.sources import LostRange
from eventcore.ports.store import (
    FAILURE_EVENT_BYTES_MAX,
    DropFailures,
    Failure,
    KeepFailure,
    Operation,
    SealFailures,
)

#: Hex digits of a failure's id: 80 bits, far past any chance of two alike in one store.
ID_DIGITS = 20
#: Files that a code hash reads at most, and their bytes together: a virtual environment below `code` must not make
#: the start slow.
HASH_FILES_MAX = 2000
HASH_BYTES_MAX = 32 * 1024 * 1024
#: Entries of folders that it looks at.
HASH_ENTRIES_MAX = 20_000


def _id(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:ID_DIGITS]


def code_hash(folder: Path) -> str:
    """Return the first 16 hex digits of the SHA-256 over a code folder's Python files, names and contents.

    Reads at most `HASH_FILES_MAX` files and `HASH_BYTES_MAX` bytes; past that the hash covers what was read.
    """
    digest = hashlib.sha256()
    left = HASH_BYTES_MAX
    for index, path in enumerate(sorted(_python_files(folder))):
        if index >= HASH_FILES_MAX or left <= 0:
            break
        try:
            with path.open("rb") as file:
                text = file.read(left)
        except OSError:
            continue  # what can't be read is not what ran
        left -= len(text)
        digest.update(f"{path.relative_to(folder)}\0{len(text)}\0".encode(errors="surrogateescape"))
        digest.update(text)
    return digest.hexdigest()[:16]


def _python_files(folder: Path) -> list[Path]:
    """Return the Python files below a folder; what can't be read, and what symbolic links lead to, is left out."""
    files: list[Path] = []
    pending = [folder]
    seen = 0
    while pending and seen < HASH_ENTRIES_MAX:
        # A folder of another user, or one that went away meanwhile, is no reason to give nothing up.
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in islice(entries, HASH_ENTRIES_MAX - seen):
                seen += 1
                # Nor is it one to leave out its neighbours.
                with suppress(OSError):
                    if _is_searched(entry):
                        pending.append(Path(entry.path))
                    elif entry.name.endswith(".py") and entry.is_file():
                        files.append(Path(entry.path))
    return files


def _is_searched(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder that may hold the user's code."""
    if not entry.is_dir(follow_symlinks=False) or entry.name.startswith((".", "__pycache__")):
        return False
    return not (Path(entry.path) / "pyvenv.cfg").exists()


class FailureRecorder:
    """Turns failures into writes; it never writes by itself."""

    def __init__(self, functions: Mapping[str, FunctionSpec]) -> None:
        self._functions = functions
        self._hashes: dict[str, str] = {}

    # -- the port ------------------------------------------------------------------------------------------------------

    def failure_id(self, failed: FailedBatch) -> str:
        """Return the id: of a message, or of a range of a shard, in one mapping."""
        batch = failed.batch
        if not batch.shard and len(batch) == 1:
            return self.message_failure_id(batch.mapping, batch.source, batch.first.id)
        first, last = _position(failed, 0), _position(failed, -1)
        return _id(batch.mapping, batch.source, batch.shard, first, last)

    def message_failure_id(self, mapping: str, source: str, message_id: str) -> str:
        """Return the id under which a queue's failing message is kept."""
        return _id(mapping, source, message_id)

    def keep(self, failed: FailedBatch) -> Sequence[Operation]:
        """Return the writes that keep a failed batch, its event included as far as it fits."""
        batch = failed.batch
        event = msgspec.json.encode(event_value(batch, failed.shape))
        records = msgspec.msgpack.encode(batch.records)
        is_small = len(event) <= FAILURE_EVENT_BYTES_MAX
        failure = Failure(
            id=self.failure_id(failed),
            mapping=batch.mapping,
            function=failed.function,
            source=batch.source,
            shard=batch.shard,
            first=_position(failed, 0),
            last=_position(failed, -1),
            count=len(batch),
            reason=failed.reason,
            attempts=failed.attempts,
            request_id=batch.request_id,
            first_failure_ms=failed.first_failure_ms,
            created_ms=failed.now_ms,
            event=event if is_small else b"",
            records=records if is_small else b"",
            is_final=failed.is_final,
        )
        return (KeepFailure(failure=self._with_fault(failure, failed.outcome)),)

    def keep_lost(
        self, lost: LostRange, *, mapping: str, function: str, source: str, now_ms: int
    ) -> tuple[str, Sequence[Operation]]:
        """Return the id of, and the writes that keep, a range that its source dropped unread."""
        first, last = str(lost.first), str(lost.last)
        failure_id = _id(mapping, source, lost.shard, first, last)
        failure = Failure(
            id=failure_id,
            mapping=mapping,
            function=function,
            source=source,
            shard=lost.shard,
            first=first,
            last=last,
            count=lost.last - lost.first + 1,
            reason=DiscardReason.RECORD_EXPIRED.value,
            attempts=0,
            error_message="the source dropped these records (retention) before they could be processed",
            created_ms=now_ms,
        )
        return failure_id, (KeepFailure(failure=failure),)

    def keep_event(self, failed: FailedEvent) -> tuple[str, Sequence[Operation]]:
        """Return the id of, and the writes that keep, an event that was given up."""
        failure_id = _id(failed.function, failed.request_id)
        failure = Failure(
            id=failure_id,
            mapping="",
            function=failed.function,
            source=f"function:{failed.function}",
            shard="",
            first=failed.request_id,
            last=failed.request_id,
            count=1,
            reason=failed.reason,
            attempts=failed.attempts,
            request_id=failed.request_id,
            created_ms=failed.now_ms,
            event=failed.event,
        )
        outcome = failed.outcome if failed.outcome is not None and failed.outcome.fault is not None else None
        return failure_id, (KeepFailure(failure=self._with_fault(failure, outcome)),)

    def seal(self, ids: Sequence[str], reason: str) -> Sequence[Operation]:
        """Return the writes that make kept failures final."""
        return (SealFailures(ids=tuple(ids), reason=reason),) if ids else ()

    def finish(self, ids: Sequence[str]) -> Sequence[Operation]:
        """Return the writes that forget failures whose messages have succeeded after all."""
        return (DropFailures(ids=tuple(ids)),) if ids else ()

    # -- what ran ------------------------------------------------------------------------------------------------------

    def _with_fault(self, failure: Failure, outcome: Outcome | None) -> Failure:
        spec = self._functions.get(failure.function)
        fault = outcome.fault if outcome is not None else None
        return msgspec.structs.replace(
            failure,
            error_type=fault.error_type if fault else "",
            error_message=fault.message if fault else _report_text(outcome),
            stack_trace="".join(fault.stack_trace) if fault else "",
            location=fault.location if fault else "",
            code_hash=self._hash(spec) if spec else "",
            environment_names=tuple(sorted(spec.environment)) if spec else (),
        )

    def _hash(self, spec: FunctionSpec) -> str:
        # Once per engine: the code that runs is the code that was there when the environments were made.
        if spec.name not in self._hashes:
            self._hashes[spec.name] = code_hash(spec.code) if spec.code.is_dir() else ""
        return self._hashes[spec.name]


def _position(failed: FailedBatch, index: int) -> str:
    if not failed.batch.records:
        return window_name(failed.batch)
    record = failed.batch.records[index]
    return record.id or str(record.position)


def _report_text(outcome: Outcome | None) -> str:
    return "" if outcome is None else "the response reports failed records"
