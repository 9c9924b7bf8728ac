-- Version 1: everything.
--
-- A *key* is the number of a queue or shard, shifted left by 40 bits, plus a number that rises by one within it. So one
-- table holds all queues (or shards), each contiguous and in order, on SQLite's own row id: appending and deleting at
-- the ends touch two pages, however long the table is.

-- Queues. `message` is immutable. A message that was never received has no other row: all of a queue from `fresh_key`
-- on, but for the delayed ones, are visible. Others stand in exactly one of `ready` and `hidden`.
CREATE TABLE queue (
  number INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  settings TEXT NOT NULL,               -- QueueSettings as JSON
  next_key INTEGER NOT NULL,            -- of the next message
  fresh_key INTEGER NOT NULL,           -- messages before it were received, or delayed
  visible INTEGER NOT NULL,             -- counters: no query ever counts messages
  ready INTEGER NOT NULL,               -- of the visible ones: those that stand in the table of that name
  hidden INTEGER NOT NULL,              -- received and not settled
  delayed INTEGER NOT NULL              -- not yet received, and hidden
) STRICT;

CREATE TABLE message (
  key INTEGER PRIMARY KEY,
  id TEXT NOT NULL,                     -- before the body, so that a search for it reads no overflow pages
  sent_ms INTEGER NOT NULL,
  is_delayed INTEGER NOT NULL,          -- 1: not visible by its key alone, see above
  message_group TEXT NOT NULL,
  headers BLOB,                         -- msgpack; NULL without any
  body BLOB NOT NULL
) STRICT;

-- Visible again: the visibility timeout or the delay ended, or the message was released.
CREATE TABLE ready (
  key INTEGER PRIMARY KEY,
  receive_count INTEGER NOT NULL,
  first_receive_ms INTEGER NOT NULL,
  visible_ms INTEGER NOT NULL           -- of the last receive: its receipt is good until the next one
) STRICT;

-- Received and not settled, or delayed (receive_count 0).
CREATE TABLE hidden (
  queue INTEGER NOT NULL,
  visible_ms INTEGER NOT NULL,
  key INTEGER NOT NULL,
  receive_count INTEGER NOT NULL,
  first_receive_ms INTEGER NOT NULL,
  PRIMARY KEY (queue, visible_ms, key)
) STRICT, WITHOUT ROWID;

-- Streams.
CREATE TABLE stream (
  number INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  settings TEXT NOT NULL,               -- StreamSettings as JSON
  size_bytes INTEGER NOT NULL           -- of bodies
) STRICT;

CREATE TABLE shard (
  number INTEGER PRIMARY KEY,
  stream INTEGER NOT NULL REFERENCES stream (number),
  shard INTEGER NOT NULL,
  first_key INTEGER NOT NULL,           -- of the oldest record kept
  end_key INTEGER NOT NULL,             -- of the next record
  UNIQUE (stream, shard)
) STRICT;

CREATE TABLE record (
  key INTEGER PRIMARY KEY,              -- its low bits are the position
  arrived_ms INTEGER NOT NULL,
  record_key BLOB,
  headers BLOB,                         -- msgpack; NULL without any
  body BLOB NOT NULL
) STRICT;

CREATE TABLE checkpoint (
  mapping TEXT NOT NULL,
  shard TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  position INTEGER NOT NULL,
  state TEXT NOT NULL,                  -- ShardState, encoded; empty when nothing fails
  PRIMARY KEY (mapping, shard)
) STRICT, WITHOUT ROWID;

-- Outbox. Numbers are never used twice.
CREATE TABLE outbox (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  key TEXT NOT NULL UNIQUE,
  destination TEXT NOT NULL,
  lane TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  due_ms INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  last_error TEXT NOT NULL,
  size_bytes INTEGER NOT NULL,
  attributes BLOB NOT NULL,             -- msgpack
  record_key BLOB,
  payload BLOB NOT NULL
) STRICT;

CREATE INDEX outbox_lane ON outbox (destination, lane, number, due_ms);

CREATE TABLE destination (
  name TEXT PRIMARY KEY,
  rows INTEGER NOT NULL,
  size_bytes INTEGER NOT NULL,
  last_error TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What was written once and must not be written again: keys of the outbox (kept after they were sent), and the
-- idempotency tokens of queues and streams.
CREATE TABLE token (
  scope TEXT NOT NULL,                  -- `queue:NAME`, `stream:NAME`, `outbox`
  token TEXT NOT NULL,
  forget_ms INTEGER NOT NULL,
  PRIMARY KEY (scope, token)
) STRICT, WITHOUT ROWID;

CREATE INDEX token_forget ON token (forget_ms);

-- Failures that are kept.
CREATE TABLE failure (
  number INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  mapping TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  size_bytes INTEGER NOT NULL,
  head TEXT NOT NULL,                   -- Failure as JSON, without its event and records
  event BLOB NOT NULL,
  records BLOB NOT NULL
) STRICT;

CREATE INDEX failure_newest ON failure (created_ms, id);
CREATE INDEX failure_mapping ON failure (mapping, created_ms, id);

-- Totals that would cost a scan.
CREATE TABLE counter (
  name TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE note (
  name TEXT PRIMARY KEY,
  value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
