"""Lambda's context object. Source: Lambda semantics §7.4."""

from eventcore.runtime.context import LambdaContext, Serving

SERVING = Serving(function="f", version="7", memory_size_mb=128, log_group="g", log_stream="s")


def test_counts_the_remaining_time_down_and_never_below_zero():
    now = 100.0
    context = LambdaContext(SERVING, request_id="r", arn="arn", deadline=103.0, now=lambda: now)
    assert context.get_remaining_time_in_millis() == 3000
    now = 102.5
    assert context.get_remaining_time_in_millis() == 500
    now = 110.0
    assert context.get_remaining_time_in_millis() == 0


def test_tells_the_memory_as_text():
    context = LambdaContext(SERVING, request_id="r", arn="arn", deadline=1.0, now=lambda: 0.0)
    assert context.memory_limit_in_mb == "128"
    assert repr(context) == "LambdaContext(f, aws_request_id='r')"
