"""Shipped to users: pipelines in virtual time, the pytest plugin, and the conformance kits.

The public names are resolved when they are first used (PEP 562): pytest loads the plugin of this package in every run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventcore.testing.faults import Fate, Faults
    from eventcore.testing.harness import open_harness
    from eventcore.testing.pytest_plugin import OpenPipeline
    from eventcore.testing.recording import Delivered, Discarded, Invoked, Retried, Settled
    from eventcore.testing.scripted import Scripted
    from eventcore.testing.virtual_loop import run_virtual
    from eventcore.testing.virtual_pipeline import VirtualPipeline, open_pipeline

#: Public name: the module that defines it.
_PUBLIC = {
    "Delivered": "eventcore.testing.recording",
    "Discarded": "eventcore.testing.recording",
    "Fate": "eventcore.testing.faults",
    "Faults": "eventcore.testing.faults",
    "Invoked": "eventcore.testing.recording",
    "OpenPipeline": "eventcore.testing.pytest_plugin",
    "Retried": "eventcore.testing.recording",
    "Scripted": "eventcore.testing.scripted",
    "Settled": "eventcore.testing.recording",
    "VirtualPipeline": "eventcore.testing.virtual_pipeline",
    "open_harness": "eventcore.testing.harness",
    "open_pipeline": "eventcore.testing.virtual_pipeline",
    "run_virtual": "eventcore.testing.virtual_loop",
}

__all__ = [
    "Delivered",
    "Discarded",
    "Fate",
    "Faults",
    "Invoked",
    "OpenPipeline",
    "Retried",
    "Scripted",
    "Settled",
    "VirtualPipeline",
    "open_harness",
    "open_pipeline",
    "run_virtual",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
