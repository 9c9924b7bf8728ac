"""A Kafka broker on this machine: what `eventcore up kafka` and the tests start."""
