"""Settings that are each right can be wrong together: each check speaks up for its case, and only then."""
# ruff: noqa: E501 - a case is a row of a table, and is read across

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventcore.config
from eventcore.config.lint import CODES
from eventcore.config.load import load_config
from eventcore.errors import ConfigError

#: A pipeline in which no check finds anything; tables are replaced or added by the cases.
SOUND = {
    "functions.f": 'handler = "a.b"',
    "functions.g": 'handler = "a.c"',
    "mappings.s": """
        source = "stream:s"
        function = "f"
        starting_position = "LATEST"
        maximum_retry_attempts = 2
        on_failure = "queue:dead"
    """,
    "mappings.k": """
        source = "kafka:k/t"
        function = "f"
        starting_position = "LATEST"
        maximum_retry_attempts = 2
        on_failure = "kafka:k/failed"
    """,
    "mappings.q": 'source = "queue:q"\nfunction = "g"',
    "streams.s": "",
    "kafka.k": 'bootstrap_servers = "h:1"',
    "queues.q": 'redrive_policy = { dead_letter_queue = "dead" }',
    "queues.dead": "message_retention_period = 1_209_600",
}


def text_of(tables):
    return "\n".join(f"[{name}]\n{settings}" for name, settings in tables.items() if settings is not None)


def findings_of(path):
    try:
        return load_config(path, environ={}).warnings
    except ConfigError as error:
        return error.mistakes


@pytest.fixture
def lint(tmp_path):
    """Return the mistakes and warnings of the sound pipeline with some tables replaced, taken out (None) or added."""

    def lint(**replaced):
        (tmp_path / "src").mkdir(exist_ok=True)
        tables = SOUND | {name.replace("__", "."): settings for name, settings in replaced.items()}
        path = tmp_path / "eventcore.toml"
        path.write_text(text_of(tables))
        return findings_of(path)

    return lint


def test_the_sound_pipeline_has_no_findings(lint):
    assert lint() == ()


STREAM = 'source = "stream:s"\nfunction = "f"\nstarting_position = "LATEST"\nmaximum_retry_attempts = 2\n'
KAFKA = 'source = "kafka:k/t"\nfunction = "f"\nstarting_position = "LATEST"\n'
QUEUE = 'source = "queue:q"\nfunction = "g"\n'
INLINE = 'handler = "a.b"\nruntime = "inline"\n'
RESERVED = 'handler = "a.b"\nreserved_concurrent_executions = 3'
SERVERS = 'bootstrap_servers = "h:1"\n'
KIP848 = SERVERS + 'client = "librdkafka"\ngroup_protocol = "consumer"\n'
REDRIVE = 'redrive_policy = { dead_letter_queue = "dead" }\n'
FIFO = {
    "queues__q": REDRIVE + "fifo_queue = true",
    "queues__dead": "fifo_queue = true",
    "mappings__s": STREAM + 'on_failure = "stdout"',
}
BUCKET = {"buckets__b": 'folder = "src"'}
S3 = 'endpoint = "https://h"\naccess_key_id = "a"\nsecret_access_key = "b"\n'
AWS_WINDOW = "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10"

#: Tables, code, path, a part of the message, a part of the hint.
CASES = [
    # references
    ({"mappings__q": 'source = "q"\nfunction = "g"'}, "EC101", "mappings.q.source", "not a reference", "`queue:q`?"),
    ({"mappings__q": 'source = "sqs:q"\nfunction = "g"'}, "EC101", "mappings.q.source", "not a reference", "queue:q"),
    ({"mappings__q": 'source = "queue:"\nfunction = "g"'}, "EC101", "mappings.q.source", "names nothing", "queue:NAME"),
    ({"mappings__q": 'source = "queue:q/x"\nfunction = "g"'}, "EC101", "mappings.q.source", "a part", "write queue:q"),
    ({"mappings__k": KAFKA.replace("/t", "")}, "EC101", "mappings.k.source", "names no topic", "kafka:k/TOPIC"),
    ({"mappings__k": KAFKA.replace("/t", "/t*")}, "EC101", "mappings.k.source", "no topic that Kafka allows", "kafka:k/^"),
    ({"mappings__k": KAFKA.replace("/t", "/^(t")}, "EC101", "mappings.k.source", "ends too early", "close"),
    ({"mappings__k": KAFKA.replace("/t", "/^t|u")}, "EC101", "mappings.k.source", "leaves it open", "^(one|other)"),
    ({"mappings__k": KAFKA + 'on_failure = "kafka:k/^f"'}, "EC101", "mappings.k.on_failure", "several topics", "/TOPIC"),
    ({"mappings__k": KAFKA + 'results = "kafka:k/^f"'}, "EC101", "mappings.k.results", "several topics", "/TOPIC"),
    (
        {"mappings__q": 'source = "arn:aws:sqs:us-east-1:000000000000:q"\nfunction = "g"'},
        "EC101", "mappings.q.source", "is an ARN", "`queue:q`?",
    ),
    ({"mappings__q": 'source = "function:f"\nfunction = "g"'}, "EC101", "mappings.q.source", "can't be a source", "queue:"),
    ({"mappings__q": 'source = "stdout"\nfunction = "g"'}, "EC101", "mappings.q.source", "can't be a source", "queue:"),
    ({"mappings__q": 'source = "queue:qq"\nfunction = "g"'}, "EC102", "mappings.q.source", "nothing", "`queue:q`?"),
    ({"mappings__q": 'source = "queue:s"\nfunction = "g"'}, "EC102", "mappings.q.source", "nothing", "`stream:s`?"),
    ({"mappings__q": 'source = "queue:xyz"\nfunction = "g"'}, "EC102", "mappings.q.source", "nothing", "add [queues.xyz]"),
    ({"mappings__k": KAFKA.replace(":k", ":z")}, "EC102", "mappings.k.source", "leads to nothing", "add [kafka.z]"),
    ({"mappings__q": QUEUE.replace('"g"', '"gg"')}, "EC102", "mappings.q.function", "leads to nothing", "`g`?"),
    ({"mappings__s": STREAM + 'on_failure = "queue:dea"'}, "EC102", "mappings.s.on_failure", "nothing", "`queue:dead`?"),
    ({"mappings__s": STREAM + 'on_failure = "function:x"'}, "EC102", "mappings.s.on_failure", "nothing", "[functions.x]"),
    ({"mappings__s": STREAM + 'on_failure = "http:x"'}, "EC102", "mappings.s.on_failure", "nothing", "[http.x]"),
    (
        {"queues__q": 'redrive_policy = { dead_letter_queue = "deaf" }'},
        "EC102", "queues.q.redrive_policy.dead_letter_queue", "leads to nothing", "`dead`?",
    ),
    # what only streams, queues or Kafka have
    ({"mappings__s": 'source = "stream:s"\nfunction = "f"'}, "EC103", "mappings.s.starting_position", "where it begins", "TRIM_HORIZON"),
    ({"mappings__k": 'source = "kafka:k/t"\nfunction = "f"'}, "EC103", "mappings.k.starting_position", "where it begins", "TRIM_HORIZON"),
    ({"mappings__q": QUEUE + 'starting_position = "LATEST"'}, "EC104", "mappings.q.starting_position", "no positions", "take it out"),
    ({"mappings__q": QUEUE + "starting_position_timestamp = 1"}, "EC104", "mappings.q.starting_position_timestamp", "no positions", "take it out"),
    ({"mappings__q": QUEUE + 'on_failure = "queue:dead"'}, "EC104", "mappings.q.on_failure", "redrive policy", "[queues.q] redrive_policy"),
    ({"mappings__q": QUEUE + "maximum_retry_attempts = 1"}, "EC104", "mappings.q.maximum_retry_attempts", "redrive policy", "max_receive_count"),
    ({"mappings__q": QUEUE + "maximum_record_age_in_seconds = 60"}, "EC104", "mappings.q.maximum_record_age_in_seconds", "retention", "message_retention_period"),
    ({"mappings__q": QUEUE + "bisect_batch_on_function_error = false"}, "EC104", "mappings.q.bisect_batch_on_function_error", "not split", "take it out"),
    ({"mappings__s": STREAM + "maximum_concurrency = 2"}, "EC105", "mappings.s.maximum_concurrency", "by its shards", "parallelization_factor or lanes"),
    ({"mappings__k": KAFKA + "maximum_concurrency = 2"}, "EC105", "mappings.k.maximum_concurrency", "by its shards", "write lanes"),
    ({"mappings__s": STREAM + 'consumer_group_id = "x"'}, "EC106", "mappings.s.consumer_group_id", "only Kafka", "take it out"),
    ({"mappings__q": QUEUE + 'consumer_group_id = "x"'}, "EC106", "mappings.q.consumer_group_id", "only Kafka", "take it out"),
    # ranges that depend on others
    ({"mappings__q": QUEUE + "batch_size = 11"}, "EC107", "mappings.q.batch_size", AWS_WINDOW, "in_seconds = 1"),
    ({"mappings__q": QUEUE + "batch_size = 11\nmaximum_batching_window_in_seconds = 0.5"}, "EC107", "mappings.q.batch_size", AWS_WINDOW, "in_seconds = 1"),
    ({"functions__g": 'handler = "a.c"\ntimeout = 31'}, "EC108", "queues.q.visibility_timeout", "30 seconds, less than the 31", "= 186"),
    ({"mappings__q": QUEUE + "maximum_batching_window_in_seconds = 28"}, "EC124", "queues.q.visibility_timeout", "28 seconds of the batching window", "= 46"),
    ({"queues__q": REDRIVE + "visibility_timeout = 0"}, "EC108", "queues.q.visibility_timeout", "0 seconds", "= 18"),
    ({"mappings__s": STREAM + "maximum_record_age_in_seconds = 59"}, "EC109", "mappings.s.maximum_record_age_in_seconds", "59 is neither", "write 60"),
    ({"mappings__s": STREAM + "maximum_record_age_in_seconds = 0"}, "EC109", "mappings.s.maximum_record_age_in_seconds", "0 is neither", "write 60"),
    ({"mappings__s": STREAM.replace("LATEST", "AT_TIMESTAMP")}, "EC110", "mappings.s.starting_position_timestamp", "needs a timestamp", "SECONDS"),
    ({"mappings__s": STREAM + "starting_position_timestamp = 1"}, "EC110", "mappings.s.starting_position_timestamp", "no effect", "AT_TIMESTAMP"),
    (
        {"mappings__k": KAFKA + 'maximum_retry_attempts = 1\non_failure = "stdout"\nmaximum_batching_window_in_seconds = 1.5'},
        "EC111", "mappings.k.maximum_batching_window_in_seconds", "1.5 is not whole seconds", "half a second",
    ),
    # mappings against each other
    (
        {"mappings__l": KAFKA.replace("/t", "/u") + 'maximum_retry_attempts = 1\non_failure = "stdout"\nconsumer_group_id = "eventcore-k"'},
        "EC112", "mappings.l.consumer_group_id", "mappings.k is in this consumer group", "another name",
    ),
    ({"mappings__t": STREAM}, "EC113", "mappings.t.source", 'with source ("stream:s") and function ("f") already exists: mappings.s', "existing mapping"),
    (
        {"kafka__l": SERVERS, "mappings__l": KAFKA.replace(":k", ":l") + 'maximum_retry_attempts = 1\non_failure = "stdout"'},
        "EC113", "mappings.l.source", 'function ("f") already exists: mappings.k', "existing mapping",
    ),
    (
        {"mappings__k": KAFKA + 'maximum_retry_attempts = 1\non_failure = "stdout"\nlanes = 2'},
        "EC154", "mappings.k.parking", "`queue:parked` lies in this state folder", "kafka:k/parked",
    ),
    ({"mappings__q": QUEUE + 'results = "kafka:k/u"'}, "EC104", "mappings.q.results", "only Kafka", "take it out"),
    ({"mappings__q": QUEUE + 'delivery = "exactly_once"'}, "EC104", "mappings.q.delivery", "only Kafka", "take it out"),
    ({"mappings__s": STREAM + 'results = "kafka:k/u"'}, "EC129", "mappings.s.results", "no transactions", "take it out"),
    ({"mappings__s": STREAM + 'delivery = "exactly_once"'}, "EC129", "mappings.s.delivery", "no transactions", "take it out"),
    ({"mappings__k": KAFKA + 'results = "queue:dead"'}, "EC101", "mappings.k.results", "can't be a results", "kafka:"),
    ({"mappings__k": KAFKA + 'results = "kafka:k/t"'}, "EC114", "mappings.k.results", "own source", "another topic"),
    (
        {"kafka__l": SERVERS, "mappings__k": KAFKA + 'results = "kafka:l/u"'},
        "EC129", "mappings.k.results", "no topic of the connection", "kafka:k/TOPIC",
    ),
    ({"mappings__k": KAFKA + 'delivery = "exactly_once"'}, "EC129", "mappings.k.delivery", "no transaction of Kafka", "kafka:k/failed"),
    (
        {"mappings__k": KAFKA + 'delivery = "exactly_once"\non_failure = "stdout"'},
        "EC129", "mappings.k.on_failure", "no topic of the connection", "kafka:k/TOPIC",
    ),
    (
        {"mappings__k": KAFKA + 'delivery = "exactly_once"\non_failure = "kafka:k/u"\nlanes = 2\nparking = "kafka:k/v"'},
        "EC129", "mappings.k.delivery", "lanes settle in another order", "take the lanes out",
    ),
    (
        {
            "kafka__k": SERVERS + 'isolation_level = "read_uncommitted"',
            "mappings__k": KAFKA + 'delivery = "exactly_once"\non_failure = "kafka:k/u"',
        },
        "EC129", "mappings.k.delivery", "may be aborted", "read_committed",
    ),
    (
        {"mappings__q": QUEUE + "filter_criteria = { filters = [{ pattern = { body = [{ nothing = 1 }] } }] }"},
        "EC130", "mappings.q.filter_criteria.filters[0].pattern", "Invalid filter pattern definition. Event pattern is not valid. Reason: Unrecognized match type nothing", '{"body"',
    ),
    (
        {"mappings__k": KAFKA + """filter_criteria = { filters = [{ pattern = '{"value": {"a": []}}' }] }"""},
        "EC130", "mappings.k.filter_criteria.filters[0].pattern", "Empty arrays are not allowed", '{"value"',
    ),
    (
        {"mappings__s": STREAM + """filter_criteria = { filters = [{ pattern = '{"data": ["plain"]}' }] }"""},
        "EC130", "mappings.s.filter_criteria.filters[0].pattern", "Kinesis", '{"data"',
    ),
    (
        {"mappings__s": STREAM + 'idempotency = { key = "order..id" }'},
        "EC147", "mappings.s.idempotency.key", "`order..id` is no path", "$.order.id",
    ),
    ({"mappings__s": STREAM + "idempotency = { key = [] }"}, "EC147", "mappings.s.idempotency.key", "no path to a key", "$.id"),
    (
        {"mappings__s": STREAM + 'idempotency = { key = "id", payload = ["$.a", ""] }'},
        "EC147", "mappings.s.idempotency.payload", "write $ for the whole", "$.order.id",
    ),
    (
        {"mappings__s": STREAM + 'idempotency = { key = "id", in_progress_timeout = 2 }'},
        "EC147", "mappings.s.idempotency.in_progress_timeout", "free after 2 seconds, while its function may run for 3", "write 3 or more",
    ),
    (
        {"mappings__s": STREAM + 'idempotency = { key = "id", maximum_result_bytes = 2 }'},
        "EC147", "mappings.s.idempotency.maximum_result_bytes", "no results to keep", "take it out",
    ),
    ({"mappings__s": STREAM + "idempotency = { require_key = true }"}, "EC147", "mappings.s.idempotency.key", "no path to a key", "key_function"),
    (
        {"mappings__s": STREAM + 'idempotency = { key = "id", key_function = "orders.key_of" }'},
        "EC147", "mappings.s.idempotency.key_function", "here are both", "take out this or `key`",
    ),
    (
        {"mappings__s": STREAM + 'idempotency = { key_function = "orders.py:key_of" }'},
        "EC147", "mappings.s.idempotency.key_function", "`orders.py:key_of` is not module.attribute", "did you mean",
    ),
    (
        {"mappings__s": STREAM + 'idempotency = { key = "id" }\ntumbling_window_in_seconds = 5'},
        "EC147", "mappings.s.idempotency", "processed in another window", "tumbling_window_in_seconds",
    ),
    ({"mappings__s": STREAM + "filter_criteria = { filters = [] }"}, "EC130", "mappings.s.filter_criteria", "no filter in it", "take it out"),
    (
        {"mappings__s": STREAM + "filter_criteria = { filters = [" + "{ pattern = { data = { a = [1] } } }, " * 11 + "] }"},
        "EC130", "mappings.s.filter_criteria", "11 filters are too many: 10", "$or",
    ),
    (
        {"queues__q": REDRIVE + "fifo_queue = true"},
        "EC131", "queues.q.redrive_policy.dead_letter_queue", "this is a FIFO queue, and `dead` is no FIFO queue", "fifo_queue = true",
    ),
    (
        {"queues__dead": "fifo_queue = true\nmessage_retention_period = 1_209_600", "mappings__s": STREAM},
        "EC131", "queues.q.redrive_policy.dead_letter_queue", "this is a standard queue, and `dead` is a FIFO queue", "fifo_queue = false",
    ),
    (
        {"queues__q": 'redrive_policy = { dead_letter_queue = "discards" }\nfifo_queue = true'},
        "EC131", "queues.q.redrive_policy.dead_letter_queue", "`discards` is no FIFO queue", "another queue",
    ),
    ({**FIFO, "mappings__q": QUEUE + "batch_size = 11"}, "EC132", "mappings.q.batch_size", "at most 10", "batch_size = 10"),
    (
        {**FIFO, "mappings__q": QUEUE + "maximum_batching_window_in_seconds = 1"},
        "EC132", "mappings.q.maximum_batching_window_in_seconds", "no batching window", "take it out",
    ),
    ({**FIFO, "mappings__s": STREAM + 'on_failure = "queue:q"'}, "EC133", "mappings.s.on_failure", "only standard queues", "a standard queue"),
    ({**FIFO, "mappings__s": STREAM + 'lanes = 2\nparking = "queue:q"'}, "EC133", "mappings.s.parking", "only standard queues", "a standard queue"),
    ({**FIFO, "queues__q": "fifo_queue = true"}, "EC158", "queues.q.redrive_policy", "comes back", "[queues.failed-q] fifo_queue = true"),
    ({"queues__q": REDRIVE + "content_based_deduplication = true"}, "EC118", "queues.q.content_based_deduplication", "no effect", "fifo_queue = true"),
    ({"queues__q": REDRIVE + 'deduplication_scope = "queue"'}, "EC118", "queues.q.deduplication_scope", "no effect", "fifo_queue = true"),
    ({"mappings__s": STREAM + "lanes = 11"}, "EC128", "mappings.s.lanes", "may have 10 invocations", "[functions.f] concurrency = 11"),
    ({"buckets__b": ""}, "EC134", "buckets.b", "neither a folder nor a connection", 'folder = "./failures"'),
    ({"buckets__b": 'bucket = "abc"'}, "EC134", "buckets.b", "neither a folder nor a connection", 'connection = "s3:NAME"'),
    ({"s3__o": S3, "buckets__b": 'connection = "s3:o"'}, "EC134", "buckets.b.bucket", "what the object store calls it", 'bucket = "failed-orders"'),
    ({"s3__o": S3, "buckets__b": 'folder = "src"\nconnection = "s3:o"'}, "EC134", "buckets.b.connection", "on no object store", "or the folder"),
    ({"buckets__b": 'folder = "src"\nbucket = "abc"'}, "EC134", "buckets.b.bucket", "on no object store", "or the folder"),
    ({"buckets__b": 'folder = "nowhere"'}, "EC123", "buckets.b.folder", "`nowhere`: none is made", "make it"),
    ({"buckets__b": 'connection = "minio"\nbucket = "abc"'}, "EC101", "buckets.b.connection", "`minio` is not a connection", "s3:NAME"),
    ({"buckets__b": 'connection = "kafka:k"\nbucket = "abc"'}, "EC101", "buckets.b.connection", "`kafka:k` is not a connection", "s3:NAME"),
    ({"buckets__b": 'connection = "s3:o"\nbucket = "abc"'}, "EC102", "buckets.b.connection", "no such name in [s3]", "add [s3.o]"),
    ({"s3__store": S3, "buckets__b": 'connection = "s3:stor"\nbucket = "abc"'}, "EC102", "buckets.b.connection", "no such name in [s3]", "did you mean `s3:store`?"),
    ({"s3__o": S3.replace("https://h", "http://h")}, "EC135", "s3.o.endpoint", "not on this machine, and not encrypted", "allow_http = true"),
    ({"s3__o": S3 + "allow_http = true"}, "EC135", "s3.o.allow_http", "is encrypted: this has no effect", "take it out"),
    ({"s3__o": S3.replace("https://h", "http://[::1]:1") + "allow_http = true"}, "EC135", "s3.o.allow_http", "on this machine: this has no effect", "take it out"),
    ({"s3__o": S3.replace("https://h", "https://h/bucket")}, "EC121", "s3.o.endpoint", "no address of an object store", "http://127.0.0.1:9000"),
    ({"s3__o": S3.replace("https://h", "https://h:99999")}, "EC121", "s3.o.endpoint", "no address of an object store", "http://127.0.0.1:9000"),
    ({"s3__o": S3.replace("https://h", "https://[h")}, "EC121", "s3.o.endpoint", "no address of an object store", "http://127.0.0.1:9000"),
    ({"mappings__s": STREAM + 'on_failure = "bucket:b"'}, "EC102", "mappings.s.on_failure", "no such name in [buckets]", "add [buckets.b]"),
    ({**BUCKET, "mappings__s": STREAM.replace("stream:s", "bucket:b")}, "EC101", "mappings.s.source", "what is put into a bucket", "read a queue:"),
    ({**BUCKET, "mappings__s": STREAM + 'lanes = 2\nparking = "bucket:b"'}, "EC101", "mappings.s.parking", "given back in its order", "write a queue:"),
    ({**BUCKET, "mappings__k": KAFKA + 'results = "bucket:b"'}, "EC101", "mappings.k.results", "results go to a topic", "kafka:NAME/TOPIC"),
    ({**BUCKET, "mappings__q": QUEUE + 'on_failure = "bucket:b"'}, "EC104", "mappings.q.on_failure", "", ""),
    ({**BUCKET, "functions__g": 'handler = "a.c"\non_success = "bucket:b"'}, "EC101", "functions.g.on_success", "failures alone", "write a queue:"),
    ({**BUCKET, "functions__g": 'handler = "a.c"\ndead_letter_queue = "bucket:b"'}, "EC102", "functions.g.dead_letter_queue", "no such name in [queues]", ""),
    ({"mappings__q": QUEUE + "tumbling_window_in_seconds = 5"}, "EC104", "mappings.q.tumbling_window_in_seconds", "windows", "take it out"),
    ({"mappings__k": KAFKA + "tumbling_window_in_seconds = 5"}, "EC140", "mappings.k.tumbling_window_in_seconds", "no room for a megabyte", "embedded stream"),
    (
        {"mappings__s": STREAM + "tumbling_window_in_seconds = 5\nlanes = 2"},
        "EC140", "mappings.s.tumbling_window_in_seconds", "one state for its shard", "this or lanes",
    ),
    (
        {"mappings__s": STREAM + "tumbling_window_in_seconds = 5\nparallelization_factor = 2"},
        "EC140", "mappings.s.tumbling_window_in_seconds", "several batches of it run", "this or parallelization_factor",
    ),
    ({"mappings__q": QUEUE + "parallelization_factor = 2"}, "EC104", "mappings.q.parallelization_factor", "no order", "take it out"),
    ({"mappings__k": KAFKA + "parallelization_factor = 4"}, "EC141", "mappings.k.parallelization_factor", "in Lambda neither", "write lanes = 4"),
    (
        {"mappings__s": STREAM + "parallelization_factor = 2\nlanes = 2"},
        "EC141", "mappings.s.parallelization_factor", "both divide", "this or lanes",
    ),
    ({"mappings__k": KAFKA + "parallelization_factor = 1"}, "EC141", "mappings.k.parallelization_factor", "in Lambda neither", "take it out"),
    ({"mappings__q": QUEUE + "maximum_concurrency = 11"}, "EC128", "mappings.q.maximum_concurrency", "g may have 10 inv", "[functions.g] concurrency = 11"),
    (
        {"functions__g": 'handler = "a.c"\nreserved_concurrent_executions = 1', "mappings__q": QUEUE + "maximum_concurrency = 2"},
        "EC128", "mappings.q.maximum_concurrency", "may have 1 inv", "reserved_concurrent_executions = 2, or take it out",
    ),
    (
        {"functions__f": RESERVED, "mappings__s": STREAM + "parallelization_factor = 4"},
        "EC128", "mappings.s.parallelization_factor", "may have 3 inv", "[functions.f] reserved_concurrent_executions = 4",
    ),
    (
        {"functions__f": RESERVED, "mappings__k": KAFKA + "lanes = 4"},
        "EC128", "mappings.k.lanes", "may have 3 inv", "[functions.f] reserved_concurrent_executions = 4",
    ),
    (
        {"functions__f": 'handler = "a.b"\nconcurrency = 3', "mappings__s": STREAM + "parallelization_factor = 4"},
        "EC128", "mappings.s.parallelization_factor", "4 batches of a shard", "[functions.f] concurrency = 4",
    ),
    (
        {"mappings__s": STREAM + 'retry_schedule = { kind = "linear", factor = 2 }'},
        "EC142", "mappings.s.retry_schedule.factor", "has no effect", "exponential",
    ),
    (
        {"mappings__q": QUEUE + 'retry_schedule = { kind = "exponential", seconds = [1] }'},
        "EC142", "mappings.q.retry_schedule.seconds", "has no effect", 'kind = "list"',
    ),
    ({"mappings__s": STREAM + 'retry_schedule = { kind = "list" }'}, "EC142", "mappings.s.retry_schedule.seconds", "not 0", "[1, 10, 60]"),
    (
        {"mappings__s": STREAM + 'retry_schedule = { kind = "list", seconds = [1], maximum = 2 }'},
        "EC142", "mappings.s.retry_schedule.maximum", "no effect on a list", "take it out",
    ),
    (
        {"mappings__s": STREAM + 'retry_schedule = { kind = "exponential", initial = 90 }'},
        "EC142", "mappings.s.retry_schedule.initial", "above the longest of 60", "higher maximum",
    ),
    (
        {"mappings__s": STREAM.replace("= 2", "= 0") + 'retry_schedule = { kind = "linear" }'},
        "EC142", "mappings.s.retry_schedule", "nothing is retried", "maximum_retry_attempts = 1",
    ),
    (
        {"mappings__q": QUEUE + 'retry_exceptions = [{ error_type = "E", maximum_retry_attempts = 0, retry_schedule = { kind = "linear" } }]'},
        "EC142", "mappings.q.retry_exceptions[0].retry_schedule", "is not retried", "maximum_retry_attempts = 1",
    ),
    (
        {"mappings__s": STREAM.replace("= 2", "= 0") + 'retry_exceptions = [{ error_type = "E", retry_schedule = { kind = "linear" } }]'},
        "EC142", "mappings.s.retry_exceptions[0].retry_schedule", "is not retried", "maximum_retry_attempts = 1",
    ),
    (
        {"mappings__s": STREAM + 'retry_exceptions = [{ error_type = "ValueError" }]'},
        "EC142", "mappings.s.retry_exceptions[0].error_type", "says nothing", "give_up = true",
    ),
    (
        {"mappings__q": QUEUE + 'retry_exceptions = [{ error_type = "E", give_up = true, maximum_retry_attempts = 1 }]'},
        "EC142", "mappings.q.retry_exceptions[0].give_up", "no effect", "take out give_up",
    ),
    (
        {"mappings__s": STREAM + 'retry_exceptions = [{ error_type = "E", give_up = true }, { error_type = "E", give_up = true }]'},
        "EC142", "mappings.s.retry_exceptions[1].error_type", "has a rule already", "take out one",
    ),
    (
        {"mappings__q": QUEUE + "circuit_breaker = { failures = 3, pause = 700 }"},
        "EC143", "mappings.q.circuit_breaker.maximum_pause", "above the longest of 600", "maximum_pause = 700",
    ),
    (
        {"mappings__q": QUEUE + 'circuit_breaker = { failures = 3, error_types = ["A", "http.client.HTTPException"] }'},
        "EC143", "mappings.q.circuit_breaker.error_types[1]", "no failure is called `http.client.HTTPException`", "`HTTPException`",
    ),
    (
        {"mappings__s": STREAM + 'retry_exceptions = [{ error_type = "requests.Timeout", give_up = true }]'},
        "EC142", "mappings.s.retry_exceptions[0].error_type", "its class's name alone", "write `Timeout`",
    ),
    ({"mappings__q": QUEUE + "lanes = 2"}, "EC104", "mappings.q.lanes", "no order", "take it out"),
    ({"mappings__q": QUEUE + 'parking = "queue:dead"'}, "EC104", "mappings.q.parking", "no order", "take it out"),
    ({"mappings__s": STREAM + "batch_size = 1\nmaximum_batching_window_in_seconds = 1"}, "EC118", "mappings.s.maximum_batching_window_in_seconds", "full at once", "batch_size = 2"),
    ({"mappings__q": QUEUE + "batch_size = 1\nmaximum_batching_window_in_seconds = 1"}, "EC118", "mappings.q.maximum_batching_window_in_seconds", "full at once", "take it out"),
    ({"mappings__k": KAFKA + "batch_size = 1\nbisect_batch_on_function_error = true"}, "EC118", "mappings.k.bisect_batch_on_function_error", "can't be split", "batch_size = 2"),
    ({"mappings__s": STREAM + 'parking = "queue:dead"'}, "EC118", "mappings.s.parking", "without lanes", "lanes = 10"),
    ({"mappings__s": STREAM + 'lanes = 2\nparking = "stream:s"'}, "EC101", "mappings.s.parking", "can't be a parking", "queue:, kafka:"),
    ({"mappings__k": KAFKA + 'lanes = 2\nparking = "kafka:k/t"'}, "EC114", "mappings.k.parking", "own source", "another place"),
    (
        {"mappings__s": STREAM + 'lanes = 2\nparking = "queue:dead"\non_failure = "queue:dead"'},
        "EC114", "mappings.s.parking", "on_failure as well", "another place",
    ),
    ({"mappings__s": STREAM + 'on_failure = "stream:s"'}, "EC114", "mappings.s.on_failure", "own source", "another destination"),
    (
        {"kafka__l": SERVERS, "mappings__k": KAFKA + 'maximum_retry_attempts = 1\non_failure = "kafka:l/t"'},
        "EC114", "mappings.k.on_failure", "own source", "another destination",
    ),
    (
        {"mappings__k": KAFKA.replace("/t", "/^t") + 'maximum_retry_attempts = 1\non_failure = "kafka:k/t-failed"'},
        "EC114", "mappings.k.on_failure", "own source", "another destination",
    ),
    (
        {"mappings__k": KAFKA.replace("/t", "/^t") + 'lanes = 2\nparking = "kafka:k/t-parked"'},
        "EC114", "mappings.k.parking", "own source", "another place",
    ),
    ({"mappings__k": KAFKA.replace("/t", "/^t") + 'results = "kafka:k/t-done"'}, "EC114", "mappings.k.results", "own source", "another topic"),
    ({"mappings__s": STREAM + 'on_failure = "function:f"'}, "EC115", "mappings.s.on_failure", "own failures", "another destination"),
    # the other tables
    (
        {"queues__q": 'redrive_policy = { dead_letter_queue = "q" }'},
        "EC116", "queues.q.redrive_policy.dead_letter_queue", "circle: q -> q", "no redrive policy",
    ),
    (
        {"queues__q": 'redrive_policy = { dead_letter_queue = "dead" }', "queues__dead": 'message_retention_period = 1_209_600\nredrive_policy = { dead_letter_queue = "q" }'},
        "EC116", "queues.q.redrive_policy.dead_letter_queue", "circle: q -> dead -> q", "no redrive policy",
    ),
    ({"functions__f": 'handler = "a.b"\ntimeout = 841'}, "EC117", "functions.f.timeout", "841 is above 840", "840 or less"),
    ({"functions__f": INLINE + "memory_size = 512"}, "EC118", "functions.f.memory_size", "no effect", "process"),
    ({"functions__f": INLINE + "ephemeral_storage = 512"}, "EC118", "functions.f.ephemeral_storage", "no effect", "process"),
    ({"functions__f": INLINE + 'preload = ["json"]'}, "EC118", "functions.f.preload", "no effect", "process"),
    ({"functions__f": INLINE + 'start = "spawn"'}, "EC118", "functions.f.start", "no effect", "process"),
    ({"functions__f": INLINE + "idle_timeout = 5"}, "EC118", "functions.f.idle_timeout", "no effect", "process"),
    ({"functions__f": INLINE + 'environment = { A = "b" }'}, "EC118", "functions.f.environment", "no effect", "process"),
    ({"functions__f": 'handler = "a.b"\nstart = "spawn"\npreload = ["json"]'}, "EC118", "functions.f.preload", "afresh", "one of the two"),
    ({"kafka__k": SERVERS + "session_timeout_ms = 3000"}, "EC119", "kafka.k.heartbeat_interval_ms", "too late", "= 1000"),
    ({"kafka__k": SERVERS + 'group_protocol = "consumer"'}, "EC119", "kafka.k.group_protocol", "aiokafka speaks the classic", 'client = "librdkafka"'),
    ({"kafka__k": KIP848 + "session_timeout_ms = 45000"}, "EC119", "kafka.k.session_timeout_ms", "the brokers decide", "group.consumer.session.timeout.ms"),
    ({"kafka__k": KIP848 + "heartbeat_interval_ms = 300"}, "EC119", "kafka.k.heartbeat_interval_ms", "the brokers decide", "group.consumer.heartbeat.interval.ms"),
    ({"kafka__k": SERVERS + "fetch_max_bytes = 4096"}, "EC119", "kafka.k.max_partition_fetch_bytes", "4096", "no larger"),
    ({"functions__f": 'handler = "orders"'}, "EC120", "functions.f.handler", "not module.attribute", "`orders.NAME`"),
    ({"functions__f": 'handler = "orders:price"'}, "EC120", "functions.f.handler", "not module.attribute", "`orders.price`?"),
    ({"functions__f": 'handler = "1.2"'}, "EC120", "functions.f.handler", "not module.attribute", "orders.enrich"),
    ({"functions__f": 'handler = "a.b"\npreload = ["json", "a b"]'}, "EC120", "functions.f.preload[1]", "module's name", "numpy"),
    ({"kafka__k": 'bootstrap_servers = "h"'}, "EC121", "kafka.k.bootstrap_servers", "`h` is not host:port", "127.0.0.1:9092"),
    ({"kafka__k": 'bootstrap_servers = "h:1, i:70000"'}, "EC121", "kafka.k.bootstrap_servers", "is not host:port", "127.0.0.1:9092"),
    ({"functions__f": 'handler = "a.b"\nenvironment = { AWS_REGION = "x" }'}, "EC122", "functions.f.environment.AWS_REGION", "set for each", "[settings]"),
    ({"functions__f": 'handler = "a.b"\nenvironment = { AWS_LAMBDA_X = "x" }'}, "EC122", "functions.f.environment.AWS_LAMBDA_X", "set for each", "take it out"),
    ({"functions__f": 'handler = "a.b"\nenvironment = { "A=B" = "x" }'}, "EC122", 'functions.f.environment."A=B"', "letters, digits", "another name"),
    ({"functions__f": 'handler = "a.b"\nenvironment = { A = "x\\u0000" }'}, "EC122", "functions.f.environment.A", "NUL", "without it"),
    ({"functions__f": f'handler = "a.b"\ncode = "{"x" * 5000}"'}, "EC123", "functions.f.code", "no folder `xxx", "relative"),
    ({"functions__f": 'handler = "a.b"\ncode = "lib"'}, "EC123", "functions.f.code", "no folder `lib`", "relative"),
    # warnings
    (
        {"mappings__q": QUEUE + 'filter_criteria = { filters = [{ pattern = { status = ["paid"] } }] }'},
        "EC163", "mappings.q.filter_criteria.filters[0].pattern", "no record of a queue has `status`", '{"body": {"status"',
    ),
    (
        {"mappings__k": KAFKA + 'maximum_retry_attempts = 1\non_failure = "stdout"\n' + """filter_criteria = { filters = [{ pattern = '{"$or": [{"topic": ["t"]}, {"body.a": [1]}]}' }] }"""},
        "EC163", "mappings.k.filter_criteria.filters[0].pattern", "no record of a Kafka topic has `body`", '{"value"',
    ),
    ({"functions__g": 'handler = "a.c"\ntimeout = 6'}, "EC151", "queues.q.visibility_timeout", "six times", "= 36"),
    ({"mappings__q": QUEUE + "maximum_batching_window_in_seconds = 13"}, "EC151", "queues.q.visibility_timeout", "the window", "= 31"),
    ({"mappings__s": STREAM + "circuit_breaker = { failures = 2 }"}, "EC164", "mappings.s.circuit_breaker", "after 2 of its 3 tries", "failures = 3 or more"),
    ({"mappings__s": STREAM.replace("maximum_retry_attempts = 2", "")}, "EC152", "mappings.s.maximum_retry_attempts", "without end", "or -1"),
    ({"mappings__k": KAFKA + 'on_failure = "kafka:k/failed"'}, "EC153", "mappings.k.maximum_retry_attempts", "10 times, as in Lambda (11 inv", "= 10"),
    ({"mappings__k": KAFKA + 'maximum_retry_attempts = -1\non_failure = "kafka:k/failed"'}, "EC153", "mappings.k.maximum_retry_attempts", "10 times", "= 10"),
    ({"mappings__k": KAFKA + 'maximum_retry_attempts = 1\non_failure = "queue:dead"'}, "EC154", "mappings.k.on_failure", "`queue:dead` lies in this state folder", "kafka:k/failed"),
    ({"mappings__k": KAFKA + "maximum_retry_attempts = 1"}, "EC154", "mappings.k.on_failure", "`queue:discards` lies", "kafka:k/failed"),
    ({"mappings__k": KAFKA + 'maximum_retry_attempts = 1\non_failure = "stream:s"'}, "EC154", "mappings.k.on_failure", "`stream:s` lies", "kafka:k/failed"),
    ({"functions__h": 'handler = "a.d"'}, "EC155", "functions.h", "nothing in this pipeline uses `h`", "take it out"),
    ({"queues__x": ""}, "EC156", "queues.x", "nothing in this pipeline uses `x`", "take it out"),
    ({"streams__x": ""}, "EC156", "streams.x", "uses `x`", "take it out"),
    ({"kafka__x": SERVERS}, "EC156", "kafka.x", "uses `x`", "take it out"),
    ({"http__x": 'url = "http://x"'}, "EC156", "http.x", "uses `x`", "take it out"),
    ({"buckets__x": 'folder = "src"'}, "EC156", "buckets.x", "uses `x`", "take it out"),
    ({"s3__x": S3}, "EC156", "s3.x", "uses `x`", "take it out"),
    ({"functions__f": 'handler = "a.b"\nenvironment = { A = "x-${HOME}" }'}, "EC157", "functions.f.environment.A", "`${HOME}` is not", "${env:HOME}"),
    ({"queues__q": ""}, "EC158", "queues.q.redrive_policy", "comes back for 345600", "[queues.failed-q] message_retention_period = 1_209_600"),
    ({"queues__dead": ""}, "EC159", "queues.q.redrive_policy.dead_letter_queue", "no longer than", "[queues.dead] message_retention_period = 1_209_600"),
    ({"kafka__k": SERVERS + "session_timeout_ms = 6000"}, "EC160", "kafka.k.heartbeat_interval_ms", "heartbeats", "= 2000"),
    ({"mappings__s": None, "mappings__k": None, "mappings__q": None}, "EC161", "mappings", "nothing will be read", "add"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("tables", "code", "path", "message", "hint"), CASES, ids=[f"{code}-{path}" for _, code, path, _, _ in CASES]
)
def test_each_case_is_found(lint, tables, code, path, message, hint):
    found = [finding for finding in lint(**tables) if finding.path == path and finding.code == code]
    assert len(found) == 1, [str(finding) for finding in lint(**tables)]
    assert message in found[0].message
    assert hint in found[0].hint
    assert found[0].severity == ("warning" if code > "EC150" else "mistake")
    assert str(found[0]).endswith(f"[{code}, {found[0].aws_code}]" if found[0].aws_code else f"[{code}]")


@pytest.mark.parametrize(
    "tables",
    [
        {"mappings__q": QUEUE + "batch_size = 10"},
        {"mappings__q": QUEUE + "batch_size = 11\nmaximum_batching_window_in_seconds = 1"},
        {"mappings__q": QUEUE + "maximum_batching_window_in_seconds = 12"},
        {"functions__g": 'handler = "a.c"\ntimeout = 5'},
        {"mappings__s": STREAM + "batch_size = 10_000\nmaximum_batching_window_in_seconds = 0.5"},
        {"mappings__s": STREAM + "maximum_record_age_in_seconds = 60"},
        {"mappings__s": STREAM + "maximum_record_age_in_seconds = -1"},
        {"mappings__s": STREAM.replace("= 2", "= -1")},
        {
            "mappings__s": STREAM.replace("= 2", "= 0")
            + 'retry_schedule = { kind = "linear" }\nretry_exceptions = [{ error_type = "E", maximum_retry_attempts = 3 }]'
        },
        {"mappings__s": STREAM.replace("maximum_retry_attempts = 2", "maximum_record_age_in_seconds = 60")},
        {"mappings__s": STREAM.replace("LATEST", "AT_TIMESTAMP") + "starting_position_timestamp = 0"},
        {"mappings__s": STREAM.replace('"f"', '"g"') + 'on_failure = "function:f"'},
        {"mappings__s": STREAM + 'on_failure = "stdout"'},
        {**BUCKET, "mappings__s": STREAM + 'on_failure = "bucket:b"'},
        {**BUCKET, "mappings__k": KAFKA + 'maximum_retry_attempts = 2\non_failure = "bucket:b"'},
        {**BUCKET, "functions__g": 'handler = "a.c"\non_failure = "bucket:b"'},
        {
            "s3__o": S3.replace("https://h", "http://localhost:9000"),
            "buckets__b": 'connection = "s3:o"\nbucket = "abc"',
            "mappings__s": STREAM + 'on_failure = "bucket:b"',
        },
        {
            "s3__o": S3.replace("https://h", "http://h") + "allow_http = true",
            "buckets__b": 'connection = "s3:o"\nbucket = "abc"',
            "mappings__s": STREAM + 'on_failure = "bucket:b"',
        },
        {"mappings__t": STREAM.replace('"f"', '"g"')},
        {"functions__f": 'handler = "a.b"\ntimeout = 840'},
        {"functions__f": 'handler = "pkg/a.b"\ncode = "src"'},
        {"functions__f": INLINE + "timeout = 5\nconcurrency = 1"},
        {"functions__f": RESERVED, "mappings__s": STREAM + "parallelization_factor = 3"},
        {"functions__f": RESERVED.replace("3", "20"), "mappings__s": STREAM + "lanes = 20"},
        {"functions__f": RESERVED.replace("3", "0"), "mappings__s": STREAM + "lanes = 20"},
        {"mappings__q": QUEUE + "maximum_concurrency = 10"},
        {
            "mappings__k": KAFKA
            + 'maximum_retry_attempts = 1\nbatch_size = 1\nmaximum_batching_window_in_seconds = 0\nbisect_batch_on_function_error = false\non_failure = "kafka:k/x"'
        },
        {
            "mappings__s": STREAM
            + 'filter_criteria = { filters = [{ pattern = { partitionKey = ["a"], data = { a = [1] } } }] }'
        },
        {"functions__f": 'handler = "a.b"\nenvironment = { AWS_ACCESS_KEY_ID = "x" }'},
        {"kafka__k": 'bootstrap_servers = "h:1,[::1]:9092, i:65535"'},
        {"kafka__k": SERVERS + "session_timeout_ms = 9000"},
        {"kafka__k": KIP848 + "rebalance_timeout_ms = 9000"},
        {"mappings__s": STREAM + "circuit_breaker = { failures = 3 }"},
        {"mappings__s": STREAM + 'circuit_breaker = { failures = 2, error_types = ["ConnectionError"] }'},
        {"mappings__s": STREAM + "maximum_record_age_in_seconds = 600\ncircuit_breaker = { failures = 2 }"},
        {"mappings__q": QUEUE + "circuit_breaker = { failures = 1 }"},
    ],
    ids=lambda tables: " ".join(str(settings).split()[-3:][0] for settings in tables.values()),
)
def test_what_is_just_right_is_not_complained_of(lint, tables):
    assert [str(finding) for finding in lint(**tables)] == []


def test_the_built_in_queue_can_be_read_and_named(lint):
    found = lint(
        mappings__q='source = "queue:discards"\nfunction = "g"',
        mappings__s=STREAM + 'on_failure = "queue:discards"',
        queues__q=None,
        queues__dead=None,
    )
    assert [finding.code for finding in found] == ["EC158"]


def test_a_longer_circle_is_reported_once(lint):
    found = lint(
        queues__a='redrive_policy = { dead_letter_queue = "b" }',
        queues__b='redrive_policy = { dead_letter_queue = "c" }',
        queues__c='redrive_policy = { dead_letter_queue = "a" }',
        queues__d='redrive_policy = { dead_letter_queue = "a" }',
    )
    assert ["a -> b -> c -> a" in finding.message for finding in found] == [True]


def test_several_mistakes_come_in_the_order_of_the_file(lint):
    found = lint(
        mappings__k=KAFKA + 'on_failure = "kafka:k/t"', functions__f='handler = "x"', kafka__k=SERVERS[:-5] + '"'
    )
    assert [finding.line for finding in found] == sorted(finding.line for finding in found)
    assert len(found) == 3


def test_every_code_has_a_case_and_stands_in_the_readme():
    elsewhere = {"EC125", "EC162", "EC126", "EC127"}  # test_config_handlers.py, test_config_security.py
    assert {code for _, code, _, _, _ in CASES} | elsewhere == set(CODES)
    readme = (Path(eventcore.config.__file__).parent / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (EC\d+) \| (.+?) \|", readme, re.MULTILINE))
    assert rows == dict(CODES)


TABLES = st.fixed_dictionaries(
    {},
    optional={
        name: st.lists(
            st.sampled_from(
                [
                    'source = "queue:q"', 'source = "stream:s"', 'source = "kafka:k/t"', 'source = "kafka:k/^t.*"', 'source = "kafka:k/^("', 'source = ""', "source = 1",
                    'function = "f"', 'function = "x"', 'handler = "a.b"', "handler = []", "timeout = 900",
                    'on_failure = "queue:q"', 'on_failure = "function:f"', "batch_size = 11", "BatchSize = 1",
                    'starting_position = "LATEST"', 'starting_position = "x"', "starting_position_timestamp = 1",
                    "redrive_policy = 1", 'redrive_policy.dead_letter_queue = "q"', 'bootstrap_servers = "a:1"',
                    'bootstrap_servers = ","', "session_timeout_ms = 1000", "visibility_timeout = 0", "shards = 1",
                    'runtime = "inline"', "memory_size = 200", 'environment.X = "${env:NO}"', "consumer_group_id = 'x'",
                ]
            ),
            max_size=5, unique_by=lambda line: re.split(r"[ .]", line)[0],
        )
        for name in ["functions.f", "functions.g", "mappings.a", "mappings.b", "queues.q", "streams.s", "kafka.k", "x.y"]
    },
)  # fmt: skip


@given(TABLES)
def test_whatever_is_written_is_either_accepted_or_explained(tmp_path_factory, tables):
    """Checks never raise; every mistake says what is wrong and stands on a line of the file."""
    text = text_of({name: "\n".join(lines) for name, lines in tables.items()})
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text)
    for mistake in findings_of(path):
        # A table that is missing has no line; everything else has.
        assert mistake.path == "mappings" or 1 <= mistake.line <= text.count("\n") + 1
        assert mistake.message
        assert mistake.path
        assert mistake.hint


def test_what_a_hint_says_to_write_does_not_warn_again(lint):
    (before,) = lint(
        queues__q="",
        queues__dead=None,
        mappings__s=None,
        mappings__k=None,
        streams__s=None,
        kafka__k=None,
        functions__f=None,
    )
    assert before.code == "EC158"
    policy, _, rest = before.hint.removeprefix("write ").partition(", and [queues.failed-q] ")
    after = lint(
        queues__q=policy,
        **{"queues__failed-q": rest},
        queues__dead=None,
        mappings__s=None,
        mappings__k=None,
        streams__s=None,
        kafka__k=None,
        functions__f=None,
    )
    assert after == ()


@pytest.mark.parametrize("setting", ['on_failure = "queue:failed-q"', "maximum_retry_attempts = 2"])
@pytest.mark.parametrize("queue", ["visibility_timeout = 30\n", "fifo_queue = true\n"])
def test_what_a_queue_has_instead_of_a_streams_setting_is_refused_by_no_check(lint, queue, setting):
    """Whatever the type of the queue; one that has a redrive policy is not told to write another."""
    alone = dict.fromkeys(("queues__dead", "mappings__s", "mappings__k", "streams__s", "kafka__k", "functions__f"))
    refused = [found for found in lint(queues__q=queue, mappings__q=QUEUE + setting, **alone) if found.code == "EC104"]
    policy, _, dead = refused[0].hint.removeprefix("write [queues.q] ").partition(", and [queues.failed-q] ")
    redriven = {**alone, "queues__q": queue + policy, "queues__failed-q": dead}
    assert lint(**redriven) == ()
    (again,) = lint(**redriven, mappings__q=QUEUE + setting)
    assert again.hint == "take it out: [queues.q] redrive_policy does, with max_receive_count = 3"


def test_the_beginning_of_a_value_is_enough_to_name_it(lint):
    (found,) = lint(mappings__s=STREAM.replace("LATEST", "TRIM"))
    assert "did you mean `TRIM_HORIZON`?" in str(found)
