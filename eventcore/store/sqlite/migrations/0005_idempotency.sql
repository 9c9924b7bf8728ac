-- Version 5: idempotency keys of records.

CREATE TABLE idempotency_key (
  key BLOB PRIMARY KEY,
  owner TEXT NOT NULL,                  -- of the invocation that works on it; empty once it is completed
  expires_ms INTEGER NOT NULL,          -- end of the claim, or of what is remembered
  payload BLOB NOT NULL,                -- hash of what must be the same when the key comes again
  result BLOB NOT NULL                  -- what was sent on
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_key_end ON idempotency_key (expires_ms);
