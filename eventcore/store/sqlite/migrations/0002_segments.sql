-- Version 2: messages that were sent together stand in one row, and what happened to many of them alike in another.
--
-- A row a message costs the most of a send, and of a receive and a delete again. Ranges hold the keys from `first_key`
-- to the one before `end_key`.

-- Messages that were sent together, immutable; deleted when none of them is left. `fresh_key` as before: all of a queue
-- from there on is visible, but for the delayed segments.
CREATE TABLE segment (
  first_key INTEGER PRIMARY KEY,
  end_key INTEGER NOT NULL,
  is_delayed INTEGER NOT NULL,          -- 1: not visible by their keys alone
  heads BLOB NOT NULL,                  -- JSON, a message each: id, time sent, group, bytes of headers and of body
  contents BLOB NOT NULL                -- of each message its headers as msgpack, none without any, and its body
) STRICT;

INSERT INTO segment
SELECT key, key + 1, is_delayed,
  CAST(json_array(json_array(id, sent_ms, message_group, coalesce(length(headers), 0), length(body))) AS BLOB),
  CAST(coalesce(headers, x'') || body AS BLOB)
FROM message;

DROP TABLE message;

-- Visible again: the visibility timeout or the delay ended, or they were released.
ALTER TABLE ready RENAME TO ready_1;

CREATE TABLE ready (
  first_key INTEGER PRIMARY KEY,
  end_key INTEGER NOT NULL,
  receive_count INTEGER NOT NULL,
  first_receive_ms INTEGER NOT NULL,
  visible_ms INTEGER NOT NULL           -- of the last receive: its receipts are good until the next one
) STRICT;

INSERT INTO ready SELECT key, key + 1, receive_count, first_receive_ms, visible_ms FROM ready_1;

DROP TABLE ready_1;

-- Received and not settled, or delayed (receive_count 0).
ALTER TABLE hidden RENAME TO hidden_1;

CREATE TABLE hidden (
  queue INTEGER NOT NULL,
  visible_ms INTEGER NOT NULL,
  first_key INTEGER NOT NULL,
  end_key INTEGER NOT NULL,
  receive_count INTEGER NOT NULL,
  first_receive_ms INTEGER NOT NULL,
  PRIMARY KEY (queue, visible_ms, first_key)
) STRICT, WITHOUT ROWID;

INSERT INTO hidden SELECT queue, visible_ms, key, key + 1, receive_count, first_receive_ms FROM hidden_1;

DROP TABLE hidden_1;

CREATE UNIQUE INDEX hidden_key ON hidden (first_key);
