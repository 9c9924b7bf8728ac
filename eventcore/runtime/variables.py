"""The environment variables that a handler sees. Source: Lambda semantics §7.3.

Of the engine's own environment only what a program needs to run at all passes on: the engine's secrets are not the
functions'. AWS credentials, too, must be given to a function by name (`environment = { ... }`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from eventcore.ports.runtime import FunctionSpec
from eventcore.runtime.context import Serving
from eventcore.runtime.identity import code_folder

#: Passed on from the engine's environment as they are; besides these everything that starts with `PASSED_PREFIXES`.
PASSED = frozenset({"PATH", "HOME", "LANG", "PYTHONPATH", "VIRTUAL_ENV"})
PASSED_PREFIXES = ("LC_", "SSL_CERT_")
#: Names a program that starts the function's interpreter, given its command line.
WRAPPER = "AWS_LAMBDA_EXEC_WRAPPER"


def pass_on(engine: Mapping[str, str]) -> dict[str, str]:
    """Return what of the engine's environment zygotes and environments get."""
    return {name: value for name, value in engine.items() if name in PASSED or name.startswith(PASSED_PREFIXES)}


def function_variables(
    function: FunctionSpec, serving: Serving, temporary: Path, engine: Mapping[str, str]
) -> dict[str, str]:
    """Return all environment variables of a function's environment; the user's own come last and win."""
    return {
        "LANG": "en_US.UTF-8",
        **pass_on(engine),
        "_HANDLER": function.handler,
        "AWS_DEFAULT_REGION": _region_of(function.arn),
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info.major}.{sys.version_info.minor}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_size_mb),
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": function.version,
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": serving.log_group,
        "AWS_LAMBDA_LOG_STREAM_NAME": serving.log_stream,
        "AWS_REGION": _region_of(function.arn),
        "LAMBDA_RUNTIME_DIR": str(Path(__file__).parent),
        # The folder that the code really is in: a fixed /var/task would be a lie that programs act on.
        "LAMBDA_TASK_ROOT": code_folder(function),
        "TMPDIR": str(temporary),
        "TZ": ":UTC",
        **function.environment,
    }


def _region_of(arn: str) -> str:
    parts = arn.split(":")
    return parts[3] if len(parts) > 3 else "us-east-1"


def xray_header(traceparent: str) -> str:
    """Return a W3C ``traceparent`` in the form of `_X_AMZN_TRACE_ID`; empty when it is none."""
    parts = traceparent.split("-")
    if len(parts) < 4 or len(parts[1]) != 32:
        return ""
    _, trace, span, flags = parts[:4]
    return f"Root=1-{trace[:8]}-{trace[8:]};Parent={span};Sampled={1 if flags.endswith('1') else 0}"
