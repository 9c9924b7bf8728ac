"""How many batches of a queue run at the same time (Lambda semantics §3.1 "Polling/scaling", "Outcome rules")."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventcore.delivery.scaling import LEAST, REPEATED, QueueScaling


def test_it_starts_with_five_and_adds_five_a_second_while_messages_wait() -> None:
    scaling = QueueScaling(maximum=1250)
    assert (scaling.limit, scaling.next_rise_s) == (5, None)
    limits = []
    for second in (0.0, 0.5, 1.0, 2.0, 5.5):
        scaling.want_more(10 + second)
        limits.append(scaling.limit)
    assert limits == [5, 5, 10, 15, 30]
    assert scaling.next_rise_s == 16.0
    scaling.want_more(70.0)
    assert scaling.limit == 305  # 300 a minute
    scaling.want_more(1000.0)
    assert (scaling.limit, scaling.next_rise_s) == (1250, None)


def test_time_in_which_nothing_waits_does_not_count() -> None:
    scaling = QueueScaling(maximum=1250)
    scaling.want_more(0.0)
    scaling.want_no_more()
    scaling.want_more(100.0)
    assert scaling.limit == 5


def test_it_never_passes_its_maximum_and_falls_back_to_five_when_idle() -> None:
    scaling = QueueScaling(maximum=12)
    scaling.want_more(0.0)
    scaling.want_more(60.0)
    assert scaling.limit == 12
    scaling.rest()
    assert scaling.limit == 5
    small = QueueScaling(maximum=2)
    assert small.limit == 2
    small.rest()
    assert small.limit == 2


def test_a_fifo_queue_is_bounded_by_its_groups_alone() -> None:
    assert QueueScaling(maximum=40, is_fifo=True).limit == 40


def test_repeated_errors_cut_it_by_halves_and_successes_bring_it_back() -> None:
    scaling = QueueScaling(maximum=40, is_fifo=True)
    limits = []
    for _ in range(7):
        scaling.note_error()
        limits.append(scaling.limit)
    assert limits == [40, 20, 10, 5, 2, 2, 2]
    scaling.note_success()
    scaling.note_error()
    assert scaling.limit == 3
    for _ in range(50):
        scaling.note_success()
    assert scaling.limit == 40


def test_it_does_not_rise_while_the_function_keeps_failing() -> None:
    scaling = QueueScaling(maximum=1250)
    scaling.want_more(0.0)
    for _ in range(REPEATED):
        scaling.note_error()
    for second in range(1, 20):
        scaling.want_more(float(second))
    assert (scaling.limit, scaling.next_rise_s) == (2, 20.0)
    scaling.note_success()
    scaling.want_more(20.0)
    assert scaling.limit == 8  # one back, and five more


def test_errors_cut_nothing_where_failed_messages_are_reported() -> None:
    scaling = QueueScaling(maximum=40, is_fifo=True, cuts_on_errors=False)
    for _ in range(9):
        scaling.note_error()
    assert scaling.limit == 40


@given(st.integers(1, 1250), st.lists(st.sampled_from(["more", "no", "rest", "error", "success"]), max_size=60))
def test_it_stays_within_its_bounds(maximum: int, steps: list[str]) -> None:
    scaling = QueueScaling(maximum=maximum)
    for now_s, step in enumerate(steps):
        match step:
            case "more":
                scaling.want_more(float(now_s))
            case "no":
                scaling.want_no_more()
            case "rest":
                scaling.rest()
            case "error":
                scaling.note_error()
            case "success":
                scaling.note_success()
        assert min(LEAST, maximum) <= scaling.limit <= maximum
