"""Which environment belongs to which function, and what it is called in the function's logs."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from eventcore.clock import Clock
from eventcore.ids import IdFactory
from eventcore.ports.runtime import FunctionSpec
from eventcore.runtime.context import Serving


def is_same_configuration(kept: FunctionSpec, asked: FunctionSpec) -> bool:
    """Tell whether what was started for one spec may serve another.

    The ARN is the caller's, qualified or not as it was invoked; everything else is the function's, and a change of it
    resets environments and their folders (Lambda semantics §7.1).
    """
    return kept is asked or kept == msgspec.structs.replace(asked, arn=kept.arn)


def code_folder(function: FunctionSpec) -> str:
    """Return the folder of a function's code as it stands on the module search path and in tracebacks."""
    return str(function.code.absolute())  # not resolved: modules below a link are named by the link


def name_environment(function: FunctionSpec, clock: Clock, ids: IdFactory) -> Serving:
    """Return what an environment that begins now tells its handler about itself. Source: Lambda semantics §7.4."""
    day = datetime.fromtimestamp(clock.now_ms() / 1000, tz=UTC)
    return Serving(
        function=function.name,
        version=function.version,
        memory_size_mb=function.memory_size_mb,
        log_group=f"/aws/lambda/{function.name}",
        log_stream=f"{day:%Y/%m/%d}/[{function.version}]{ids.random_bits(128):032x}",
    )
