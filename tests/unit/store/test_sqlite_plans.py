"""The store stays flat: no statement walks a table that grows with what users send."""

import re
import sqlite3

import pytest

from eventcore.ports import keys
from eventcore.ports import store as port
from eventcore.store.sqlite import checkpoints, failures, outbox, queue_reads, streams
from eventcore.store.sqlite.apply import HANDLERS, Applier
from eventcore.store.sqlite.migrate import load_migrations, migrate
from eventcore.testing.conformance.store_outbox import failure, row

NOW_MS = 1_767_225_600_000
#: May be walked: tables with a row for each thing that somebody has defined, what a statement brings along, and what it
#: has found by itself (that step is looked at too); checkpoints are read as a whole when the file is opened, and so is
#: how many messages of which tenants were passed over.
WALKED = re.compile(
    r"SCAN (aside USING COVERING INDEX|(queue|stream|shard|destination|checkpoint|json_each|list|lanes|start)\b"
    r"|\(subquery|\d+ CONSTANT ROWS)"
)


@pytest.fixture
def statements(tmp_path):
    """Every statement that one operation of each kind, and each read, gives to SQLite; with the open connection."""
    path = tmp_path / "state.db"
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, path, load_migrations())
    seen: dict[str, None] = {}
    connection.set_trace_callback(seen.setdefault)
    applier = Applier(path)
    for operation in operations():
        (outcome,) = applier.apply(connection, [[operation]]).outcomes
        assert isinstance(outcome, list), outcome
    for read in reads():
        read(connection)
    connection.set_trace_callback(None)
    yield connection, [*seen]
    connection.close()


def fifo_operations():
    """Return operations that reach every statement of FIFO queues: the third queue and the fourth."""
    settings = port.QueueSettings(fifo_queue=True, visibility_timeout=1, dead_letter_queue="fd", max_receive_count=1)
    messages = tuple(port.NewMessage(id=name, body=b"x", group="g", deduplication_id=name) for name in "abbc")
    receipt = f"{(3 << 40) + 1}-1-{NOW_MS + 1000}"
    later_ms = NOW_MS + 2000
    return [
        port.DefineQueue(queue="f", settings=settings),
        port.DefineQueue(queue="fd", settings=port.QueueSettings(fifo_queue=True)),
        port.SendMessages(queue="f", messages=messages, now_ms=NOW_MS),
        port.ReceiveMessages(queue="f", count_max=2, now_ms=NOW_MS),
        port.ChangeVisibility(queue="f", receipts=(receipt,), timeout_s=1, now_ms=NOW_MS),
        port.ChangeVisibility(queue="f", receipts=(receipt,), timeout_s=0, now_ms=NOW_MS),
        port.ReceiveMessages(queue="f", count_max=2, now_ms=later_ms),
        port.DeleteMessages(queue="f", receipts=(f"{(3 << 40) + 3}-1-{later_ms + 1000}",), now_ms=later_ms),
        port.MoveMessages(source="fd", target="f", count_max=1, now_ms=later_ms),
        port.DropMessages(queue="f", ids=("a",)),
        port.PurgeQueue(queue="f"),
    ]


def tenant_operations():
    """Return operations that reach every statement of fair queues: the fifth queue."""
    messages = tuple(port.NewMessage(id=str(number), body=b"x", group="g") for number in range(60))
    receipts = tuple(f"{(5 << 40) + number}-1-{NOW_MS + 1000}" for number in range(1, 41))
    later_ms = NOW_MS + 2000
    return [
        port.DefineQueue(queue="t", settings=port.QueueSettings(visibility_timeout=1, message_retention_period=60)),
        port.SendMessages(queue="t", messages=messages, now_ms=NOW_MS),
        port.ReceiveMessages(queue="t", count_max=40, now_ms=NOW_MS),
        port.ReceiveMessages(queue="t", count_max=2, now_ms=NOW_MS),
        port.DeleteMessages(queue="t", receipts=receipts[:2]),
        port.ReceiveMessages(queue="t", count_max=35, now_ms=later_ms),
        port.DeleteMessages(queue="t", receipts=receipts[35:]),
        port.ReceiveMessages(queue="t", count_max=0, now_ms=NOW_MS + 60_000),
        *[port.ReceiveMessages(queue="t", count_max=35, now_ms=later_ms + 1) for _ in range(2)],
        port.DropMessages(queue="t", ids=("1",)),
        port.PurgeQueue(queue="t"),
    ]


def key_operations():
    """Return operations that reach every statement of idempotency keys."""
    own, both = (b"a",), (b"a", b"b")
    completion = keys.Completion(b"a")
    return [
        keys.ClaimKeys(owner="one", keys=own, now_ms=NOW_MS, until_ms=NOW_MS + 1),
        keys.ClaimKeys(owner="two", keys=both, now_ms=NOW_MS, until_ms=NOW_MS + 1, is_ordered=True),
        keys.CompleteKeys(owner="one", completions=(completion,), now_ms=NOW_MS, expires_ms=NOW_MS + 1),
        keys.ReleaseKeys(owner="two", keys=both),
        keys.SweepKeys(now_ms=NOW_MS + 1, count_max=1),
    ]


def operations():
    """Return operations that reach every handler, and every branch of the queues'."""
    receipts = tuple(f"{(1 << 40) + number}-1-{NOW_MS + 1000}" for number in (1, 2))
    messages = tuple(port.NewMessage(id=str(number), body=b"x") for number in range(6))
    delayed = (port.NewMessage(id="late", body=b"x", delay_s=1, idempotency_token="t"),)
    settings = port.QueueSettings(visibility_timeout=1, dead_letter_queue="dead", max_receive_count=2)
    leased, later_ms = port.ReceiveMessages(queue="q", count_max=2, now_ms=NOW_MS), NOW_MS + 1000
    records = (port.NewRecord(shard=0, body=b"x"),)
    return [
        port.DefineQueue(queue="q", settings=settings),
        port.DefineQueue(queue="dead", settings=port.QueueSettings(message_retention_period=60)),
        port.SendMessages(queue="q", messages=messages, now_ms=NOW_MS),
        port.SendMessages(queue="q", messages=delayed, now_ms=NOW_MS),
        leased,
        port.ChangeVisibility(queue="q", receipts=receipts, timeout_s=1, now_ms=NOW_MS),
        port.ReceiveMessages(queue="q", count_max=0, now_ms=later_ms),
        port.ChangeVisibility(queue="q", receipts=receipts[:1], timeout_s=0, now_ms=later_ms),
        port.ChangeVisibility(queue="q", receipts=receipts[1:], timeout_s=1, now_ms=later_ms),
        port.DeleteMessages(queue="q", receipts=receipts),
        *[port.ReceiveMessages(queue="q", count_max=9, now_ms=NOW_MS + 1000 * number) for number in range(1, 5)],
        port.ReceiveMessages(queue="dead", count_max=1, now_ms=NOW_MS),
        port.ChangeVisibility(
            queue="dead", receipts=(f"{(2 << 40) + 1}-1-{NOW_MS + 30_000}",), timeout_s=0, now_ms=NOW_MS
        ),
        port.MoveMessages(source="dead", target="q", count_max=1, now_ms=NOW_MS),
        port.ReceiveMessages(queue="dead", count_max=5, now_ms=NOW_MS + 60_000),
        port.DropMessages(queue="q", ids=("1",)),
        port.PurgeQueue(queue="q"),
        port.DefineStream(stream="s", settings=port.StreamSettings(shards=1)),
        port.AppendRecords(stream="s", records=records, now_ms=NOW_MS),
        port.AppendRecords(stream="s", records=records, now_ms=NOW_MS),
        port.TrimStream(stream="s", before_ms=later_ms, count_max=1),
        port.SplitShard(stream="s", shard=0),
        port.MergeShards(stream="s", shard=1, other=2),
        port.TakeShard(mapping="m", shard="0"),
        port.SaveCheckpoint(mapping="m", shard="0", epoch=1, position=1),
        port.SeekCheckpoint(mapping="m", shard="0", position=0),
        *[port.PutOutbox(row=row(key)) for key in "abc"],
        port.PostponeOutbox(key="a", due_ms=later_ms, error="away"),
        port.MarkSent(keys=("b",), now_ms=NOW_MS),
        *[port.KeepFailure(failure=failure(name)) for name in ("abcdef1", "b", "c")],
        port.SealFailures(ids=("abcdef1",), reason="r"),
        port.DropFailures(ids=("b",)),
        port.TrimFailures(before_ms=0, size_bytes_max=10**6),
        port.PutNote(name="n", value=b"1"),
        *key_operations(),
        *fifo_operations(),
        *tenant_operations(),
    ]


def reads():
    """Return every read."""
    destination = row("a").destination
    return [
        queue_reads.depths,
        lambda connection: queue_reads.peek(connection, "q", count_max=9, after_number=1, now_ms=NOW_MS),
        lambda connection: queue_reads.peek(connection, "dead", count_max=9, after_number=0, now_ms=NOW_MS),
        lambda connection: queue_reads.peek(connection, "f", count_max=9, after_number=0, now_ms=NOW_MS),
        streams.all_settings,
        lambda connection: streams.extents(connection, "s"),
        lambda connection: streams.read(connection, "s", 0, 0, count_max=9, size_bytes_max=9),
        lambda connection: streams.find_position(connection, "s", 0, NOW_MS),
        lambda connection: checkpoints.note(connection, "n"),
        lambda connection: outbox.due(connection, destination, now_ms=NOW_MS, count_max=9),
        lambda connection: outbox.next_ms(connection, destination),
        outbox.depths,
        lambda connection: failures.newest(connection, mapping=None, count_max=9, before_id="c"),
        lambda connection: failures.newest(connection, mapping="m", count_max=9, before_id="c"),
        lambda connection: failures.find(connection, "abcdef"),
    ]


def test_every_operation_is_looked_at():
    """An operation that is added needs its place in the list above."""
    assert {type(operation) for operation in operations()} == set(HANDLERS)


def test_no_statement_walks_a_large_table(statements):
    """By SQLite's own plans. A list of failures walks its index, newest first, as far as its page goes."""
    connection, seen = statements
    walks = []
    for sql in seen:
        if sql.split()[0] not in {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"}:
            continue
        for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {sql}"):
            is_walk = step.startswith("SCAN") and not WALKED.match(step)
            is_ordered_list = "USING INDEX failure_newest" in step
            if (is_walk and not is_ordered_list) or "USE TEMP B-TREE" in step:
                walks.append((sql, step))
    assert walks == []
