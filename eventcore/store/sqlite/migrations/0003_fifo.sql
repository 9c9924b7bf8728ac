-- Version 3: FIFO queues. A row a message: each belongs to a group, and is worked on in its order.

-- Groups that have messages. `head_key` says which group may be asked, and for what: no query looks through a group.
CREATE TABLE fifo_group (
  number INTEGER PRIMARY KEY,
  queue INTEGER NOT NULL,
  name TEXT NOT NULL,
  depth INTEGER NOT NULL,               -- its messages
  in_flight INTEGER NOT NULL,           -- of them, received and not settled: while there is one, no other is handed out
  head_key INTEGER,                     -- of the message that is handed out next; NULL while none may be
  UNIQUE (queue, name)
) STRICT;

CREATE INDEX fifo_group_head ON fifo_group (queue, head_key) WHERE head_key IS NOT NULL;

-- What was sent, immutable.
CREATE TABLE fifo_message (
  key INTEGER PRIMARY KEY,
  id TEXT NOT NULL,                     -- before the body, so that a search for it reads no overflow pages
  sent_ms INTEGER NOT NULL,
  message_group TEXT NOT NULL,
  deduplication_id TEXT NOT NULL,
  headers BLOB,                         -- msgpack; NULL without any
  body BLOB NOT NULL
) STRICT;

-- What happened to it.
CREATE TABLE fifo_place (
  key INTEGER PRIMARY KEY,
  queue INTEGER NOT NULL,
  group_number INTEGER NOT NULL,
  place INTEGER NOT NULL,               -- 0: it waits, 1: received and not settled, 2: delayed
  arrived_ms INTEGER NOT NULL,          -- in this queue: retention counts from there
  visible_ms INTEGER NOT NULL,          -- when its last receive or its delay ends
  receive_count INTEGER NOT NULL,
  first_receive_ms INTEGER NOT NULL
) STRICT;

-- Both end with the key, as every index does.
CREATE INDEX fifo_place_line ON fifo_place (group_number);
CREATE INDEX fifo_place_hidden ON fifo_place (queue, visible_ms) WHERE place > 0;

-- Which messages were sent lately.
CREATE TABLE fifo_deduplication (
  queue INTEGER NOT NULL,
  scope TEXT NOT NULL,                  -- the message group, or empty for the whole queue
  deduplication_id TEXT NOT NULL,
  id TEXT NOT NULL,                     -- of the message that was sent
  forget_ms INTEGER NOT NULL,
  PRIMARY KEY (queue, scope, deduplication_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX fifo_deduplication_forget ON fifo_deduplication (forget_ms);
