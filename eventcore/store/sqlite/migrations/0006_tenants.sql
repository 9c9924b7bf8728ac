-- Version 6: fair queues.

-- Visible messages that receives have passed over, as their message group has too many in flight. They count as `ready`
-- in their queue's row, and stand in no other table.
CREATE TABLE aside (
  first_key INTEGER PRIMARY KEY,
  end_key INTEGER NOT NULL,
  receive_count INTEGER NOT NULL,
  first_receive_ms INTEGER NOT NULL,
  visible_ms INTEGER NOT NULL,          -- of the last receive: its receipts are good until the next one
  queue INTEGER NOT NULL,
  message_group TEXT NOT NULL
) STRICT;

CREATE INDEX aside_line ON aside (queue, message_group, first_key, end_key);
