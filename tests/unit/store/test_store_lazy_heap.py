"""The heap behind queues in memory: smallest first, whatever was taken out of the middle."""

from hypothesis import given
from hypothesis import strategies as st

from eventcore.store.memory.lazy_heap import GONE_MAX, LazyHeap

entries = st.integers(0, 9)
steps = st.lists(
    st.one_of(st.tuples(st.sampled_from(["push", "discard"]), entries), st.tuples(st.sampled_from(["pop", "clear"])))
)


@given(steps)
def test_it_holds_what_a_sorted_set_would(taken):
    """Against the naive model, after each step: size, membership, smallest."""
    heap, model = LazyHeap(), set()
    for step in taken:
        match step:
            case ("push", entry):
                if entry not in model:
                    heap.push(entry)
                    model.add(entry)
            case ("discard", entry):
                heap.discard(entry)
                model.discard(entry)
            case ("pop",):
                assert heap.pop() == min(model, default=None)
                model -= {min(model, default=None)}
            case ("clear",):
                heap.clear()
                model.clear()
        assert len(heap) == len(model)
        assert heap.first() == min(model, default=None)
        assert [entry in heap for entry in range(10)] == [entry in model for entry in range(10)]


def test_entries_that_are_gone_take_no_room_for_long():
    """Leases that are settled before they end would else pile up for as long as the longest visibility timeout."""
    heap = LazyHeap()
    heap.push(0)
    for entry in range(1, 10_000):
        heap.push(entry)
        heap.discard(entry)
        assert len(heap._heap) <= 2 * len(heap) + GONE_MAX + 1
    assert heap.pop() == 0
