"""A member of a consumer group on librdkafka (the extra `librdkafka`), for `client = "librdkafka"`."""
