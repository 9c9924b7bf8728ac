"""Event pipelines with AWS Lambda's delivery semantics, without the cloud.

The public names are resolved when they are first used (PEP 562): a function's environment and ``--version`` must not
pay for the engine's imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from eventcore.app import App
    from eventcore.config.load import load_config
    from eventcore.errors import ConfigError, EventcoreError
    from eventcore.model import Batch, OutgoingRecord, Record

#: Public name: the module that defines it.
_PUBLIC = {
    "App": "eventcore.app",
    "Batch": "eventcore.model",
    "ConfigError": "eventcore.errors",
    "EventcoreError": "eventcore.errors",
    "OutgoingRecord": "eventcore.model",
    "Record": "eventcore.model",
    "load_config": "eventcore.config.load",
}

__all__ = ["App", "Batch", "ConfigError", "EventcoreError", "OutgoingRecord", "Record", "__version__", "load_config"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
