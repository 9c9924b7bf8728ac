"""A queue's batch (Lambda semantics §3.1 "Outcome rules")."""

from __future__ import annotations

import pytest

from eventcore.delivery.decide import decide_queue
from eventcore.delivery.partial import SUCCESS
from eventcore.model import DiscardReason, FaultCause, Outcome, OutcomeKind, VerdictKind
from tests.unit.delivery.naive_shard import Answer, fault, raised, reported, unusable

SETTLE, RETRY, DISCARD, RELEASE = (
    VerdictKind.SETTLE,
    VerdictKind.RETRY,
    VerdictKind.DISCARD,
    VerdictKind.RELEASE,
)


def _verdicts(count: int, answer: Answer) -> list[VerdictKind]:
    decision = decide_queue(count, *answer)
    return [run.verdict.kind for run in decision.runs for _ in range(run.start, run.stop)]


def test_a_success_deletes_every_message() -> None:
    assert _verdicts(3, reported()) == [SETTLE] * 3


@pytest.mark.parametrize("cause", [FaultCause.HANDLER, FaultCause.TIMEOUT, FaultCause.EXIT, FaultCause.IMPORT])
def test_a_failure_leaves_every_message_to_its_visibility_timeout(cause: FaultCause) -> None:
    """§3.1: throws or times out: none is deleted; trap 9."""
    assert _verdicts(3, raised(cause)) == [RETRY] * 3


def test_a_report_keeps_exactly_what_it_lists() -> None:
    """§3.1: listed ids are kept, all others deleted, in FIFO queues too; trap 13."""
    assert _verdicts(6, reported(0, 3, 4)) == [RETRY, SETTLE, SETTLE, RETRY, RETRY, SETTLE]


def test_an_unusable_report_keeps_everything() -> None:
    """§3.1; trap 11."""
    assert _verdicts(2, unusable()) == [RETRY] * 2


@pytest.mark.parametrize("kind", [OutcomeKind.THROTTLED, OutcomeKind.RELEASED])
def test_what_ended_before_the_handler_ran_goes_back_as_it_was(kind: OutcomeKind) -> None:
    assert _verdicts(2, (Outcome(kind=kind), SUCCESS)) == [RELEASE] * 2


def test_messages_that_cannot_be_decoded_are_given_up() -> None:
    """Design §5: of a queue only what can't be decoded goes to the discards; no receive would change it."""
    unreadable = Outcome(kind=OutcomeKind.SUCCESS, fault=fault(FaultCause.UNDECODABLE))
    decision = decide_queue(3, unreadable, reported(1)[1])
    assert _verdicts(3, (unreadable, reported(1)[1])) == [SETTLE, DISCARD, SETTLE]
    assert decision.runs[1].verdict.reason is DiscardReason.UNDECODABLE
