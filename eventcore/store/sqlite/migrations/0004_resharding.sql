-- Version 4: shards that were split or merged.
--
-- JSON: first and last hash key, numbers of parents and children; empty for a shard that the stream was made with and
-- that was never split or merged.
ALTER TABLE shard ADD COLUMN lineage TEXT NOT NULL DEFAULT '';
