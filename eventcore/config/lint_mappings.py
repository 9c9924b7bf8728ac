"""Checks of mappings: each by itself, with its function and source, and against the others."""

from __future__ import annotations

from typing import Any

from eventcore.config.convert import Draft
from eventcore.config.defaults import ON_FAILURE, default_group, has_default_attempts
from eventcore.config.findings import Findings
from eventcore.config.lint_batches import lint_batches_of_one
from eventcore.config.lint_concurrency import lint_concurrency
from eventcore.config.lint_filters import lint_filters
from eventcore.config.lint_idempotency import lint_idempotency
from eventcore.config.lint_lanes import lint_kafka_lanes, lint_lanes, lint_parallelization
from eventcore.config.lint_references import check_name, read_reference
from eventcore.config.lint_results import lint_results
from eventcore.config.lint_retries import lint_retries
from eventcore.config.lint_subject import Subject
from eventcore.config.lint_windows import lint_windows
from eventcore.config.provenance import KeyPath
from eventcore.config.reference import FAILURE_KINDS, PARKING_KINDS, RESULTS_KINDS, SOURCE_KINDS, Reference
from eventcore.config.structs import BUILT_IN_QUEUES, MappingConfig, QueueConfig
from eventcore.delivery.retry import KAFKA_ATTEMPTS_WITH_DESTINATION

#: More messages than this in a batch need a window to gather them in (Lambda semantics §3.1).
QUEUE_BATCH_WITHOUT_WINDOW_MAX = 10
#: The youngest age limit, seconds (§4).
RECORD_AGE_MIN_S = 60
#: A function of a Kafka mapping may take 14 minutes (§5.1).
KAFKA_TIMEOUT_MAX_S = 840
#: A visibility timeout of so many function timeouts leaves room for throttles and retries (§3.1 "Guidance").
VISIBILITY_PER_TIMEOUT = 6

#: The longest that a queue keeps a message, two weeks (§3.2), seconds.
RETENTION_MAX_S = 1_209_600

STREAM_SETTINGS = (
    "starting_position",
    "starting_position_timestamp",
    "maximum_retry_attempts",
    "maximum_record_age_in_seconds",
    "bisect_batch_on_function_error",
    "on_failure",
    "parallelization_factor",
    "tumbling_window_in_seconds",
    "lanes",
    "parking",
    "results",
    "delivery",
)
QUEUE_SETTINGS = ("maximum_concurrency",)


def lint_mappings(draft: Draft, findings: Findings) -> None:
    """Add what is wrong with the mappings."""
    subjects = [
        subject
        for name, mapping in draft.config.mappings.items()
        if (subject := _examine(name, mapping, draft, findings)) is not None
    ]
    for subject in subjects:
        if subject.source.is_stream:
            _lint_stream(subject, findings)
        else:
            _lint_queue(subject, findings)
        lint_concurrency(subject, findings)
        lint_filters(subject, findings)
        lint_retries(subject, findings)
        lint_idempotency(subject, findings)
        if subject.source.kind == "kafka":
            _lint_kafka(subject, findings)
        elif subject.mapping.consumer_group_id is not None:
            message = f"a {subject.source.kind} has no consumer groups: only Kafka has"
            findings.add("EC106", subject.path("consumer_group_id"), message, "take it out")
    _lint_pairs(subjects, findings)
    _lint_groups(subjects, findings)


def _examine(name: str, mapping: MappingConfig, draft: Draft, findings: Findings) -> Subject | None:
    """Follow the mapping's references; None when its source can't be read."""
    path: KeyPath = ("mappings", name)
    check_name(draft, findings, mapping, (*path, "function"), "functions")
    source = read_reference(draft, findings, mapping, (*path, "source"), SOURCE_KINDS)
    on_failure = parking = results = None
    if mapping.on_failure is not None and (source is None or source.is_stream):
        on_failure = read_reference(draft, findings, mapping, (*path, "on_failure"), FAILURE_KINDS)
    if mapping.parking is not None and (source is None or source.is_stream):
        parking = read_reference(draft, findings, mapping, (*path, "parking"), PARKING_KINDS)
    if mapping.results is not None and (source is None or source.kind == "kafka"):
        results = read_reference(draft, findings, mapping, (*path, "results"), RESULTS_KINDS)
    if source is None:
        return None
    return Subject(
        name=name,
        mapping=mapping,
        pipeline=draft.config,
        source=source,
        function=draft.config.functions.get(mapping.function),
        on_failure=on_failure,
        parking=parking,
        results=results,
    )


# -- queues ------------------------------------------------------------------------------------------------------------


def _lint_queue(subject: Subject, findings: Findings) -> None:
    mapping = subject.mapping
    for setting in STREAM_SETTINGS:
        if getattr(mapping, setting) is not None:
            aws_code = "InvalidParameterValueException" if setting == "on_failure" else ""
            findings.add("EC104", subject.path(setting), *_explain_stream_setting(subject, setting), aws_code=aws_code)
    window = mapping.maximum_batching_window_in_seconds or 0
    queue = subject.pipeline.queues.get(subject.source.name) or BUILT_IN_QUEUES.get(subject.source.name)
    if queue is not None and queue.fifo_queue:
        _lint_fifo(subject, window, findings)
    else:
        _lint_gathering(subject, window, findings)
        lint_batches_of_one(subject, findings)
    if queue is not None:
        _lint_visibility(subject, queue, window, findings)
        _lint_redrive(subject, queue, findings)


def _lint_gathering(subject: Subject, window: float, findings: Findings) -> None:
    if (subject.mapping.batch_size or 0) > QUEUE_BATCH_WITHOUT_WINDOW_MAX and window < 1:
        findings.add(
            "EC107",
            subject.path("batch_size"),
            "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10",
            "write maximum_batching_window_in_seconds = 1, or a batch_size of 10 or less",
            depends_on=(subject.path("maximum_batching_window_in_seconds"),),
            aws_code="InvalidParameterValueException",
        )


def _lint_fifo(subject: Subject, window: float, findings: Findings) -> None:
    """Refuse what only mappings of standard queues have (Lambda semantics §3.1)."""
    seen = (subject.path("source"), ("queues", subject.source.name, "fifo_queue"))
    if (subject.mapping.batch_size or 0) > QUEUE_BATCH_WITHOUT_WINDOW_MAX:
        message = f"a batch of a FIFO queue has at most {QUEUE_BATCH_WITHOUT_WINDOW_MAX} messages"
        hint = f"write batch_size = {QUEUE_BATCH_WITHOUT_WINDOW_MAX} or less"
        findings.add("EC132", subject.path("batch_size"), message, hint, depends_on=seen)
    if window:
        path = subject.path("maximum_batching_window_in_seconds")
        message = (
            "a mapping of a FIFO queue has no batching window: what waited in one would keep its group from others"
        )
        findings.add("EC132", path, message, "take it out", depends_on=seen)


def _explain_stream_setting(subject: Subject, setting: str) -> tuple[str, str]:
    queue = subject.source.name
    if setting.startswith("starting_position"):
        return "a queue has no positions to start from", "take it out"
    if setting == "bisect_batch_on_function_error":
        return "a queue's batch is not split: its messages come back one by one", "take it out"
    if setting in {"results", "delivery"}:
        return "a queue's function returns nothing to send on: only Kafka mappings have results", "take it out"
    if setting == "tumbling_window_in_seconds":
        return "a queue has no order in which windows could follow one another: only streams have", "take it out"
    if setting in {"lanes", "parking", "parallelization_factor"}:
        return "a queue has no order that this would keep: maximum_concurrency runs its batches", "take it out"
    if setting == "maximum_record_age_in_seconds":
        return "a queue's messages end with its retention", f"write [queues.{queue}] message_retention_period"
    # The words of AWS: `sqs/mapping-crud-errors` of the recorded cases.
    refusal = "Unsupported DestinationConfig parameter for given event source mapping type. " * (
        setting == "on_failure"
    )
    message = f"{refusal}a queue's mapping gives up no messages: the queue does, by its redrive policy"
    return message, _suggest_redrive(queue, subject.pipeline.queues.get(queue))


def _suggest_redrive(name: str, queue: QueueConfig | None) -> str:
    """Return what has the effect that was meant, and that no check refuses."""
    if queue is not None and queue.redrive_policy is not None:
        count = queue.redrive_policy.shown("max_receive_count")
        return f"take it out: [queues.{name}] redrive_policy does, with max_receive_count = {count}"
    return f"write [queues.{name}] {write_redrive(name, is_fifo=queue is not None and queue.fifo_queue)}"


def write_redrive(queue: str, *, is_fifo: bool = False) -> str:
    """Return a redrive policy that can be written as it stands, with a dead-letter queue that no check speaks of."""
    dead = f"failed-{queue}"
    policy = f'redrive_policy = {{ dead_letter_queue = "{dead}", max_receive_count = 3 }}'
    settings = "fifo_queue = true" if is_fifo else f"message_retention_period = {RETENTION_MAX_S:_}"
    return f"{policy}, and [queues.{dead}] {settings}"


def _lint_visibility(subject: Subject, queue: QueueConfig, window: float, findings: Findings) -> None:
    if subject.function is None:
        return
    timeout = subject.function.timeout
    path: KeyPath = ("queues", subject.source.name, "visibility_timeout")
    seen = (subject.timeout_path, subject.path("maximum_batching_window_in_seconds"))
    wanted = int(VISIBILITY_PER_TIMEOUT * timeout + window)
    hint = f"write visibility_timeout = {wanted}, or a shorter timeout for {subject.mapping.shown('function')}"
    if timeout > queue.visibility_timeout:
        message = (
            f"the queue hides a message for {queue.visibility_timeout} seconds, less than the {timeout} seconds that "
            f"its function may run: it would be received again meanwhile"
        )
        findings.add("EC108", path, message, hint, depends_on=seen)
    elif timeout + window > queue.visibility_timeout:
        message = (
            f"the queue hides a message for {queue.visibility_timeout} seconds, less than the {window:g} seconds of the"
            f" batching window and the {timeout} that its function may run: it would be received again before that"
        )
        findings.add("EC124", path, message, hint, depends_on=seen)
    elif queue.visibility_timeout < wanted:
        message = (
            f"{queue.visibility_timeout} seconds are less than six times the function's timeout and the window: "
            f"throttled messages may be received again too early"
        )
        findings.warn("EC151", path, message, hint, depends_on=seen)


def _lint_redrive(subject: Subject, queue: QueueConfig, findings: Findings) -> None:
    if queue.redrive_policy is None:
        name = subject.source.name
        message = f"without a redrive policy a failing message comes back for {queue.message_retention_period} seconds"
        hint = f"write {write_redrive(name, is_fifo=queue.fifo_queue)}"
        findings.warn("EC158", ("queues", name, "redrive_policy"), message, hint)


# -- streams -----------------------------------------------------------------------------------------------------------


def _lint_stream(subject: Subject, findings: Findings) -> None:
    for setting in QUEUE_SETTINGS:
        if getattr(subject.mapping, setting) is not None:
            findings.add("EC105", subject.path(setting), *_explain_queue_setting(subject))
    _lint_start(subject, findings)
    age = subject.mapping.maximum_record_age_in_seconds
    if age is not None and 0 <= age < RECORD_AGE_MIN_S:
        message = f"{age} is neither -1 (never) nor from {RECORD_AGE_MIN_S} to 604,800 seconds"
        findings.add(
            "EC109", subject.path("maximum_record_age_in_seconds"), message, f"write {RECORD_AGE_MIN_S} or more"
        )
    if subject.on_failure is not None:
        _lint_destination(subject, subject.on_failure, findings)
    _lint_no_fifo(subject, "on_failure", subject.on_failure, findings)
    _lint_no_fifo(subject, "parking", subject.parking, findings)
    lint_lanes(subject, findings)
    lint_parallelization(subject, findings)
    lint_windows(subject, findings)
    lint_batches_of_one(subject, findings)
    lint_results(subject, findings)
    _lint_limits(subject, findings)


def _explain_queue_setting(subject: Subject) -> tuple[str, str]:
    """Return what `maximum_concurrency` means to whoever writes it for a stream, and what does that here."""
    message = "batches of a stream run at the same time by its shards, and within a shard by key"
    if subject.source.kind == "kafka":
        return message, "write lanes: so many keys of a partition at a time, each in order; or take it out"
    return message, "write parallelization_factor or lanes: so many of a shard at a time; or take it out"


def _lint_start(subject: Subject, findings: Findings) -> None:
    position, timestamp = subject.mapping.starting_position, subject.mapping.starting_position_timestamp
    position_path, timestamp_path = subject.path("starting_position"), subject.path("starting_position_timestamp")
    if position is None:
        message = "a stream's mapping must say where it begins"
        hint = 'write starting_position = "TRIM_HORIZON" for all records kept, "LATEST" for new ones alone'
        findings.add("EC103", position_path, message, hint, aws_code="InvalidParameterValueException")
    elif position == "AT_TIMESTAMP" and timestamp is None:
        hint = "write starting_position_timestamp = SECONDS, since the epoch"
        findings.add("EC110", timestamp_path, "AT_TIMESTAMP needs a timestamp", hint)
    if timestamp is not None and position != "AT_TIMESTAMP":
        hint = 'write starting_position = "AT_TIMESTAMP", or take it out'
        message = "the timestamp has no effect without AT_TIMESTAMP"
        findings.add("EC110", timestamp_path, message, hint, depends_on=(position_path,))


def _lint_destination(subject: Subject, destination: Reference, findings: Findings) -> None:
    path = subject.path("on_failure")
    seen = (subject.path("source"), subject.path("function"))
    if subject.is_read_from(destination):
        message = "what is given up would come back at once: this is the mapping's own source"
        findings.add("EC114", path, message, "write another destination", depends_on=seen)
    if destination.kind == "function" and destination.name == subject.mapping.function:
        message = "the function that has failed would be given its own failures"
        findings.add("EC115", path, message, "write another destination", depends_on=seen)


def _lint_no_fifo(subject: Subject, setting: str, target: Reference | None, findings: Findings) -> None:
    """Refuse FIFO queues as destinations, as Lambda does: nothing says of which group a failure would be."""
    queue = subject.pipeline.queues.get(target.name) if target is not None and target.kind == "queue" else None
    if queue is not None and queue.fifo_queue:
        message = f"`{target}` is a FIFO queue: only standard queues take what mappings give up"
        findings.add("EC133", subject.path(setting), message, "write a standard queue")


def _lint_limits(subject: Subject, findings: Findings) -> None:
    """Warn where one record that always fails is tried without end, and where Lambda sets a limit unasked."""
    mapping = subject.mapping
    path, age_path = subject.path("maximum_retry_attempts"), subject.path("maximum_record_age_in_seconds")
    seen = (age_path, subject.path("on_failure"))
    if has_default_attempts(subject.source, mapping):
        count = KAFKA_ATTEMPTS_WITH_DESTINATION
        message = (
            f"with on_failure on Kafka and no limit, a batch is retried {count} times, as in Lambda "
            f"({count + 1} invocations)"
        )
        findings.warn("EC153", path, message, f"write maximum_retry_attempts = {count} to say so", depends_on=seen)
    elif mapping.maximum_retry_attempts is None and mapping.maximum_record_age_in_seconds in {None, -1}:
        message = "one record that always fails blocks its shard without end"
        hint = "write maximum_retry_attempts = 3, or -1 if that is meant"
        findings.warn("EC152", path, message, hint, depends_on=seen)


# -- Kafka -------------------------------------------------------------------------------------------------------------


def _lint_kafka(subject: Subject, findings: Findings) -> None:
    mapping, function = subject.mapping, subject.function
    window = mapping.maximum_batching_window_in_seconds
    if window is not None and window != int(window):
        message = f"{window:g} is not whole seconds: for Kafka a window is 0 to 300 whole seconds"
        hint = "write whole seconds, or take it out for the default of half a second"
        findings.add("EC111", subject.path("maximum_batching_window_in_seconds"), message, hint)
    if function is not None and function.timeout > KAFKA_TIMEOUT_MAX_S:
        message = f"{function.timeout} is above {KAFKA_TIMEOUT_MAX_S} seconds, the most for a function that reads Kafka"
        findings.add("EC117", subject.timeout_path, message, f"write {KAFKA_TIMEOUT_MAX_S} or less")
    destination = ON_FAILURE if mapping.on_failure is None else subject.on_failure
    if destination is not None and destination.kind in {"queue", "stream"}:
        message = (
            f"`{destination}` lies in this state folder: another engine on the same topic discards into its own, and "
            f"after a change of owner a record may be in both"
        )
        hint = f'with several engines, discard to a topic: on_failure = "kafka:{subject.source.name}/failed"'
        findings.warn("EC154", subject.path("on_failure"), message, hint)
    lint_kafka_lanes(subject, findings)


# -- mappings against each other ---------------------------------------------------------------------------------------


def _lint_pairs(subjects: list[Subject], findings: Findings) -> None:
    first: dict[Any, str] = {}
    for subject in subjects:
        pair = subject.address(subject.source), subject.mapping.function
        known = first.setdefault(pair, subject.name)
        if known != subject.name:
            source, function = subject.mapping.shown("source"), subject.mapping.shown("function")
            findings.add(
                "EC113",
                subject.path("source"),
                f'an event source mapping with source ("{source}") and function ("{function}") already exists: '
                f"mappings.{known}",
                "change or delete the existing mapping",
                depends_on=(subject.path("function"), ("mappings", known, "source"), ("mappings", known, "function")),
                aws_code="ResourceConflictException",
            )


def _lint_groups(subjects: list[Subject], findings: Findings) -> None:
    first: dict[Any, str] = {}
    for subject in subjects:
        if subject.source.kind != "kafka" or subject.source.name not in subject.pipeline.kafka:
            continue
        group = subject.mapping.consumer_group_id or default_group(subject.name)
        brokers = subject.pipeline.kafka[subject.source.name].bootstrap_servers
        known = first.setdefault((brokers, group), subject.name)
        if known != subject.name:
            findings.add(
                "EC112",
                subject.path("consumer_group_id"),
                f"mappings.{known} is in this consumer group already: they would take each other's shards",
                "write another name, or none",
                depends_on=(("mappings", known, "consumer_group_id"),),
            )
