"""What every store decides alike."""

import pytest

from eventcore.ports.store import QueueSettings
from eventcore.store.rules import (
    due_rows,
    first_key,
    is_exhausted,
    is_expired,
    read_receipt,
    trim_plan,
    write_receipt,
)


def test_a_receipt_says_what_was_written():
    """Its key, its receive, its end; to the queue that it belongs to alone."""
    key = first_key(3) + 7
    receipt = write_receipt(key, 2, 1_767_225_630_000)
    assert read_receipt(receipt, 3) == (key, 2, 1_767_225_630_000)
    assert read_receipt(receipt, 2) is None


def test_what_can_be_no_receipt_owns_nothing():
    """Any text may arrive from outside; a receive count of 0 would name a delayed message."""
    key = first_key(3) + 7
    for text in ("", "-", "a-b-c", f"{key}-1", f"{key}-1-2-3", f"{key}-0-5", f"{key}--1-5", "1-1-1"):
        assert read_receipt(text, 3) is None, text


def test_a_message_expires_when_its_retention_has_passed():
    """At that millisecond, not before."""
    settings = QueueSettings(message_retention_period=60)
    assert not is_expired(1000, settings, 60_999)
    assert is_expired(1000, settings, 61_000)


def test_a_message_is_exhausted_by_the_receives_it_was_allowed():
    """Never without a redrive policy."""
    settings = QueueSettings(dead_letter_queue="dead", max_receive_count=2)
    assert [is_exhausted(count, (), settings) for count in (0, 1, 2, 3)] == [False, False, True, True]
    assert not is_exhausted(1000, (), QueueSettings())


@pytest.mark.parametrize(("before", "allowed"), [(b"5", 7), (b"0", 2), (b"-5", 2), (b"", 2), (b"9" * 5000, 2)])
def test_receives_of_another_queue_are_not_those_that_were_allowed(before, allowed):
    """Whatever somebody has sent in a header of that name."""
    settings = QueueSettings(dead_letter_queue="dead", max_receive_count=2)
    headers = (("eventcore-dead-letter-receives", before),)
    assert [is_exhausted(count, headers, settings) for count in (allowed - 1, allowed)] == [False, True]


def test_trimming_takes_the_oldest_of_all_shards():
    """By age, by size, by both, and never more than allowed."""
    shards = {0: [(10, 5), (30, 5)], 1: [(20, 7), (20, 7), (40, 7)]}
    assert trim_plan(shards, before_ms=30, excess_bytes=0, count_max=9) == {0: (1, 5), 1: (2, 14)}
    assert trim_plan(shards, before_ms=30, excess_bytes=0, count_max=2) == {0: (1, 5), 1: (1, 7)}
    assert trim_plan(shards, before_ms=0, excess_bytes=6, count_max=9) == {0: (1, 5), 1: (1, 7)}
    assert trim_plan(shards, before_ms=20, excess_bytes=13, count_max=9) == {0: (1, 5), 1: (2, 14)}
    assert trim_plan(shards, before_ms=0, excess_bytes=0, count_max=9) == {}


def test_trimming_takes_only_from_the_front():
    """A clock that went back must not tear a hole: a young record protects the older-looking one behind it."""
    assert trim_plan({0: [(50, 1), (10, 1)]}, before_ms=20, excess_bytes=0, count_max=9) == {}


def test_a_lane_ends_at_its_first_undue_row():
    """Others pass; the order is that of the numbers."""
    lanes = [[(1, 0, "a"), (4, 9, "b"), (5, 0, "c")], [(2, 0, "d"), (3, 0, "e")], [(6, 9, "f")]]
    assert due_rows(lanes, now_ms=5, count_max=9) == ["a", "d", "e"]
    assert due_rows(lanes, now_ms=9, count_max=9) == ["a", "d", "e", "b", "c", "f"]
    assert due_rows(lanes, now_ms=9, count_max=2) == ["a", "d"]
