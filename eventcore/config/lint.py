"""What can be wrong with a pipeline whose settings are each right: combinations, references, and what is seldom meant.

Every check has a code of `CODES`. A *mistake* keeps the pipeline from running; a *warning* does not. Checks never
raise, and stay silent where a setting they need could not be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from eventcore.config.convert import Draft
from eventcore.config.findings import Findings
from eventcore.config.lint_mappings import lint_mappings
from eventcore.config.lint_sections import lint_sections

#: Every code, and what it is about.
CODES: Mapping[str, str] = {
    "EC101": "a reference is not written as `kind:name[/part]`, or its kind can't stand here",
    "EC102": "a reference or a name leads to nothing",
    "EC103": "a stream's mapping has no `starting_position`",
    "EC104": "a queue's mapping has a setting that only streams have",
    "EC105": "a stream's mapping has a setting that only queues have",
    "EC106": "`consumer_group_id` on something other than Kafka",
    "EC107": "a queue's `batch_size` above 10 without a batching window",
    "EC108": "a function may run longer than its queue hides the message",
    "EC109": "`maximum_record_age_in_seconds` from 0 to 59",
    "EC110": "`AT_TIMESTAMP` without its timestamp, or a timestamp without it",
    "EC111": "a Kafka batching window that is neither the default nor whole seconds",
    "EC112": "two mappings in one consumer group",
    "EC113": "two mappings of the same source to the same function",
    "EC114": "a mapping discards or parks into its own source, or both into one place",
    "EC115": "a mapping or a function discards into its own function",
    "EC116": "dead-letter queues that lead in a circle",
    "EC117": "a function of a Kafka mapping with more than 14 minutes",
    "EC118": "a setting that has no effect beside another",
    "EC119": "Kafka's client settings contradict each other",
    "EC120": "a handler or a module is not written as `module.attribute`",
    "EC121": "an address is not written as `host:port`",
    "EC122": "an environment variable that can't be set",
    "EC123": "a folder that is not there",
    "EC124": "a batching window and a function's timeout together outlast the queue's visibility timeout",
    "EC125": "a handler that is not there, or whose file is not Python (`validate` alone looks)",
    "EC126": "Kafka's security settings contradict each other, or one is missing",
    "EC127": "a file that is not there",
    "EC128": "lanes, a parallelization factor or a maximum concurrency above what the function may have at a time",
    "EC129": "results, or exactly-once delivery, where they can't be had",
    "EC130": "a filter whose pattern can't be used",
    "EC131": "a FIFO queue and a standard queue, one the dead-letter queue of the other",
    "EC132": "a mapping of a FIFO queue with a larger batch than 10, or with a batching window",
    "EC133": "a mapping or a function discards or parks into a FIFO queue",
    "EC134": "a bucket without a place, or with two",
    "EC135": "records that would travel unencrypted to an object store elsewhere, or are allowed to where they don't",
    "EC140": "tumbling windows where they can't be had",
    "EC141": "a parallelization factor where it can't be had",
    "EC142": "a retry schedule, or the rule of an error type, whose settings contradict each other",
    "EC143": "a circuit breaker whose first pause is above its longest, or for a name that no failure has",
    "EC147": "idempotency where it can't be had, or with a path or function that can't be one",
    "EC151": "a queue's visibility timeout is short for its function",
    "EC152": "one failing record may block its shard without end",
    "EC153": "Kafka, `on_failure` and no limit: ten retries, as in Lambda",
    "EC154": "a Kafka mapping discards or parks into a queue of this state folder",
    "EC155": "a function that nothing uses",
    "EC156": "a queue, stream, bucket or connection that nothing uses",
    "EC157": "`${NAME}` is not replaced",
    "EC158": "a queue's failing messages come back until their retention ends",
    "EC159": "a dead-letter queue keeps messages no longer than the queue before it",
    "EC160": "Kafka's heartbeats are too rare for its session timeout",
    "EC161": "a pipeline without mappings",
    "EC162": "a handler of which its file does not tell whether it is there (`validate` alone looks)",
    "EC163": "a filter for what no record of its source has",
    "EC164": "a circuit breaker that one failing record opens before its retries are used up",
}


def lint(draft: Draft, findings: Findings, *, folder: Path) -> None:
    """Add what is wrong with the pipeline, and what is seldom meant, to the findings.

    Args:
        draft: what could be read.
        findings: takes what is found.
        folder: what `code` is relative to.
    """
    lint_mappings(draft, findings)
    lint_sections(draft, findings, folder=folder)
