"""Tracing is set by OpenTelemetry's own variables; what is wrong or not supported is an error, all of it at once."""

from __future__ import annotations

import pytest

from eventcore.errors import ConfigError
from eventcore.telemetry.settings import EXPORTERS, SAMPLERS, TraceSettings, read_trace_settings


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SERVICE_NAME": "orders"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_TRACES_EXPORTER": ""},
        {"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "TRUE"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"},
        {"OTEL_TRACES_SAMPLER": "always_on"},
    ],
)
def test_tracing_is_off(environ: dict[str, str]) -> None:
    assert read_trace_settings(environ) is None


def test_an_exporter_switches_it_on() -> None:
    assert read_trace_settings({"OTEL_TRACES_EXPORTER": "console"}) == TraceSettings(exporters=("console",))
    assert read_trace_settings({"OTEL_TRACES_EXPORTER": " Console , otlp,console"}) == TraceSettings(
        exporters=("console", "otlp")
    )
    # Any other value of the switch is false (specification, "Boolean value").
    assert read_trace_settings({"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "1"}) is not None


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, "http://collector:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"}, "http://collector:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector/in"}, "http://collector/in"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/in"},
            "http://b/in",
        ),
    ],
)
def test_an_endpoint_switches_it_on_too(environ: dict[str, str], endpoint: str) -> None:
    assert read_trace_settings(environ) == TraceSettings(exporters=("otlp",), otlp_endpoint=endpoint)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(sampler: str) -> None:
    environ = {
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_TRACES_SAMPLER": sampler,
        "OTEL_TRACES_SAMPLER_ARG": "0.25",
    }
    settings = read_trace_settings(environ)
    assert settings is not None
    # The argument means something to the samplers of a ratio alone.
    assert (settings.sampler, settings.sampler_ratio) == (sampler, 0.25 if sampler.endswith("ratio") else 1.0)


@pytest.mark.parametrize(
    ("propagators", "has_context"), [("", True), ("tracecontext,baggage", True), ("baggage", False), ("none", False)]
)
def test_propagators(propagators: str, has_context: bool) -> None:
    settings = read_trace_settings({"OTEL_TRACES_EXPORTER": "console", "OTEL_PROPAGATORS": propagators})
    assert settings is not None
    assert settings.has_context is has_context


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "otlp,zipkin"),
        ("OTEL_TRACES_EXPORTER", "jaeger"),
        ("OTEL_TRACES_SAMPLER", "xray"),
        ("OTEL_PROPAGATORS", "tracecontext,b3"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
    ],
)
def test_what_is_not_supported_is_refused_with_what_is(variable: str, value: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_trace_settings({"OTEL_TRACES_EXPORTER": "otlp", variable: value})
    (mistake,) = raised.value.mistakes
    assert mistake.path == variable
    assert value.rpartition(",")[2] in mistake.message
    assert mistake.hint.startswith("write one of ")


@pytest.mark.parametrize("ratio", ["a", "-0.1", "1.1", "nan"])
def test_a_ratio_is_a_share(ratio: str) -> None:
    environ = {
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_TRACES_SAMPLER": "traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": ratio,
    }
    with pytest.raises(ConfigError, match="OTEL_TRACES_SAMPLER_ARG"):
        read_trace_settings(environ)


def test_all_mistakes_are_told_at_once() -> None:
    environ = {"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_TRACES_SAMPLER": "x", "OTEL_PROPAGATORS": "b3"}
    with pytest.raises(ConfigError) as raised:
        read_trace_settings(environ)
    assert [mistake.path for mistake in raised.value.mistakes] == list(environ)


def test_the_protocol_of_an_exporter_that_is_not_used_does_not_matter() -> None:
    assert read_trace_settings({"OTEL_TRACES_EXPORTER": EXPORTERS[0], "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
