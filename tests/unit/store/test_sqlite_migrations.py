"""State files of earlier versions: what they hold is what is found afterwards."""

import sqlite3

from eventcore.ports.store import (
    DeleteMessages,
    QueueSettings,
    ReceiveMessages,
    StoredMessage,
)
from eventcore.store.rules import first_key, write_receipt
from eventcore.store.sqlite import open_sqlite_store
from eventcore.store.sqlite.codec import encode_headers, encode_settings
from eventcore.store.sqlite.migrate import load_migrations, migrate

NOW_MS = 1_767_225_600_000
HEADERS = (("h", b"\x00\xff"),)
#: In version 1: number, id, whether delayed, headers, body.
SENT = [
    (1, "ready", 0, HEADERS, b"\x00a"),
    (2, "hidden", 0, (), b""),
    (4, "delayed", 1, (), b"later"),
    (5, "fresh", 0, HEADERS, b"\xff"),
    (6, 'fr"ésh', 0, (), b"x"),
]


def write_version_1(path):
    """Write a queue as version 1 had it: a row a message; number 3 is settled."""
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, path, load_migrations()[:1])
    low = first_key(1)
    settings = encode_settings(QueueSettings(visibility_timeout=30))
    connection.execute("INSERT INTO queue VALUES (1, 'q', ?, ?, ?, 3, 1, 1, 1)", (settings, low + 7, low + 4))
    connection.executemany(
        "INSERT INTO message VALUES (?, ?, ?, ?, 'g', ?, ?)",
        [
            (low + number, name, NOW_MS + number, is_delayed, encode_headers(headers), body)
            for number, name, is_delayed, headers, body in SENT
        ],
    )
    connection.execute("INSERT INTO ready VALUES (?, 2, ?, ?)", (low + 1, NOW_MS + 10, NOW_MS + 20))
    connection.execute("INSERT INTO hidden VALUES (1, ?, ?, 1, ?)", (NOW_MS + 30_000, low + 2, NOW_MS + 11))
    connection.execute("INSERT INTO hidden VALUES (1, ?, ?, 0, 0)", (NOW_MS + 60_000, low + 4))
    connection.close()


def stored(number: int, *, count: int = 0, first_ms: int = 0, visible_ms: int = 0) -> StoredMessage:
    name, headers, body = next((row[1], row[3], row[4]) for row in SENT if row[0] == number)
    return StoredMessage(
        number=number,
        id=name,
        body=body,
        headers=headers,
        group="g",
        sent_ms=NOW_MS + number,
        receive_count=count,
        first_receive_ms=first_ms,
        visible_ms=visible_ms,
    )


async def test_messages_of_version_1_are_where_they_were(tmp_path):
    """Their ids, counts, receipts and times stay; what was settled does not come back."""
    path = tmp_path / "state.db"
    write_version_1(path)
    async with open_sqlite_store(path) as store:
        assert await store.peek("q", count_max=9, now_ms=NOW_MS + 100) == [
            stored(1, count=2, first_ms=NOW_MS + 10),
            stored(2, count=1, first_ms=NOW_MS + 11, visible_ms=NOW_MS + 30_000),
            stored(4, visible_ms=NOW_MS + 60_000),
            stored(5),
            stored(6),
        ]
        receive = ReceiveMessages(queue="q", count_max=9, now_ms=NOW_MS + 100)
        (received,) = await store.commit([receive])
        assert [(message.id, message.receive_count) for message in received.messages] == [
            ("ready", 3),
            ("fresh", 1),
            ('fr"ésh', 1),
        ]
        of_version_1 = write_receipt(first_key(1) + 2, 1, NOW_MS + 30_000)
        receipts = (of_version_1, *[message.receipt for message in received.messages])
        assert await store.commit([DeleteMessages(queue="q", receipts=receipts)]) == [[]]
        (depth,) = await store.queue_depths()
        assert (depth.visible, depth.hidden, depth.delayed) == (0, 0, 1)
        assert [message.id for message in await store.peek("q", count_max=9, now_ms=NOW_MS)] == ["delayed"]
