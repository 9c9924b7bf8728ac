"""Checks of functions, queues and connections, and of what nothing uses."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eventcore.config.convert import Draft
from eventcore.config.findings import Findings
from eventcore.config.handler_names import HANDLER, MODULE, suggest_handler
from eventcore.config.lint_buckets import lint_buckets, used_by_bucket
from eventcore.config.lint_events import lint_events, used_by_events
from eventcore.config.lint_mappings import RETENTION_MAX_S
from eventcore.config.lint_references import check_name, used_by
from eventcore.config.lint_security import lint_security
from eventcore.config.provenance import KeyPath
from eventcore.config.structs import (
    BUILT_IN_QUEUES,
    PROCESS_SETTINGS,
    TABLES,
    FunctionConfig,
    KafkaConfig,
    QueueConfig,
    RedrivePolicy,
    Section,
)

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:,\[\]]+):(\d{1,5})")
_PORT_MAX = 65_535
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Set by the runtime for each environment (Lambda semantics §7.3). Credentials are not among them: there is no role
#: here that could provide them.
_RESERVED = frozenset(
    {
        "AWS_DEFAULT_REGION",
        "AWS_EXECUTION_ENV",
        "AWS_REGION",
        "LAMBDA_RUNTIME_DIR",
        "LAMBDA_TASK_ROOT",
        "TMPDIR",
        "_HANDLER",
        "_X_AMZN_TRACE_ID",
    }
)
_RESERVED_PREFIX = "AWS_LAMBDA_"
#: What people write who expect a shell's substitution.
_SHELL_VARIABLE = re.compile(r"\$\{(\w+)\}")

#: The broker's own advice: three heartbeats may be lost before the session ends.
HEARTBEATS_PER_SESSION = 3


def lint_sections(draft: Draft, findings: Findings, *, folder: Path) -> None:
    """Add what is wrong with everything but mappings."""
    for name, function in draft.config.functions.items():
        _lint_function(name, function, draft, findings, folder)
    for name, queue in draft.config.queues.items():
        _lint_queue(name, queue, draft, findings)
    _lint_circles(draft, findings)
    for name, connection in draft.config.kafka.items():
        _lint_connection(name, connection, findings)
        lint_security(name, connection, findings, folder)
    lint_buckets(draft, findings, folder)
    for path, text in _texts(draft):
        if match := _SHELL_VARIABLE.search(text):
            message = f"`{match.group()}` is not replaced and stays as it is"
            findings.warn("EC157", path, message, f"write `${{env:{match.group(1)}}}` for an environment variable")
    _lint_unused(draft, findings)


# -- functions ---------------------------------------------------------------------------------------------------------


def _lint_function(name: str, function: FunctionConfig, draft: Draft, findings: Findings, folder: Path) -> None:
    path: KeyPath = ("functions", name)
    if not HANDLER.fullmatch(function.handler):
        shown = function.shown("handler")
        findings.add("EC120", (*path, "handler"), f"`{shown}` is not module.attribute", suggest_handler(shown))
    for index, module in enumerate(function.preload):
        if not MODULE.fullmatch(module):
            findings.add("EC120", (*path, "preload", index), "this is not a module's name", 'write it as "numpy"')
    # `Path.is_dir` raises for a name that is too long; this says that there is no such folder.
    if not os.path.isdir(folder / function.code):  # noqa: PTH112
        message = f"there is no folder `{function.shown('code')}` beside the pipeline file"
        findings.add("EC123", (*path, "code"), message, "write a folder, relative to the pipeline file")
    _lint_inert(path, function, findings)
    lint_events(name, function, draft, findings)
    for variable, value in function.environment.items():
        _lint_variable((*path, "environment", variable), variable, value, findings)


def _lint_inert(path: KeyPath, function: FunctionConfig, findings: Findings) -> None:
    """Refuse what has no effect beside another setting: nothing is accepted and ignored."""
    if function.runtime == "inline":
        for setting in PROCESS_SETTINGS:
            if findings.provenance.is_written((*path, setting)):
                message = "an inline function runs in the engine's own process: this has no effect"
                hint = 'take it out, or write runtime = "process"'
                findings.add("EC118", (*path, setting), message, hint, depends_on=((*path, "runtime"),))
    elif function.start == "spawn" and function.preload:
        message = 'start = "spawn" begins every process afresh: nothing that was imported before is in it'
        findings.add("EC118", (*path, "preload"), message, "take out one of the two", depends_on=((*path, "start"),))


def _lint_variable(path: KeyPath, variable: str, value: str, findings: Findings) -> None:
    if variable in _RESERVED or variable.startswith(_RESERVED_PREFIX):
        message = f"{variable} is set for each environment, as in Lambda"
        hint = "write region in [settings]" if variable.endswith("REGION") else "take it out"
        findings.add("EC122", path, message, hint)
    elif not _ENVIRONMENT_NAME.fullmatch(variable):
        message = "names of environment variables have letters, digits and `_`, and begin with no digit"
        findings.add("EC122", path, message, "write another name")
    elif "\0" in value:
        findings.add("EC122", path, "no environment variable can hold a NUL character", "write the value without it")


# -- queues ------------------------------------------------------------------------------------------------------------


#: What has an effect on FIFO queues alone.
_FIFO_SETTINGS = ("content_based_deduplication", "deduplication_scope")


def _lint_queue(name: str, queue: QueueConfig, draft: Draft, findings: Findings) -> None:
    for setting in _FIFO_SETTINGS:
        if not queue.fifo_queue and findings.provenance.is_written(("queues", name, setting)):
            message = "a standard queue delivers every message that is sent: this has no effect"
            hint, seen = "take it out, or write fifo_queue = true", (("queues", name, "fifo_queue"),)
            findings.add("EC118", ("queues", name, setting), message, hint, depends_on=seen)
    policy = queue.redrive_policy
    if policy is None:
        return
    path: KeyPath = ("queues", name, "redrive_policy", "dead_letter_queue")
    target = check_name(draft, findings, policy, path, "queues")
    kept = draft.config.queues.get(target or "")
    _lint_types(path, policy, queue, kept, findings)
    is_shorter = kept is not None and kept.message_retention_period <= queue.message_retention_period
    if is_shorter and target != name and not queue.fifo_queue:
        message = "a message keeps its age there, and is kept no longer than here: one that comes late is gone at once"
        dead = policy.shown("dead_letter_queue")
        hint = f"write [queues.{dead}] message_retention_period = {RETENTION_MAX_S:_}"
        findings.warn("EC159", path, message, hint)


def _lint_types(
    path: KeyPath, policy: RedrivePolicy, queue: QueueConfig, dead: QueueConfig | None, findings: Findings
) -> None:
    """Refuse a dead-letter queue of the other type (Lambda semantics §3.2 "DLQ")."""
    shown = policy.shown("dead_letter_queue")
    is_fifo = dead.fifo_queue if dead is not None else False
    if (dead is None and policy.dead_letter_queue not in BUILT_IN_QUEUES) or is_fifo is queue.fifo_queue:
        return
    own, other = ("a FIFO", "no FIFO") if queue.fifo_queue else ("a standard", "a FIFO")
    hint = f"write [queues.{shown}] fifo_queue = {'true' if queue.fifo_queue else 'false'}, or another queue"
    seen = (("queues", policy.dead_letter_queue, "fifo_queue"), (*path[:2], "fifo_queue"))
    message = f"this is {own} queue, and `{shown}` is {other} queue: a dead-letter queue has the type of its source"
    findings.add("EC131", path, message, hint, depends_on=seen)


def _lint_circles(draft: Draft, findings: Findings) -> None:
    """Refuse dead-letter queues that lead back to where they began."""
    targets = {
        name: queue.redrive_policy.dead_letter_queue
        for name, queue in draft.config.queues.items()
        if queue.redrive_policy is not None
    }
    settled: set[str] = set()
    for start in targets:
        seen: dict[str, None] = {}
        name = start
        while name in targets and name not in seen and name not in settled:
            seen[name] = None
            name = targets[name]
        if name in seen:
            chain = list(seen)
            circle = [*chain[chain.index(name) :], name]
            message = f"dead-letter queues lead in a circle: {' -> '.join(circle)}"
            path = ("queues", name, "redrive_policy", "dead_letter_queue")
            findings.add("EC116", path, message, "write a queue that has no redrive policy of its own")
        settled.update(seen)


# -- connections -------------------------------------------------------------------------------------------------------


def _lint_connection(name: str, connection: KafkaConfig, findings: Findings) -> None:
    path: KeyPath = ("kafka", name)
    for address in connection.bootstrap_servers.split(","):
        match = _ADDRESS.fullmatch(address.strip())
        if match is None or not 0 < int(match.group(2)) <= _PORT_MAX:
            shown = connection.shown("bootstrap_servers")
            message = f"`{shown}` is not host:port, or several of them with commas between"
            findings.add("EC121", (*path, "bootstrap_servers"), message, 'write it as "127.0.0.1:9092"')
            break
    _lint_group_protocol(path, connection, findings)
    session, heartbeat = connection.session_timeout_ms, connection.heartbeat_interval_ms
    heartbeat_path, seen = (*path, "heartbeat_interval_ms"), ((*path, "session_timeout_ms"),)
    hint = f"write heartbeat_interval_ms = {session // HEARTBEATS_PER_SESSION} or less"
    if heartbeat >= session:
        message = f"a heartbeat each {heartbeat} ms comes too late for a session that ends after {session} ms"
        findings.add("EC119", heartbeat_path, message, hint, depends_on=seen)
    elif heartbeat * HEARTBEATS_PER_SESSION > session:
        message = f"one or two late heartbeats end the session ({session} ms), and its shards go to others"
        findings.warn("EC160", heartbeat_path, message, hint, depends_on=seen)
    if connection.max_partition_fetch_bytes > connection.fetch_max_bytes:
        message = f"one partition may bring no more than a whole fetch ({connection.fetch_max_bytes} bytes)"
        fetch_path = (*path, "fetch_max_bytes")
        hint = "write max_partition_fetch_bytes no larger than fetch_max_bytes"
        findings.add("EC119", (*path, "max_partition_fetch_bytes"), message, hint, depends_on=(fetch_path,))


#: With the new group protocol: a client's setting, and the brokers'. Source: KIP-848.
_DECIDED_BY_BROKERS = {
    "session_timeout_ms": "group.consumer.session.timeout.ms",
    "heartbeat_interval_ms": "group.consumer.heartbeat.interval.ms",
}


def _lint_group_protocol(path: KeyPath, connection: KafkaConfig, findings: Findings) -> None:
    protocol_path = (*path, "group_protocol")
    if connection.group_protocol == "classic":
        return
    if connection.client == "aiokafka":
        message = "aiokafka speaks the classic group protocol only"
        hint = 'write client = "librdkafka" beside it, or take it out'
        findings.add("EC119", protocol_path, message, hint, depends_on=((*path, "client"),))
    for setting, theirs in _DECIDED_BY_BROKERS.items():
        if findings.provenance.is_written((*path, setting)):
            message = 'with group_protocol = "consumer" the brokers decide on it, and no client is asked'
            hint = f"take it out; the brokers' own setting is {theirs}"
            findings.add("EC119", (*path, setting), message, hint, depends_on=(protocol_path,))


# -- the whole ---------------------------------------------------------------------------------------------------------


def _texts(draft: Draft) -> Iterator[tuple[KeyPath, str]]:
    """Yield every text of the pipeline as people may see it, with its path."""
    for table in TABLES:
        for name, section in getattr(draft.config, table).items():
            yield from _texts_of(section, (table, name))
    yield from _texts_of(draft.config.settings, ("settings",))


def _texts_of(section: Section, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    for setting in section.__struct_fields__:
        value: Any = section.shown(setting)
        if isinstance(value, str):
            yield (*path, setting), value
        elif isinstance(value, dict):
            yield from (((*path, setting, key), text) for key, text in value.items())


def _lint_unused(draft: Draft, findings: Findings) -> None:
    """Warn of what no mapping uses; of the mappings themselves where there is none."""
    if not draft.names["mappings"]:
        hint = 'add [mappings.NAME] with source = "..." and function = "..."'
        findings.warn("EC161", ("mappings",), "no mapping joins a source to a function: nothing will be read", hint)
        return
    used = _used(draft)
    for table in ("functions", "queues", "streams", "kafka", "http", "buckets", "s3"):
        for name in getattr(draft.config, table):
            if (table, name) in used:
                continue
            code = "EC155" if table == "functions" else "EC156"
            message = f"nothing in this pipeline uses `{name}`"
            findings.warn(code, (table, name), message, "take it out, unless a command or another pipeline uses it")


def _used(draft: Draft) -> set[tuple[str, str]]:
    used = {("functions", mapping.function) for mapping in draft.config.mappings.values()}
    for mapping in draft.config.mappings.values():
        used |= used_by(mapping.source, mapping.on_failure, mapping.parking, mapping.results)
    for function in draft.config.functions.values():
        used |= used_by_events(function)
    for bucket in draft.config.buckets.values():
        used |= used_by_bucket(bucket)
    for queue in draft.config.queues.values():
        if queue.redrive_policy is not None:
            used.add(("queues", queue.redrive_policy.dead_letter_queue))
    return used
