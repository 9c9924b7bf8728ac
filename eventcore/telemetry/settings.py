"""How tracing is set: OpenTelemetry's own environment variables, read once and checked.

Tracing is on when an exporter is named or an OTLP endpoint is given, and off otherwise: the specification's default
(export to localhost) would make every first run complain. What is set and not supported is an error, never ignored.
Source: OpenTelemetry specification, "Environment Variable Specification".
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from eventcore.errors import ConfigError, Mistake

EXPORTERS = ("console", "otlp")
SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
PROPAGATOR = "tracecontext"
#: `baggage` is harmless beside it: there is none to pass on.
PROPAGATORS = (PROPAGATOR, "baggage", "none")
OTLP_PROTOCOL = "http/protobuf"
_OTLP_PATH = "/v1/traces"


class TraceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the environment says of tracing, when it is on."""

    exporters: tuple[str, ...]  #: of `EXPORTERS`
    otlp_endpoint: str = ""  #: the full URL; empty for the exporter's own default
    sampler: str = "parentbased_always_on"  #: of `SAMPLERS`
    sampler_ratio: float = 1.0  #: for the samplers of a ratio, 0-1
    service_name: str = ""  #: empty when not set
    has_context: bool = True  #: trace context is read from and handed on in record headers


def read_trace_settings(environ: Mapping[str, str]) -> TraceSettings | None:
    """Return the settings of tracing; None when it is off.

    Raises:
        ConfigError: variables have values that are wrong or not supported; all of them at once.
    """
    # An empty value means "not set" throughout (specification, "Parsing empty value").
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    reader = _Reader(environ)
    endpoint = _endpoint(environ)
    exporters = reader.names("OTEL_TRACES_EXPORTER", (*EXPORTERS, "none"), default="otlp" if endpoint else "none")
    if set(exporters) <= {"none"} and not reader.mistakes:
        return None
    if "otlp" in exporters:
        for variable in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
            reader.names(variable, (OTLP_PROTOCOL,), default=OTLP_PROTOCOL)
    sampler = reader.names("OTEL_TRACES_SAMPLER", SAMPLERS, default="parentbased_always_on", is_list=False)
    propagators = reader.names("OTEL_PROPAGATORS", PROPAGATORS, default=PROPAGATOR)
    ratio = reader.ratio("OTEL_TRACES_SAMPLER_ARG") if sampler and sampler[0].endswith("ratio") else 1.0
    if reader.mistakes:
        raise ConfigError(reader.mistakes)
    return TraceSettings(
        exporters=tuple(exporter for exporter in exporters if exporter != "none"),
        otlp_endpoint=endpoint,
        sampler=sampler[0],
        sampler_ratio=ratio,
        service_name=environ.get("OTEL_SERVICE_NAME", "").strip(),
        has_context=PROPAGATOR in propagators,
    )


def _endpoint(environ: Mapping[str, str]) -> str:
    """Return the URL for spans: given as it is, or that of all signals with their path."""
    of_spans = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()
    of_all = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    return of_spans or (of_all.rstrip("/") + _OTLP_PATH if of_all else "")


class _Reader:
    """Reads variables and collects what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.mistakes: list[Mistake] = []

    def names(self, variable: str, known: tuple[str, ...], *, default: str, is_list: bool = True) -> tuple[str, ...]:
        """Return the names that a variable holds, each of ``known``."""
        text = self._environ.get(variable, "").strip() or default
        names = [name.strip().lower() for name in (text.split(",") if is_list else [text])]
        names = [name for name in dict.fromkeys(names) if name]
        unknown = [name for name in names if name not in known]
        if unknown:
            self._add(variable, f"`{unknown[0]}` is not supported", f"write one of {', '.join(known)}")
        return tuple(name for name in names if name in known)

    def ratio(self, variable: str) -> float:
        """Return a number from 0 to 1; 1 without one."""
        text = self._environ.get(variable, "").strip()
        try:
            ratio = float(text or 1)
        except ValueError:
            ratio = -1.0
        if not 0 <= ratio <= 1:
            self._add(variable, f"`{text}` is not a share", "write a number from 0 to 1, as 0.1")
        return ratio

    def _add(self, variable: str, message: str, hint: str) -> None:
        self.mistakes.append(Mistake(path=variable, message=message, hint=hint))
